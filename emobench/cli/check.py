"""`emobench check`: the gates of a run.

Exit codes: 0 no gate failed (passed or not checked), 1 a gate failed, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir, count
from emobench.cli.terminal import make_table, show
from emobench.core.output import say_json, warn
from emobench.core.wording import pluralise

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from emobench.analysis.assessment import Checks
    from emobench.analysis.gates import GateResult, Verdict
    from emobench.analysis.judge.manipulation import Agreement, Manipulation
    from emobench.core.outcomes import Group
    from emobench.core.run_dir import RunDir

PASSED, FAILED = 0, 1
WORDS: dict[Verdict, str] = {
    "passed": "passed",
    "failed": "FAILED",
    "not_checked": "not checked",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Evaluate the gates of a run: coverage, power, manipulation, fidelity."
    parser.epilog = "exit codes: 0 no gate failed, 1 a gate failed, 2 wrong arguments"
    add_run_dir(parser)
    parser.add_argument(
        "--sample",
        type=count,
        metavar="N",
        help="read so many conversations of each variant, the same tasks in all (default: all)",
    )
    add_json(parser, "what checks.json holds")


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir

    return check_run(find_run_dir(arguments.run_dir), arguments.sample, arguments.json)


def check_run(run_dir: RunDir, sample: int | None, as_json: bool) -> int:
    """Evaluate the gates, write checks.json and print; return the exit code."""
    from emobench.analysis.assessment import assess, to_json, write_checks

    checks = assess(run_dir, sample=sample).checks
    try:
        write_checks(run_dir, checks)
    except OSError as error:
        warn(f"{run_dir.checks} is not written: {error.strerror}")
    if as_json:
        say_json(to_json(checks), indent=2)
    else:
        show(*render(checks))
    return FAILED if checks.verdict == "failed" else PASSED


def render(checks: Checks) -> Iterator[RenderableType]:
    """Yield every gate of every variant with its figures, and what the judge saw."""
    yield f"{checks.run}: {_summarise(checks)}"
    yield from (f"since the submission: {line}" for line in checks.settings_changed)
    if checks.thresholds_changed:
        yield (
            f"thresholds were changed on {checks.thresholds_changed}, with results on disk: "
            "they were not declared before the data"
        )
    if checks.sample is not None:
        yield (
            f"read: a sample of at most {pluralise(checks.sample, 'conversation')} of each variant"
        )
    groups: dict[Group, list[tuple[str, ...]]] = {}
    for condition, results in groupby(checks.gates, key=lambda result: result.condition):
        groups.setdefault(condition.group, []).extend(_build_rows(condition.variant, list(results)))
    for group, rows in groups.items():
        yield "\n" + ", ".join(group)
        yield make_table(("variant", "verdict", "gate"), rows, left=3, elastic=2)
    for each in checks.manipulation:
        yield f"\njudge {each.model}: user turns by label"
        yield _build_judge_table(each)
        yield from map(_format_agreement, each.with_markers)
    yield from (f"judges {_format_agreement(each)}" for each in checks.judges_agree)


def _summarise(checks: Checks) -> str:
    from emobench.analysis.gates import GATES

    parts = []
    for gate in GATES:
        verdicts = [result.verdict for result in checks.gates if result.gate == gate]
        failed, unknown = verdicts.count("failed"), verdicts.count("not_checked")
        if failed:
            parts.append(f"{gate} failed for {failed} of {len(verdicts)}")
        elif unknown:
            parts.append(f"{gate} not checked for {unknown} of {len(verdicts)}")
        elif verdicts:
            parts.append(f"{gate} passed")
    return ", ".join(parts)


def _build_rows(variant: str, results: Sequence[GateResult]) -> Iterator[tuple[str, ...]]:
    """Yield the gates that are passed on one line, each other one with its reason."""
    passed = [result.gate for result in results if result.verdict == "passed"]
    if passed:
        yield variant, WORDS["passed"], ", ".join(passed)
    for result in results:
        if result.verdict != "passed":
            near = result.verdict == "failed" and any(each.near for each in result.criteria)
            doubt = " (an interval holds its threshold)" if near else ""
            yield variant, WORDS[result.verdict], f"{result.gate}: {result.reason}{doubt}"


def _build_judge_table(seen: Manipulation) -> Table:
    from emobench.store.labels import LABELS

    rows = [
        (
            f"{each.condition.variant} ({'/'.join(each.condition.group)})",
            *(each.labels[label] for label in LABELS),
            each.missing,
        )
        for each in seen.conditions
    ]
    return make_table(("variant", *LABELS, "missing"), rows)


def _format_agreement(each: Agreement) -> str:
    if each.observed is None:
        return f"{each.what}: no turn in common"
    kappa = "undefined" if each.kappa is None else f"{each.kappa:.2f}"
    return (
        f"{each.what}: agree on {each.observed:.0%} of {pluralise(each.turns, 'turn')}, kappa "
        f"{kappa}"
    )
