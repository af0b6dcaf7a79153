from __future__ import annotations

from pathlib import Path

import pytest

from emobench.config.expand import expand
from emobench.config.identity import collect_cell_content, find_differing_keys, hash_content
from tests.support.sweep_files import load

TEXT = """\
matrix: {env: retail, variant: [control, anger], agent_strategy: react}
trials: 2
tasks: 0-2
seed: 3
user: {model: u, temperature: 0.5}
assistants:
  a: {model: m, tensor_parallel: 2}
  s: {engine: scripted, mistakes: {control: 0.1, anger: 0.3}}
  o: {engine: openai, model: g}
"""


def hashes(folder: Path, text: str) -> dict[object, str]:
    sweep = load(folder, text)
    return {
        cell.key: hash_content(collect_cell_content(sweep, cell, "tau_trait 0.1.1"), 0)
        for cell in expand(sweep)
    }


def test_each_cell_and_task_differs(tmp_path: Path) -> None:
    found = hashes(tmp_path, TEXT)
    assert len(set(found.values())) == len(found) == 12
    assert found == hashes(tmp_path, TEXT)
    content = collect_cell_content(sweep := load(tmp_path, TEXT), expand(sweep)[0], "b")
    assert len({hash_content(content, task) for task in (None, 0, 1)}) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tasks: 0-2", "tasks: 0-2\nconcurrency: 64\nthrottle: 3\ncluster: lab"),
        ("tasks: 0-2", "tasks: all"),
        ("trials: 2", "trials: 2\ndescription: other"),
        ("tensor_parallel: 2", "tensor_parallel: 4, gpu_memory_utilization: 0.5"),
        ("tensor_parallel: 2", "pipeline_parallel: 2, nodes: 2, served_name: x"),
        ("tensor_parallel: 2", "data_parallel: 3"),
        ("model: m", "model: m, chat_template_kwargs: {}"),
        ("model: g", "model: g, base_url: http://h/v1, api_key_env: OTHER"),
        ("model: g", "model: g, rate_limit_wait_min: 5"),
        ("engine: scripted", "engine: scripted, latency_ms: 5, accelerators: 1"),
        ("engine: scripted", "engine: scripted, hardware: a100, model_size: 8, time_scale: 60"),
    ],
)
def test_what_does_not_affect_an_episode(tmp_path: Path, old: str, new: str) -> None:
    assert hashes(tmp_path, TEXT.replace(old, new)) == hashes(tmp_path, TEXT)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("seed: 3", "seed: 4", 12),
        ("seed: 3", "seed: 3\nmax_steps: 10", 12),
        ("seed: 3", "seed: 3\nuser_strategy: verify", 12),
        ("temperature: 0.5", "temperature: 0.6", 12),
        ("model: m", "model: m2", 4),
        ("model: m", "model: m, revision: abc", 4),
        ("model: m", "model: m, tool_call_parser: hermes", 4),
        ("model: m", "model: m, seed: 1", 4),
        ("model: m", "model: m, chat_template_kwargs: {enable_thinking: true}", 4),
        ("model: m", "model: m, chat_template: /in/the/image.jinja", 4),
        ("anger: 0.3", "anger: 0.4", 2),
        ("engine: scripted", "engine: scripted, faults: {hang: 0.1}", 4),
    ],
)
def test_what_affects_an_episode(tmp_path: Path, old: str, new: str, changed: int) -> None:
    before, after = hashes(tmp_path, TEXT), hashes(tmp_path, TEXT.replace(old, new))
    assert sum(before[key] != after[key] for key in before) == changed


def test_the_text_of_a_variant_counts(tmp_path: Path) -> None:
    text = TEXT.replace("anger]", "mine]").replace("anger:", "mine:")
    first = hashes(tmp_path, text + "variants: {mine: One.}\n")
    other = hashes(tmp_path, text + "variants: {mine: Two.}\n")
    assert {key[3] for key in first if first[key] != other[key]} == {"mine"}  # type: ignore[index]


def test_the_few_shot_file_counts(tmp_path: Path) -> None:
    text = TEXT.replace("react", "few-shot") + "few_shot_displays: {retail: shots}\n"
    found = []
    for shots in ("a", "b"):
        (tmp_path / "shots").write_text(shots)
        found.append(hashes(tmp_path, text))
    assert not set(found[0].values()) & set(found[1].values())


def test_the_text_of_a_chat_template_counts_and_not_its_path(tmp_path: Path) -> None:
    def with_template(name: str, text: str) -> dict[object, str]:
        (tmp_path / name).write_text(text)
        return hashes(tmp_path, TEXT.replace("model: m", f"model: m, chat_template: {name}"))

    first = with_template("one.jinja", "{{ x }}")
    assert first != hashes(tmp_path, TEXT)
    assert first == with_template("two.jinja", "{{ x }}")
    assert first != with_template("two.jinja", "{{ y }}")


def test_differences_in_words(tmp_path: Path) -> None:
    def content(text: str) -> dict[str, object]:
        sweep = load(tmp_path, text)
        return collect_cell_content(sweep, expand(sweep)[0], "b")

    changed = TEXT.replace("temperature: 0.5", "top_p: 1").replace("seed: 3", "seed: 4")
    assert find_differing_keys(content(TEXT), content(changed)) == [
        "user.temperature: was 0.5, now unset",
        "user.top_p: was unset, now 1.0",
        "seed: was 3, now 4",
    ]
    assert find_differing_keys({"a": {"b": 1}}, {"a": {"c": "x"}}) == [
        "a.b: was 1, now not there",
        'a.c: was not there, now "x"',
    ]
    assert find_differing_keys(content(TEXT), content(TEXT)) == []


def repairs(folder: Path, written: str) -> object:
    sweep = load(folder, f"{TEXT}fidelity: {written}\n")
    return collect_cell_content(sweep, expand(sweep)[0], "b")["fidelity"]


@pytest.mark.parametrize(
    ("written", "then"),
    [
        ("{end_at_empty_reply: true}", {}),
        ("{check_replies: true}", {}),
        ("{sanitize_think: false}", {"sanitize_think": False, "check_replies": False}),
    ],
)
def test_repairs_that_mean_what_they_did_keep_results_identity(
    tmp_path: Path, written: str, then: dict[str, bool]
) -> None:
    names = ("skip_opening_call", "sanitize_think", "check_replies", "send_seed", "lean_client")
    before = {**dict.fromkeys((*names, "shared_state"), True), "react_user_reply": False}
    assert repairs(tmp_path, written) == {**before, "standalone_stop": False, **then}


def test_repairs_that_mean_something_new_are_another_identity(tmp_path: Path) -> None:
    """A reply that was reasoning alone ended the conversation also without `check_replies`."""
    now = repairs(tmp_path, "{}")
    assert isinstance(now, dict) and "check_replies" not in now
    assert now == repairs(tmp_path, "{check_replies: false}")
    stock = repairs(tmp_path, "stock")
    assert isinstance(stock, dict) and stock["plain_messages"] is False


def test_a_group_that_was_unset_is_told_by_its_keys() -> None:
    unset, given = {"judge": None, "a": 1}, {"judge": {"model": "m"}, "a": 1}
    assert find_differing_keys(unset, given) == ['judge.model: was not there, now "m"']
    assert find_differing_keys(given, unset) == ['judge.model: was "m", now not there']
    assert find_differing_keys(unset, {"a": 1}) == ["judge: was unset, now not there"]
