"""`emobench completion`: a script for the shell, which completes commands, options and paths."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  eval "$(emobench completion bash)"                               in this shell, or in ~/.bashrc
  emobench completion zsh > ~/.zfunc/_emobench                     in a folder of zsh's fpath
"""
FOLDERS = ("RUN_DIR", "DIR", "FOLDER")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a script that completes emobench's commands in a shell."
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(arguments: argparse.Namespace) -> int:
    import shtab

    from emobench.cli.main import build_parser

    parser = build_parser(with_arguments=True)
    _complete_paths(parser)
    print(shtab.complete(parser, arguments.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that are paths, as shtab wants it."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
        elif action.metavar in FOLDERS:
            setattr(action, "complete", shtab.DIRECTORY)  # noqa: B010
        elif action.type is Path:
            setattr(action, "complete", shtab.FILE)  # noqa: B010
