"""The short forms of a sweep file: matrix, tasks, variants, exclude and include."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.config.reader import Reader
from emobench.config.roles import safe_name
from emobench.config.variants import NAMES, builtin, make_variant
from emobench.config.words import show
from emobench.config.yaml_lines import KeyPath
from emobench.core.sweep import AgentStrategy, CellFilter, Env, Include, Matrix, Variant

ENVS: tuple[str, ...] = get_args(Env)
STRATEGIES: tuple[str, ...] = get_args(AgentStrategy)
_TASKS = "all, a range such as 0-19, a list such as [0, 3, 7], or one of these for each env"
_RANGE = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?")


def _names(
    reader: Reader,
    path: KeyPath,
    value: object,
    allowed: Iterable[str],
    what: str,
    where: str = "",
) -> tuple[str, ...]:
    """The valid ones of a name or a list of names; unknown and repeated ones are noted."""
    names = list(allowed)
    seen: dict[str, None] = {}
    for at, item in reader.scalar_or_list(path, value):
        if not reader.choice(at, item, names, what, where):
            continue
        if item in seen:
            reader.refuse(at, f"'{item}' is given twice", item, hint="keep one")
        seen[item] = None
    return tuple(seen)


def read_matrix(
    reader: Reader, data: dict[str, Any], variants: Iterable[str], assistants: Iterable[str]
) -> Matrix | None:
    """The matrix; `assistant` is all of them and `agent_strategy` tool-calling if not given."""
    path: KeyPath = ("matrix",)
    what = "a mapping with env and variant, and as you like agent_strategy and assistant"
    if "matrix" not in data:
        reader.missing(path, what)
        return None
    given = reader.mapping(path, data["matrix"], what)
    if given is None:
        return None
    reader.keys(path, given, Matrix.model_fields)
    everyone = list(assistants)
    axes = {
        "env": (ENVS, None),
        "agent_strategy": (STRATEGIES, ("tool-calling",)),
        "variant": (list(variants), None),
        "assistant": (everyone, tuple(everyone)),
    }
    found: dict[str, tuple[str, ...]] = {}
    for axis, (allowed, default) in axes.items():
        if axis in given:
            what = axis.replace("_", " ")
            found[axis] = _names(reader, (*path, axis), given[axis], allowed, what)
        elif default is None:
            reader.missing((*path, axis), ", ".join(allowed))
        else:
            found[axis] = default
    if len(found) < len(axes) or not all(found.values()):
        return None
    return Matrix.model_validate(found)


def read_tasks(reader: Reader, value: object, envs: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Task indices by environment, for the environments that cells use."""
    wanted = list(envs)
    path: KeyPath = ("tasks",)
    if not isinstance(value, dict):
        return {env: _task_indices(reader, path, value, env) for env in wanted}
    reader.keys(path, value, ENVS)
    tasks = {}
    for env in wanted:
        if env in value:
            tasks[env] = _task_indices(reader, (*path, env), value[env], env)
        else:
            reader.missing((*path, env), _TASKS)
    return tasks


def _task_indices(reader: Reader, path: KeyPath, value: object, env: str) -> tuple[int, ...]:
    count = TASK_COUNTS[env]
    if value == "all":
        return tuple(range(count))
    indices: set[int] = set()
    for at, item in reader.scalar_or_list(path, value):
        if isinstance(item, int) and not isinstance(item, bool):
            parts = [str(item)]
        elif isinstance(item, str):
            parts = item.split(",")
        else:
            reader.wanted(at, _TASKS, item)
            continue
        for part in parts:
            bounds = _RANGE.fullmatch(part)
            if bounds is None and not re.fullmatch(r"-?[0-9]+", part):
                reader.wanted(at, _TASKS, item)
                break
            first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (-1, -1)
            if not 0 <= first < count or last >= count:
                allowed = f"0 to {count - 1} ({env} has {count} tasks)"
                hint = "" if len(path) > 1 else "for each env: {retail: ..., airline: ...}"
                reader.refuse(at, f"{show(item)} is out of range for {env}", item, allowed, hint)
                break
            if last < first:
                reader.refuse(at, f"{show(item)} runs backwards", item, f"{last}-{first}")
                break
            indices.update(range(first, last + 1))
    return tuple(sorted(indices))


def read_variants(reader: Reader, data: dict[str, Any], folder: Path) -> dict[str, Variant]:
    """The built-in variants and the sweep's own, by name."""
    found = {name: builtin(name) for name in NAMES}
    if "variants" not in data:
        return found
    path: KeyPath = ("variants",)
    form = "text, or a mapping with text or file, and version"
    own = reader.mapping(path, data["variants"], f"a mapping of names to {form}")
    for name, value in (own or {}).items():
        at = (*path, name)
        if name in NAMES:
            message = f"'{name}' is a built-in variant and cannot be redefined"
            reader.refuse(at, message, name, hint="choose another name")
            continue
        if not safe_name(reader, at, name, "a variant's name"):
            continue
        # A variant with a mistake still counts as known, so that its uses are not reported too.
        found[name] = make_variant(name, "", "1")
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            reader.wanted(at, form, value)
            continue
        reader.keys(at, value, ("text", "file", "version"))
        if ("text" in value) == ("file" in value):
            reader.refuse(at, "give either text or file", allowed=form)
            continue
        version = value.get("version", "1")
        if isinstance(version, bool) or not isinstance(version, str | int | float):
            reader.wanted((*at, "version"), "text", version)
            continue
        text = value.get("text")
        if "file" in value:
            text = _text_of(reader, (*at, "file"), value["file"], folder)
        if isinstance(text, str) and text.strip():
            found[name] = make_variant(name, text, str(version))
        elif text is not None or "text" in value:
            hint = "control is the variant without a text"
            reader.refuse((*at, "text"), "has to be text, not empty", text, hint=hint)
    return found


def find_file(reader: Reader, path: KeyPath, value: object, folder: Path) -> Path | None:
    """A file named in the sweep file, relative to it; notes the mistake if there is none."""
    if not isinstance(value, str) or not value:
        reader.wanted(path, "the path of a file", value)
        return None
    file = folder / value
    try:
        if file.is_file():
            return file.resolve()
    except (OSError, ValueError):
        pass
    reader.refuse(path, f"no such file: {show(value)}", value, hint=f"looked for {file}")
    return None


def _text_of(reader: Reader, path: KeyPath, value: object, folder: Path) -> str | None:
    file = find_file(reader, path, value, folder)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        reader.refuse(path, f"{file} is not UTF-8 text", value)
        return None
    except OSError as error:
        reader.refuse(path, f"{file} cannot be read: {error.strerror}", value)
        return None
    if not text.strip():
        reader.refuse(path, f"{file} is empty", value)
        return None
    return text


def read_excludes(
    reader: Reader, value: object, matrix: Matrix, trials: int
) -> tuple[CellFilter, ...]:
    """The cells to leave out of the matrix."""
    axes = {name: list(getattr(matrix, name)) for name in Matrix.model_fields}
    return tuple(
        CellFilter.model_validate(found)
        for _, found in _filters(reader, "exclude", value, axes, trials)
    )


def read_includes(
    reader: Reader, value: object, matrix: Matrix, known: Mapping[str, Iterable[str]], trials: int
) -> tuple[Include, ...]:
    """The cells beside the matrix; an axis that is not given has the matrix's values."""
    axes = {"env": list(ENVS), "agent_strategy": list(STRATEGIES)}
    axes |= {name: list(values) for name, values in known.items()}
    return tuple(
        Include.model_validate({**matrix.model_dump(), **found})
        for _, found in _filters(reader, "include", value, axes, trials)
    )


def _filters(
    reader: Reader, key: str, value: object, axes: Mapping[str, list[str]], trials: int
) -> list[tuple[KeyPath, dict[str, Any]]]:
    filters = []
    form = f"a list of mappings with some of: {', '.join((*axes, 'trial'))}"
    if value == []:
        return []
    where = " in this sweep's matrix" if key == "exclude" else ""
    for path, item in reader.scalar_or_list((key,), value):
        given = reader.mapping(path, item, form)
        if given is None:
            continue
        before = len(reader.problems)
        reader.keys(path, given, (*axes, "trial"))
        found: dict[str, Any] = {}
        for axis, allowed in axes.items():
            if axis in given:
                what = axis.replace("_", " ")
                found[axis] = _names(reader, (*path, axis), given[axis], allowed, what, where)
        if "trial" in given:
            found["trial"] = _trials(reader, (*path, "trial"), given["trial"], trials)
        if len(reader.problems) == before:
            filters.append((path, found))
    return filters


def _trials(reader: Reader, path: KeyPath, value: object, trials: int) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for at, item in reader.scalar_or_list(path, value):
        if isinstance(item, bool) or not isinstance(item, int) or not 1 <= item <= trials:
            reader.wanted(at, f"trial numbers from 1 to {trials}", item)
        else:
            found[item] = None
    return tuple(found)


def read_displays(
    reader: Reader, value: object, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Files of few-shot examples by environment, and the SHA-256 of each."""
    from hashlib import sha256

    path: KeyPath = ("few_shot_displays",)
    files: dict[str, str] = {}
    hashes: dict[str, str] = {}
    given = reader.mapping(path, value, "a mapping of env to a file of examples")
    reader.keys(path, given or {}, ENVS)
    for env, item in (given or {}).items():
        if env in ENVS and (file := find_file(reader, (*path, env), item, folder)):
            try:
                hashes[env] = sha256(file.read_bytes()).hexdigest()
                files[env] = str(file)
            except OSError as error:
                reader.refuse((*path, env), f"{file} cannot be read: {error.strerror}", item)
    return files, hashes
