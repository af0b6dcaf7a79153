"""`emobench init`: a profile of this site and sweep files to begin with."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from emobench.cli.terminal import quote_path, shorten_path
from emobench.core.errors import InvalidInput
from emobench.core.output import say

PROFILE, STUDY = "my-site.yaml", "emotions.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Write {PROFILE}, a profile of this site by what its Slurm says, and sweep files to begin "
        "with. Nothing is overwritten, and nothing is submitted."
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="default: this folder"
    )


def run(arguments: argparse.Namespace) -> int:
    from emobench.config.templates import find_shipped_sweeps, find_shipped_templates
    from emobench.core.files import write_atomic

    folder: Path = arguments.folder
    texts = _build_texts()
    if there := [name for name in texts if (folder / name).exists()]:
        raise InvalidInput(
            f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} in {folder.resolve()} "
            "already\n  nothing is written: give another folder, or move what is there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, (text, purpose) in texts.items():
        write_atomic(folder / name, text)
        say(f"{shorten_path((folder / name).resolve())}: {purpose}")
    if PROFILE not in texts:
        say("no Slurm answers here: run this on a login node for a profile of the site")
    say(
        f"more sweeps: {find_shipped_sweeps()}\nmore profiles: "
        f"{find_shipped_templates() / 'clusters'}"
    )
    prefix = "" if folder.resolve() == Path.cwd() else f"cd {quote_path(folder.resolve())} && "
    say(f"now: {prefix}emobench sweep quickstart.yaml --wait")
    if PROFILE in texts:
        say(f"then correct {PROFILE} and ask: emobench doctor --cluster {PROFILE}")
    return 0


def _build_texts() -> dict[str, tuple[str, str]]:
    """Return the text and purpose by file name."""
    from emobench.config.templates import find_shipped_sweeps, list_template_dirs
    from emobench.scheduler.first_profile import write_profile
    from emobench.scheduler.site import ask_site

    def shipped(name: str) -> str:
        return (find_shipped_sweeps() / name).read_text(encoding="utf-8")

    texts = {"quickstart.yaml": (shipped("quickstart.yaml"), "a first run, here, without a card")}
    site = ask_site()
    if site is None:
        hosted = "models behind an API, without Slurm"
        return texts | {"openai-api.yaml": (shipped("openai-api.yaml"), hosted)}
    study = re.sub(r"\A(#.*\n)+", "", shipped("emotions-cuda.yaml"))
    study = re.sub(r"^cluster: .*$", f"cluster: {PROFILE}", study, flags=re.MULTILINE)
    study = re.sub(r"^name: .*$", f"name: {Path(STUDY).stem}", study, flags=re.MULTILINE)
    profile = write_profile(site, list_template_dirs())
    return texts | {
        PROFILE: (profile, "what Slurm says of this site, for you to correct"),
        STUDY: (study, "a whole study on it"),
    }
