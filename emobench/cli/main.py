"""The `emobench` command: the registry of its commands and what all of them share.

Each command is a module of this package with `add_arguments(parser)` and `run(arguments) -> int`.
Only the one that was asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO, cast

from emobench import __version__
from emobench.core.errors import EmobenchError, suggest_nearest
from emobench.core.files import describe_failure
from emobench.core.output import print_tracebacks_visibly, say, warn
from emobench.core.ownership import LOOKING

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = {
    "init": "write a profile of this site and sweep files to begin with",
    "plan": "what a sweep takes: calls, tokens, hours, accelerator-hours, money",
    "sweep": "submit a sweep file, or what is missing of it",
    "run": "run one cell of a sweep, or one by hand",
    "status": "servers, cells, episodes and mean reward of a run",
    "watch": "the state of a run on one screen, redrawn until it is over",
    "logs": "the logs of a run: what there is, or the end of one",
    "rerun": "set episodes aside, so that they are run again",
    "sbatch": "print the lines that submit what is missing of a run, to submit it by hand",
    "cancel": "stop the jobs of a run; results stay",
    "report": "the report of a run or of a collected folder, and its figures and tables",
    "conversations": "read a run's conversations, or their patterns by variant",
    "collect": "tables of episodes and turns, of several runs too",
    "judge": "ask a model, blind to the variant, which emotion each user turn shows",
    "check": "the gates of a run: coverage, power, manipulation, fidelity",
    "power": "the smallest drop that a sweep can detect",
    "doctor": "check a site before anything is queued",
    "probe": "ask an endpoint whether a sweep can use it",
    "schema": "print the JSON schema of sweep files, for editors",
    "serve-scripted": "start the scripted model server",
    "completion": "print what completes these commands in a shell",
}
"""Name and help of every command; the module has the name, with _ for -."""

EPILOG = """examples:
  emobench init                                     files to begin with, for this site
  emobench plan sweeps/x.yaml                       what it takes, before it is queued
  emobench sweep sweeps/quickstart.yaml --wait      run a study on this machine
  emobench sweep sweeps/x.yaml --dry-run            what would be done; changes nothing
  emobench sweep sweeps/x.yaml --cluster cuda       submit it
  emobench status                                   the newest run below runs/
  emobench watch                                    a screen to leave open
  emobench logs runs/x user -f                      follow a server's log, or a cell's
  emobench report runs/x                            write runs/x/report.html
  emobench conversations runs/x --task 12 --variant anger    read one
  emobench collect runs/x --csv                     its episodes and turns as tables
  emobench judge runs/x --base-url URL --model M    which emotion does each user turn show?
  emobench check runs/x                             coverage, power, manipulation, fidelity
  emobench rerun runs/x --outcome agent_error       run these episodes again
  emobench cancel runs/x                            stop its jobs; results stay
  emobench doctor --cluster my-site.yaml            would a sweep run on this site?
  emobench power sweeps/x.yaml                      could it find the drop of interest?
  emobench probe --base-url URL --model M           can a sweep use this endpoint?

emobench COMMAND --help says what a command takes.
"""


class Command(Protocol):
    """A module of the registry."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Carry the command out and return its exit code."""


class _Help(argparse.HelpFormatter):
    """Keeps the line breaks of an epilog with examples, and wraps what is one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """One that names the nearest option to a mistyped one."""

    def __init__(self, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(prog, description=description, epilog=epilog, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        # Without the dashes, which make all options alike.
        options = [text[2:] for action in self._actions for text in action.option_strings]
        hint = suggest_nearest(unknown[1][2:], {*options} - {"help"}) if unknown else ""
        hint = hint.replace("'", "'--", 1)
        super().error(f"{message}; {hint}" if hint else message)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        say(message, end="", file=cast("TextIO | None", file))


def build_parser(with_arguments: bool = False) -> argparse.ArgumentParser:
    """Return the parser of the command line as a whole.

    The commands' arguments, which need their modules, are in it only if asked for.
    """
    parser = Parser(
        "emobench",
        description="Does a customer-service agent still do its job when the user is upset?",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"emobench {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if with_arguments:
            _import_command(name).add_arguments(command)
    return parser


def build_command_parser(name: str, prog: str = "") -> argparse.ArgumentParser:
    """Return the parser of one command's own arguments."""
    parser = Parser(prog or f"emobench {name}")
    _import_command(name).add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None, *, command: str = "", prog: str = "") -> int:
    """Carry out a command line and return its exit code.

    `argv` is by default this process's. With `command` it has only that command's own arguments,
    and `prog` is the name it goes by in usage messages. Raises SystemExit for wrong arguments, as
    argparse does.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        print_tracebacks_visibly()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
    if not command:
        if not words or words[0] not in COMMANDS:
            _refuse(words)
        command = words.pop(0)
    code = _run(command, words, prog)
    if argv is None and command == "run":
        # Abandoned episodes sit in threads that wait for a server; Python would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _import_command(name: str) -> Command:
    return cast("Command", importlib.import_module(f"emobench.cli.{name.replace('-', '_')}"))


def _refuse(words: Sequence[str]) -> NoReturn:
    """Answer --help and --version, or say what is wrong with a command line without a command."""
    parser = build_parser()
    if words and not words[0].startswith("-"):
        hint = suggest_nearest(words[0], COMMANDS) or "emobench --help lists the commands"
        parser.error(f"there is no command '{words[0]}'; {hint}")
    parser.parse_args(words)
    parser.error("which command?")


def _run(name: str, words: Sequence[str], prog: str) -> int:
    """Run a command; the user's mistakes and the world's failures end without a traceback."""
    try:
        arguments = build_command_parser(name, prog).parse_intermixed_args(words)
        return _import_command(name).run(arguments)
    except EmobenchError as error:
        warn(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of a pipe went away, as head does; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        text = (
            _describe_denied(error)
            or f"{describe_failure(error)}\n  nothing that was written before is lost"
        )
        warn(text)
        return 1
    except KeyboardInterrupt:
        say(file=sys.stderr)
        warn("interrupted; jobs that were submitted go on")
        return 130


def _describe_denied(error: OSError) -> str:
    """Say whose a file is that this user may not use; empty for every other failure."""
    if not isinstance(error, PermissionError) or not error.filename:
        return ""
    path = Path(os.fsdecode(error.filename))
    with suppress(OSError, KeyError):
        there = next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK))
        if there.stat().st_uid != os.geteuid():
            return (
                f"{path}: {error.strerror}; {there} belongs to {there.owner()}\n"
                f"  of somebody else's run you can use {LOOKING}"
            )
    return ""
