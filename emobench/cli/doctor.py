"""`emobench doctor`. Exit codes: 0 nothing failed, 1 something did, 2 the profile is wrong."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json
from emobench.core.output import say, say_json

if TYPE_CHECKING:
    from emobench.core.site_check import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What would stop a sweep on this site, found before anything is queued. It submits nothing "
        "and changes nothing."
    )
    parser.add_argument(
        "--cluster", default="local", metavar="NAME|PATH", help="the profile (default: local)"
    )
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs go"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.config.profile import load_profile
    from emobench.runs.doctor import examine

    profile = load_profile(arguments.cluster)
    checks = []
    if not arguments.json:
        say(f"emobench doctor: cluster {profile.name} ({profile.scheduler})")
    for check in examine(profile, arguments.run_dir):
        checks.append(check)
        if not arguments.json:
            say(_format_check(check))
    failures = sum(check.state == "failed" for check in checks)
    if arguments.json:
        whole = {"cluster": profile.name, "scheduler": profile.scheduler, "ok": not failures}
        say_json({**whole, "checks": list(map(asdict, checks))}, indent=2)
    else:
        say(f"\n{failures} of {len(checks)} checks failed" if failures else "\nnothing failed")
    return 1 if failures else 0


def _format_check(check: Check) -> str:
    """Return a check as text; what to do stands on a line of its own."""
    head = f"  {check.state:8} {check.name:26} {check.message}".rstrip()
    return head + (f"\n{'':38}{check.hint}" if check.hint else "")
