"""Read a sweep file into a Sweep; all its mistakes are reported at once."""

from __future__ import annotations

import math
import re
from pathlib import Path

from emobench.config.expand import expand
from emobench.config.profile import find_profile, is_path, load_profile, read_profile
from emobench.config.reader import Reader
from emobench.config.sweep_file import Context, SweepFile
from emobench.config.variants import load_builtin, make_variant
from emobench.config.vllm_arguments import parse_flag, suggest_parser
from emobench.config.words import PATTERNS
from emobench.config.yaml_lines import Document, KeyPath, load_yaml
from emobench.core.errors import InvalidInput, show
from emobench.core.fields import NAME
from emobench.core.models import RoleModel, VllmModel
from emobench.core.sweep import BUILTIN_VARIANTS, EARLIER_VARIANTS, Include, Matrix, Sweep

__all__ = ["load_profile", "load_sweep"]

MAX_CELLS = 100_000


def load_sweep(path: Path, *, cluster: str | None = None) -> Sweep:
    """Return the sweep of a file, with short forms expanded and defaults filled in.

    `cluster` (a profile's name, or a path relative to the current folder) takes the place of the
    file's. Raises InvalidInput with every mistake found in the file, its profile included.
    """
    return resolve(load_yaml(path), path, cluster)


def resolve(document: Document, path: Path, cluster: str | None = None) -> Sweep:
    """Do as `load_sweep` with a document that is read already; `path` names and places it."""
    reader = Reader(document)
    for key, value in document.data.items():
        if value is None:
            reader.refuse((key,), "has no value", hint="give one, or remove the key")
    data = {key: value for key, value in document.data.items() if value is not None}
    if data.get("engine") == "scripted":
        data = {"user": {}, "assistants": {"scripted": {}}, **data}
    if "name" not in data:
        data["name"] = _name_study(reader, path)
    folder = path.resolve().parent
    context = Context.of(data, folder)
    places: dict[KeyPath, KeyPath] = {
        ("assistants", name): place for name, place in context.places.items()
    }
    file = reader.parse_model(SweepFile, data, context, places)
    profile = _find_cluster(reader, data.get("cluster", "local"), folder, cluster)
    if file is None:
        reader.finish()
        raise AssertionError("a file that cannot be read has a problem")
    everyone = tuple(file.assistants)
    matrix = file.matrix.model_copy(update={"assistant": file.matrix.assistant or everyone})
    include = tuple(
        Include.model_validate({**matrix.model_dump(), **cells.model_dump(exclude_none=True)})
        for cells in file.include
    )
    number = sum(_count_cells(item, file.trials) for item in (matrix, *include))
    if number > MAX_CELLS:
        message = f"{number:,} cells; one sweep has at most {MAX_CELLS:,}"
        reader.refuse(("matrix",), message, hint="split the study into several sweep files")
    reader.finish()
    shipped = {name: load_builtin(name) for name in (*BUILTIN_VARIANTS, *EARLIER_VARIANTS)}
    own = {
        name: make_variant(name, item.text or "", item.version, item.judged_as)
        for name, item in file.variants.items()
    }
    templates = {
        model.chat_template
        for model in (file.user, *file.assistants.values())
        if isinstance(model, VllmModel)
    }
    sweep = Sweep(
        **{
            **{key: getattr(file, key) for key in SweepFile.model_fields if key != "engine"},
            "cluster": profile,
            "matrix": matrix,
            "include": include,
            "variants": shipped | own,
            "few_shot_sha256": {e: context.sha256[p] for e, p in file.few_shot_displays.items()},
            "chat_template_sha256": {p: d for p, d in context.sha256.items() if p in templates},
        }
    )
    return _keep_used(reader, sweep, context)


def _name_study(reader: Reader, path: Path) -> str:
    """Return the name that a file gives its study."""
    if re.fullmatch(NAME, path.stem):
        return path.stem
    hint = "the name defaults to the file's; add a line 'name: ...' or rename the file"
    message = f"{show(path.stem)} cannot be a sweep's name"
    reader.refuse(("name",), message, PATTERNS[NAME], hint)
    return "unnamed"


def _find_cluster(reader: Reader, value: object, folder: Path, override: str | None) -> str:
    """Return the profile's name or absolute path; note its mistakes beside the sweep's."""
    value = value if override is None else override
    if not isinstance(value, str) or not value:
        return ""
    try:
        file = find_profile(value, base=folder if override is None else None)
    except InvalidInput as error:
        for problem in error.problems:
            if override is None:
                reader.refuse(("cluster",), problem.message, problem.allowed, problem.hint)
            else:
                reader.problems.append(problem)
        return ""
    try:
        read_profile(file)
    except InvalidInput as error:
        reader.problems += error.problems
    return str(file) if is_path(value) else value


def _count_cells(item: Matrix, trials: int) -> int:
    axes = (item.env, item.agent_strategy, item.variant, item.assistant)
    return math.prod(map(len, axes)) * trials


def _calls_tools(model: RoleModel) -> bool:
    """Return whether the model's server can answer with tool calls."""
    if not isinstance(model, VllmModel):
        return True
    given = {parse_flag(argument) for argument in model.extra_args}
    return model.tool_call_parser is not None or "--tool-call-parser" in given


def _keep_used(reader: Reader, sweep: Sweep, context: Context) -> Sweep:
    """Return the sweep without assistants and variants that no cell has.

    Raises InvalidInput where cells need what is not there.
    """
    cells = expand(sweep)
    if not cells:
        reader.refuse(("exclude",), "leaves no cell of the matrix", hint="exclude less")
    combinations = {(cell.assistant, cell.agent_strategy, cell.env) for cell in cells}
    assistants = dict.fromkeys(cell.assistant for cell in cells)
    for name in assistants:
        model = sweep.assistants[name]
        strategies = {strategy for assistant, strategy, _ in combinations if assistant == name}
        if "tool-calling" in strategies and not _calls_tools(model):
            parser = suggest_parser(model.model)
            hint = (
                f"add 'tool_call_parser: {parser}'"
                if parser
                else "add e.g. 'tool_call_parser: hermes'; the model's page says which it needs"
            )
            hint += ", or leave tool-calling out: react and act need none"
            message = "agent strategy tool-calling needs a tool_call_parser on the vLLM server"
            reader.refuse(context.places[name], message, hint=hint)
    for env in sorted({env for _, strategy, env in combinations if strategy == "few-shot"}):
        if env not in sweep.few_shot_displays:
            message = f"agent strategy few-shot needs a file of examples for {env}"
            hint = f"write few_shot_displays: {{{env}: examples.jsonl}}"
            reader.refuse(("few_shot_displays",), message, hint=hint)
    reader.finish()
    variants = {cell.variant for cell in cells}
    return sweep.model_copy(
        update={
            "assistants": {k: v for k, v in sweep.assistants.items() if k in assistants},
            "variants": {k: v for k, v in sweep.variants.items() if k in variants},
        }
    )
