"""Cluster profiles: found by name or path, read, and checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from emobench.config.reader import Reader
from emobench.config.templates import list_template_dirs as all_template_dirs
from emobench.config.yaml_lines import KeyPath, load_yaml
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput, Problem, list_names, show, suggest_nearest
from emobench.core.redaction import find_secret_in_line, names_secret, url_has_secret


def load_profile(
    name_or_path: str, *, base: Path | None = None, template_dirs: Sequence[Path] = ()
) -> ClusterProfile:
    """Return the profile of a name (clusters/<name>.yaml of the template folders) or of a path.

    A path is relative to `base`, then to the current folder. Raises InvalidInput with every
    mistake in the profile, or with the names there are.
    """
    return read_profile(find_profile(name_or_path, base=base, template_dirs=template_dirs))


def is_path(name_or_path: str) -> bool:
    """Return whether a cluster is given as a file's path rather than as a profile's name."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def find_profile(
    name_or_path: str, *, base: Path | None = None, template_dirs: Sequence[Path] = ()
) -> Path:
    """Return the profile's file. Raises InvalidInput where there is none."""
    folders = [folder / "clusters" for folder in template_dirs or all_template_dirs()]
    if is_path(name_or_path):
        given = Path(os.path.expanduser(name_or_path))  # noqa: PTH111 - never raises
        tried = [start / given for start in (base, Path.cwd()) if start is not None]
        hint = f"looked for {list_names(dict.fromkeys(tried))}"
    else:
        tried = [folder / f"{name_or_path}.yaml" for folder in folders]
        hint = suggest_nearest(name_or_path, list_profiles(folders)) or (
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
            allowed=f"{list_names(list_profiles(folders))}, or the path of a profile",
            hint=hint,
        )
    )


def list_profiles(folders: Iterable[Path]) -> list[str]:
    """Return the names of the profiles in these clusters/ folders."""
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def read_profile(file: Path) -> ClusterProfile:
    """Return the profile of a file. Raises InvalidInput with every mistake in it."""
    document = load_yaml(file)
    reader = Reader(document)
    profile = reader.parse_model(ClusterProfile, {"name": file.stem, **document.data})
    if profile is not None:
        _refuse_secrets(profile, reader)
    reader.finish()
    assert profile is not None
    return profile


def _refuse_secrets(profile: ClusterProfile, reader: Reader) -> None:
    """Note each secret that stands in the profile, without repeating it."""

    def refuse(place: KeyPath, name: str) -> None:
        hint = f"leave it out, and export {name} before submitting: jobs get it"
        reader.refuse(place, "a secret does not belong in a file", hint=hint)

    for name, value in profile.server_env.items():
        is_path = value.startswith("/")
        if value and not is_path and (names_secret(name) or url_has_secret(value)):
            refuse(("server_env", name), name)
    written: dict[KeyPath, tuple[str, ...]] = {
        ("client_setup",): profile.client_setup,
        ("server_setup",): profile.server_setup,
        ("array", "sbatch"): profile.array.sbatch,
        ("user_server", "sbatch"): profile.user_server.sbatch,
        ("assistant_server", "sbatch"): profile.assistant_server.sbatch,
    }
    if profile.container is not None:
        written["container", "options"] = profile.container.options
    for place, lines in written.items():
        for number, line in enumerate(lines):
            if name := find_secret_in_line(line):
                refuse((*place, number), name)
