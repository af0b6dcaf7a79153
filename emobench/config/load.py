"""Read a sweep file into a Sweep; all its mistakes are reported at once."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, get_args

from emobench.config.declared import read_gates, read_judge
from emobench.config.expand import expand
from emobench.config.parsers import suggest_parser
from emobench.config.profile import find_profile, is_path, load_profile, read_profile
from emobench.config.reader import Reader
from emobench.config.roles import (
    SAFE_NAME,
    calls_tools,
    place_model,
    place_template,
    read_assistants,
    read_engine,
    read_user,
)
from emobench.config.shorthand import (
    read_displays,
    read_excludes,
    read_includes,
    read_matrix,
    read_tasks,
    read_variants,
)
from emobench.config.words import PATTERNS, show
from emobench.config.yaml_lines import Document, KeyPath, load_yaml
from emobench.core.errors import InvalidInput
from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.sweep import Fidelity, Include, Matrix, Settings, Sweep, UserStrategy

__all__ = ["load_profile", "load_sweep"]

MAX_CELLS = 100_000
SHORTHAND_KEYS = (
    "cluster",
    "engine",
    "matrix",
    "tasks",
    "exclude",
    "include",
    "user",
    "assistants",
    "variants",
    "few_shot_displays",
    "fidelity",
    "gates",
    "judge",
)


def load_sweep(path: Path, *, cluster: str | None = None) -> Sweep:
    """The sweep of a file, with shorthand expanded and defaults filled in.

    `cluster` (a profile's name, or a path relative to the current folder) takes the place of the
    file's. Raises InvalidInput with every mistake found in the file, its profile included.
    """
    return resolve(load_yaml(path), path, cluster)


def resolve(document: Document, path: Path, cluster: str | None = None) -> Sweep:
    """`load_sweep` for a document that is read already; `path` names and places it."""
    reader = Reader(document)
    data = document.data
    reader.keys((), data, (*Settings.model_fields, *SHORTHAND_KEYS))
    for key, value in data.items():
        if value is None:
            reader.refuse((key,), "has no value", hint="give one, or remove the key")
    data = {key: value for key, value in data.items() if value is not None}
    folder = path.resolve().parent

    settings = _read_settings(reader, data, path)
    trials = settings.trials if settings else 1000
    resolved_cluster = _resolve_cluster(reader, data, folder, cluster)
    engine = read_engine(reader, data)
    user = read_user(reader, data, engine)
    assistants, places = read_assistants(reader, data, engine)
    templates: dict[str, str] = {}

    def placed(role: KeyPath, model: RoleModel | None) -> RoleModel | None:
        model, digest = place_template(reader, role, place_model(model, folder), folder)
        if digest and isinstance(model, VllmModel) and model.chat_template:
            templates[model.chat_template] = digest
        return model

    user = placed(("user",), user)
    assistants = {n: m for n, model in assistants.items() if (m := placed(places[n], model))}
    variants = read_variants(reader, data, folder)
    for role, model in {("user",): user, **{places[n]: m for n, m in assistants.items()}}.items():
        _check_mistakes(reader, role, model, list(variants))
    matrix = read_matrix(reader, data, variants, places)
    displays, hashes = (
        read_displays(reader, data["few_shot_displays"], folder)
        if "few_shot_displays" in data
        else ({}, {})
    )
    fidelity = _read_fidelity(reader, data.get("fidelity", {}))
    gates = read_gates(reader, data.get("gates", {}))
    judge = read_judge(reader, data["judge"], places) if "judge" in data else None
    if matrix is None:
        # What depends on the matrix would only repeat its mistakes.
        reader.finish()
        raise AssertionError("a matrix that cannot be read is a problem")
    exclude = read_excludes(reader, data.get("exclude", []), matrix, trials)
    known = {"variant": list(variants), "assistant": list(places)}
    include = read_includes(reader, data.get("include", []), matrix, known, trials)
    envs = dict.fromkeys((*matrix.env, *(env for item in include for env in item.env)))
    tasks = read_tasks(reader, data.get("tasks", "all"), envs)
    number = _count(matrix, trials) + sum(_count(item, trials) for item in include)
    if settings and number > MAX_CELLS:
        message = f"{number:,} cells; one sweep has at most {MAX_CELLS:,}"
        reader.refuse(("matrix",), message, hint="split the study into several sweep files")
    reader.finish()
    assert settings is not None and user is not None

    sweep = Sweep.model_validate(
        {
            **settings.model_dump(),
            "cluster": resolved_cluster,
            "matrix": matrix,
            "tasks": tasks,
            "exclude": exclude,
            "include": include,
            "user": user,
            "assistants": assistants,
            "variants": variants,
            "few_shot_displays": displays,
            "few_shot_sha256": hashes,
            "chat_template_sha256": templates,
            "fidelity": fidelity,
            "gates": gates,
            "judge": judge,
        }
    )
    return _only_what_cells_use(reader, sweep, places)


def _read_settings(reader: Reader, data: dict[str, Any], path: Path) -> Settings | None:
    given = {key: value for key, value in data.items() if key in Settings.model_fields}
    before = len(reader.problems)
    if "name" not in data:
        given["name"] = path.stem
        if not re.fullmatch(SAFE_NAME, path.stem):
            hint = "the name defaults to the file's; add a line 'name: ...' or rename the file"
            message = f"{show(path.stem)} cannot be a sweep's name"
            reader.refuse(("name",), message, path.stem, PATTERNS[SAFE_NAME], hint)
            given["name"] = "unnamed"
    elif isinstance(given.get("name"), int) and not isinstance(given["name"], bool):
        given["name"] = str(given["name"])
    if given.get("user_strategy") == "human":
        allowed = ", ".join(get_args(UserStrategy))
        hint = "a sweep runs unattended: nobody is there to type the user's replies"
        reader.refuse(("user_strategy",), "'human' is not possible", "human", allowed, hint)
        del given["user_strategy"]
    settings = reader.model(Settings, given)
    return settings if len(reader.problems) == before else None


def _read_fidelity(reader: Reader, value: object) -> Fidelity | None:
    if value == "stock":
        return Fidelity.stock()
    if not isinstance(value, dict):
        reader.wanted(("fidelity",), "stock, or a mapping of repairs to true or false", value)
        return None
    reader.keys(("fidelity",), value, Fidelity.model_fields)
    known = {key: item for key, item in value.items() if key in Fidelity.model_fields}
    return reader.model(Fidelity, known, ("fidelity",))


def _resolve_cluster(
    reader: Reader, data: dict[str, Any], folder: Path, override: str | None
) -> str:
    """The profile's name or absolute path; a profile with mistakes adds them to the sweep's."""
    value = data.get("cluster", "local") if override is None else override
    if not isinstance(value, str) or not value:
        reader.wanted(("cluster",), "a profile's name, or the path of a profile", value)
        return ""
    try:
        file = find_profile(value, base=folder if override is None else None)
    except InvalidInput as error:
        for problem in error.problems:
            if override is None:
                reader.refuse(("cluster",), problem.message, value, problem.allowed, problem.hint)
            else:
                reader.problems.append(problem)
        return ""
    try:
        read_profile(file)
    except InvalidInput as error:
        reader.problems += error.problems
    return str(file) if is_path(value) else value


def _check_mistakes(
    reader: Reader, path: KeyPath, model: RoleModel | None, variants: list[str]
) -> None:
    if isinstance(model, ScriptedModel) and isinstance(model.mistakes, dict):
        for name in model.mistakes:
            reader.choice((*path, "mistakes", name), name, variants, "variant")


def _count(item: Matrix | Include, trials: int) -> int:
    axes = (item.env, item.agent_strategy, item.variant, item.assistant)
    return math.prod(map(len, axes)) * trials


def _only_what_cells_use(reader: Reader, sweep: Sweep, places: dict[str, KeyPath]) -> Sweep:
    """The sweep without assistants and variants that no cell has; checks that need the cells."""
    cells = expand(sweep)
    if not cells:
        reader.refuse(("exclude",), "leaves no cell of the matrix", hint="exclude less")
    combinations = {(cell.assistant, cell.agent_strategy, cell.env) for cell in cells}
    for assistant in dict.fromkeys(cell.assistant for cell in cells):
        strategies = {strategy for name, strategy, _ in combinations if name == assistant}
        if "tool-calling" in strategies and not calls_tools(sweep.assistants[assistant]):
            parser = suggest_parser(sweep.assistants[assistant].model)
            hint = (
                f"add 'tool_call_parser: {parser}'"
                if parser
                else ("add e.g. 'tool_call_parser: hermes'; the model's page says which it needs")
            )
            hint += ", or leave tool-calling out: react and act need none"
            message = "agent strategy tool-calling needs a tool_call_parser on the vLLM server"
            reader.refuse(places[assistant], message, hint=hint)
    for env in sorted({env for _, strategy, env in combinations if strategy == "few-shot"}):
        if env not in sweep.few_shot_displays:
            message = f"agent strategy few-shot needs a file of examples for {env}"
            hint = f"write few_shot_displays: {{{env}: examples.jsonl}}"
            reader.refuse(("few_shot_displays",), message, hint=hint)
    reader.finish()
    used_variants = {cell.variant for cell in cells}
    used_assistants = {cell.assistant for cell in cells}
    return sweep.model_copy(
        update={
            "assistants": {k: v for k, v in sweep.assistants.items() if k in used_assistants},
            "variants": {k: v for k, v in sweep.variants.items() if k in used_variants},
        }
    )
