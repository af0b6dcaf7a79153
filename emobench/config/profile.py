"""Cluster profiles: found by name or path, read, and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from emobench.config.reader import Reader
from emobench.config.roles import safe_name
from emobench.config.templates import template_dirs as all_template_dirs
from emobench.config.words import listing, show
from emobench.config.yaml_lines import KeyPath, load_yaml
from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.errors import InvalidInput, Problem, nearest

_JOBS = {
    "user_server": ServerResources,
    "assistant_server": ServerResources,
    "array": JobResources,
}
_TIME = re.compile(r"[0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}|UNLIMITED")
_EMPTIES_ENVIRONMENT = ("-e", "--cleanenv", "-C", "--containall")
_MEMORY = re.compile(r"[0-9]+[KMGT]?")


def load_profile(
    name_or_path: str, *, base: Path | None = None, template_dirs: Sequence[Path] = ()
) -> ClusterProfile:
    """The profile of a name (clusters/<name>.yaml of the template folders) or of a path.

    A path is relative to `base`, then to the current folder. Raises InvalidInput with every
    mistake in the profile, or with the names there are.
    """
    return read_profile(find_profile(name_or_path, base=base, template_dirs=template_dirs))


def is_path(name_or_path: str) -> bool:
    """Whether a cluster is given as a file's path rather than as a profile's name."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def find_profile(
    name_or_path: str, *, base: Path | None = None, template_dirs: Sequence[Path] = ()
) -> Path:
    """The profile's file. Raises InvalidInput where there is none."""
    folders = [folder / "clusters" for folder in template_dirs or all_template_dirs()]
    if is_path(name_or_path):
        given = Path(os.path.expanduser(name_or_path))  # noqa: PTH111 - never raises
        tried = [start / given for start in (base, Path.cwd()) if start is not None]
        hint = f"looked for {listing(dict.fromkeys(tried))}"
    else:
        tried = [folder / f"{name_or_path}.yaml" for folder in folders]
        hint = nearest(name_or_path, profile_names(folders)) or (
            "copy a profile of slurm_templates/clusters and give its path"
        )
    for file in tried:
        try:
            if file.is_file():
                return file.resolve()
        except (OSError, ValueError):
            continue
    raise InvalidInput(
        Problem(
            f"no cluster profile {show(name_or_path)}",
            value=name_or_path,
            allowed=f"{listing(profile_names(folders))}, or the path of a profile",
            hint=hint,
        )
    )


def profile_names(folders: Iterable[Path]) -> list[str]:
    """Names of the profiles in these clusters/ folders."""
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def read_profile(file: Path) -> ClusterProfile:
    """A profile file. Raises InvalidInput with every mistake in it."""
    document = load_yaml(file)
    reader = Reader(document)
    data: dict[str, Any] = {"name": file.stem, **document.data}
    _as_text(data, ("name",))
    safe_name(reader, ("name",), data["name"], "a profile's name")
    _as_list(data, ("client_setup", "server_setup"))
    for job in _JOBS:
        part = data.get(job)
        if isinstance(part, dict):
            part = data[job] = dict(part)
            _as_text(part, ("time", "mem", "account", "partition", "qos", "constraint"))
            _as_list(part, ("sbatch",))
            _check_job(reader, (job,), part)
    if isinstance(data.get("container"), dict):
        data["container"] = dict(data["container"])
        _as_list(data["container"], ("options", "bind"))
        _check_container(reader, data["container"])
    if isinstance(data.get("server_env"), dict):
        data["server_env"] = dict(data["server_env"])
        _as_text(data["server_env"], tuple(data["server_env"]))
    before = len(reader.problems)
    profile = reader.model(ClusterProfile, data)
    if before:
        _drop_repeats(reader)
    reader.finish()
    assert profile is not None
    return profile


def _as_text(data: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Whole numbers where text is wanted are text: `mem: 4000`, `PT_HPU_LAZY_MODE: 1`."""
    for key in keys:
        if isinstance(data.get(key), int) and not isinstance(data[key], bool):
            data[key] = str(data[key])


def _as_list(data: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if isinstance(data.get(key), str):
            data[key] = [data[key]]


def _check_job(reader: Reader, path: KeyPath, part: dict[str, Any]) -> None:
    time, memory, gres = part.get("time"), part.get("mem"), part.get("gres")
    if isinstance(time, str) and not _TIME.fullmatch(time):
        reader.wanted((*path, "time"), "minutes, HH:MM:SS or D-HH:MM:SS", time)
    if isinstance(memory, str) and not _MEMORY.fullmatch(memory):
        reader.wanted((*path, "mem"), "a number with K, M, G or T, e.g. 8G", memory)
    # A type may be a number too (gpu:4090); a count is short.
    if isinstance(gres, str) and re.search(r":[0-9]{1,2}$", gres):
        hint = f"write {gres.rsplit(':', 1)[0]}: the count comes from the model's tensor_parallel"
        reader.refuse((*path, "gres"), f"{show(gres)} has a count", gres, hint=hint)
    for i, option in enumerate(part["sbatch"] if isinstance(part.get("sbatch"), list) else ()):
        if isinstance(option, str) and not option.startswith("-"):
            hint = "e.g. --mail-type=FAIL"
            reader.refuse((*path, "sbatch", i), f"{show(option)} is no option", option, hint=hint)


def _check_container(reader: Reader, part: dict[str, Any]) -> None:
    options = part["options"] if isinstance(part.get("options"), list) else []
    for i, option in enumerate(options):
        if option in _EMPTIES_ENVIRONMENT and part.get("runtime") == "apptainer":
            hint = (
                "vLLM would run without its key; PYTHONNOUSERSITE in server_env keeps ~/.local out"
            )
            message = f"{show(option)} keeps the environment out of the container"
            reader.refuse(("container", "options", i), message, option, hint=hint)


def _drop_repeats(reader: Reader) -> None:
    """Keep the first problem of each key."""
    first: dict[tuple[int, str], Problem] = {}
    for problem in reader.problems:
        first.setdefault((problem.line, problem.key), problem)
    reader.problems[:] = first.values()
