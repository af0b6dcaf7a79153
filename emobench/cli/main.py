"""The emobench command. Nothing heavy is imported before the subcommand that needs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from emobench import __version__
from emobench.core.errors import EmobenchError

EPILOG = """examples:
  emobench sweep sweeps/quickstart.yaml --wait      run a study on this machine
  emobench sweep sweeps/x.yaml --dry-run            write the scripts, submit nothing
  emobench sweep sweeps/x.yaml --cluster cuda       submit it
  emobench status                                   the newest run below runs/
  emobench watch                                    a screen to leave open
  emobench logs runs/x user -f                      follow a server's log, or a cell's
  emobench report runs/x                            write runs/x/report.html
  emobench conversations runs/x --task 12 --variant anger    read one
  emobench collect runs/x --csv                     its episodes and turns as tables
  emobench judge runs/x --base-url URL --model M    which emotion does each user turn show?
  emobench check runs/x                             coverage, power, manipulation, fidelity
  emobench cancel runs/x                            stop its jobs; results stay
  emobench doctor --cluster my-site.yaml            would a sweep run on this site?
  emobench power sweeps/x.yaml                      could it find the drop of interest?
  emobench probe --base-url URL --model M           can a sweep use this endpoint?
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emobench",
        description="Does a customer-service agent still do its job when the user is upset?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emobench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    sweep = commands.add_parser("sweep", help="submit a sweep file, or what is missing of it")
    add_sweep_arguments(sweep)
    commands.add_parser("run", help="run one cell (see emobench run --help)", add_help=False)
    for name, text in (
        ("status", "servers, cells, episodes and mean reward of a run"),
        ("cancel", "stop the jobs of a run; results stay"),
    ):
        command = commands.add_parser(name, help=text)
        optional = "?" if name == "status" else None
        command.add_argument(
            "run_dir",
            nargs=optional,
            metavar="RUN_DIR",
            help="e.g. runs/quickstart" + (" (default: the newest)" if optional else ""),
        )
        command.add_argument("--json", action="store_true", help="for machines")
        if name == "cancel":
            command.add_argument(
                "--force", action="store_true", help="also servers that other sweeps lease"
            )
    for name, text in (
        ("report", "the report of a run or of a collected folder, and its figures and tables"),
        ("watch", "the state of a run on one screen, redrawn until it is over"),
        ("logs", "the logs of a run: what there is, or the end of one"),
        ("conversations", "read a run's conversations, or their patterns by variant"),
    ):
        commands.add_parser(name, help=f"{text} (see --help)", add_help=False)
    commands.add_parser(
        "collect",
        help="tables of episodes and turns, of several runs too (see --help)",
        add_help=False,
    )
    for name, text in (
        ("judge", "ask a model, blind to the variant, which emotion each user turn shows"),
        ("check", "the gates of a run: coverage, power, manipulation, fidelity"),
    ):
        commands.add_parser(name, help=f"{text} (see --help)", add_help=False)
    commands.add_parser(
        "doctor", help="check a site before anything is queued (see --help)", add_help=False
    )
    commands.add_parser(
        "power", help="the smallest drop that a sweep can detect (see --help)", add_help=False
    )
    commands.add_parser(
        "probe", help="ask an endpoint whether a sweep can use it (see --help)", add_help=False
    )
    commands.add_parser("schema", help="print the JSON schema of sweep files, for editors")
    commands.add_parser(
        "serve-scripted", help="start the scripted model server (see --help)", add_help=False
    )
    return parser


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a sweep file, e.g. sweeps/x.yaml")
    parser.add_argument(
        "--cluster", metavar="NAME|PATH", help="profile instead of the sweep file's"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<sweep name>")
    parser.add_argument("--dry-run", action="store_true", help="write the scripts, submit nothing")
    parser.add_argument("--wait", action="store_true", help="follow it to its end, then report")
    parser.add_argument(
        "--keep-servers",
        type=_minutes,
        metavar="MIN",
        help="minutes that the servers stay after the last cell (default: keep_servers_min)",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome for machines")


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100_000:
        raise ValueError
    return value


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(arguments))


def guarded(action: Callable[[], int]) -> int:
    """Run a command; the user's mistakes and the world's failures end without a traceback."""
    try:
        return action()
    except EmobenchError as error:
        print(f"emobench: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, as head does
        return 1
    except OSError as error:
        print(f"emobench: {error}\n  nothing that was written before is lost", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nemobench: interrupted; jobs that were submitted go on", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    # These have parsers of their own.
    if arguments[:1] == ["run"]:
        from emobench.cli.run import leave
        from emobench.cli.run import main as run

        leave(run(arguments[1:]))
    if arguments[:1] == ["serve-scripted"]:
        from emobench.scripted.command import main as serve

        return serve(arguments[1:])
    if arguments[:1] == ["doctor"]:
        from emobench.runs.doctor import main as doctor

        return doctor(arguments[1:])
    if arguments[:1] == ["power"]:
        from emobench.cli.power import main as power

        return power(arguments[1:])
    if arguments[:1] == ["probe"]:
        from emobench.cli.probe import main as probe

        return probe(arguments[1:])
    if arguments[:1] == ["report"]:
        from emobench.cli.report import main as report

        return report(arguments[1:])
    if arguments[:1] == ["collect"]:
        from emobench.cli.collect import main as collect

        return collect(arguments[1:])
    if arguments[:1] == ["judge"]:
        from emobench.cli.checks import judge_main

        return judge_main(arguments[1:])
    if arguments[:1] == ["check"]:
        from emobench.cli.checks import check_main

        return check_main(arguments[1:])
    if arguments[:1] == ["watch"]:
        from emobench.cli.watch import main as watch

        return watch(arguments[1:])
    if arguments[:1] == ["logs"]:
        from emobench.cli.logs import main as logs

        return logs(arguments[1:])
    if arguments[:1] == ["conversations"]:
        from emobench.cli.conversations.command import main as conversations

        return conversations(arguments[1:])
    parsed = build_parser().parse_args(arguments)
    if parsed.command == "sweep":
        from emobench.cli.sweep import sweep_command

        return sweep_command(parsed)
    if parsed.command == "schema":
        from emobench.config.schema import sweep_file_schema

        print(json.dumps(sweep_file_schema(), indent=2))
        return 0
    from emobench.core.plan import find_run_dir

    run_dir = find_run_dir(parsed.run_dir)
    if parsed.command == "status":
        from emobench.runs.status import gather, show

        status = gather(run_dir, cost=True)
        print(json.dumps(status, indent=2) if parsed.json else show(status))
        return 0
    from emobench.runs.submission import cancel

    cancelled = cancel(run_dir, force=parsed.force)
    stopped = cancelled.stopped
    if parsed.json:
        print(json.dumps({"cancelled": stopped, "shared": cancelled.shared}))
        return 0
    if stopped:
        print(f"cancelled: {', '.join(stopped)}; results stay in {run_dir.path}")
    elif not cancelled.shared:
        print(f"nothing of {run_dir.path} was running")
    for name, who in cancelled.shared.items():
        print(f"{name} stays: another sweep uses it: {who}; --force cancels it as well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
