"""However a sweep file is mangled: a sweep that expands, or an error that names the file."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.config.expand import expand, split_into_blocks
from emobench.config.load import load_sweep
from emobench.config.templates import find_shipped_sweeps
from emobench.core.errors import InvalidInput

FULL = """\
name: full
description: every key
cluster: lab
engine: vllm
matrix:
  env: [retail, airline]
  agent_strategy: [tool-calling, few-shot]
  variant: [control, mine]
  assistant: [a, b]
trials: 3
tasks: {retail: "0-4,7", airline: [0, 3]}
exclude: [{env: retail, trial: [1, 2]}]
include: [{variant: placebo, trial: 1}]
seed: 1
user: {engine: openai, model: gpt-4o, base_url: "http://host/v1", temperature: 0.5}
user_strategy: verify
assistants:
  a: {model: x/y, tool_call_parser: hermes, extra_args: [--seed, "1"]}
  b: {engine: scripted, mistakes: {control: 0.1}, faults: {hang: 0.1}}
variants: {mine: {text: Be kind., version: "2"}}
few_shot_displays: {retail: full.yaml, airline: full.yaml}
max_steps: 20
concurrency: 4
throttle: 2
"""
SHIPPED = [file.read_text("utf-8") for file in sorted(find_shipped_sweeps().glob("*.yaml"))]
# A file that one of them names does not come along; the sweep file itself has to do.
TEXTS = [FULL, *(text.replace("chat_templates/hermes.jinja", "full.yaml") for text in SHIPPED)]
TREES = [yaml.safe_load(text) for text in TEXTS]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2000),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["all", "0-3", "control", "retail", "few-shot", "../../x", "a", "human", "x.yaml", "\n"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)
ACTIONS = ["drop", "double", "retype", "reorder", "nest", "rename", "move"]
JUNK = [b"\x00", b"\xff", b"\t", b"\n", b": ", b"- ", b"{", b"[", b"&a ", b"*a", b"!!", b"'", b'"']


def check(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "full.yaml"
        file.write_bytes(content)
        try:
            sweep = load_sweep(file)
        except InvalidInput as error:
            assert error.problems
            for problem in error.problems:
                assert problem.message and "full.yaml" in str(problem)
            assert "pydantic" not in str(error) and "Input should" not in str(error)
            return
        cells = expand(sweep)
        assert [cell.number for cell in cells] == list(range(len(cells))) and cells
        assert sum(block.size for block in split_into_blocks(cells, 1001)) == len(cells)
        assert all(cell.tasks and cell.variant in sweep.variants for cell in cells)
        assert {cell.assistant for cell in cells} == set(sweep.assistants)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found = []
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    for key, value in items:
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def mutate(draw: st.DrawFn, tree: Any) -> None:
    spots = places(tree)
    if not spots:
        return
    container, key = draw(st.sampled_from(spots))
    action = draw(st.sampled_from(ACTIONS))
    value = container[key]
    if action == "drop":
        del container[key]
    elif action == "retype":
        container[key] = draw(VALUES)
    elif action == "nest":
        container[key] = draw(st.sampled_from([[value], {"x": value}, [[value]], {key: value}]))
    elif action == "move":
        other, place = draw(st.sampled_from(spots))
        other[place] = copy.deepcopy(value)
    elif isinstance(container, list):
        container.insert(0, copy.deepcopy(value))
    elif action == "reorder":
        container[key] = container.pop(key)
    else:
        container[draw(st.sampled_from([f"{key}x", "model", "env", "trial"]))] = value


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 4))):
        mutate(draw, tree)
    # JSON is YAML too, and much faster to write.
    return json.dumps(tree, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def bytes_of(draw: st.DrawFn) -> bytes:
    content = draw(st.sampled_from(TEXTS)).encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        action = draw(st.sampled_from(["truncate", "cut", "repeat", "splice", "swap"]))
        end = min(len(content), start + draw(st.integers(0, 40)))
        if action == "truncate":
            content = content[:start]
        elif action == "cut":
            content = content[:start] + content[end:]
        elif action == "repeat":
            content = content[:end] + content[start:]
        elif action == "splice":
            junk = draw(st.sampled_from(JUNK) | st.binary(max_size=4))
            content = content[:start] + junk + content[start:]
        else:
            lines = content.splitlines(keepends=True)
            if lines:
                line = lines.pop(start % len(lines))
                lines.insert(draw(st.integers(0, len(lines))), line)
            content = b"".join(lines)
    return content


FUZZ = settings(max_examples=1200, suppress_health_check=list(HealthCheck), database=None)


def test_the_unmangled_files_are_read() -> None:
    for text in TEXTS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "full.yaml"
            file.write_text(text)
            assert expand(load_sweep(file))


@FUZZ
@given(trees())
def test_mangled_trees(content: bytes) -> None:
    check(content)


@FUZZ
@given(bytes_of())
def test_mangled_bytes(content: bytes) -> None:
    check(content)
