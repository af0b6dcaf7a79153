"""`emobench check`: the gates of a run.

Exit codes: 0 no gate failed (passed or not checked), 1 a gate failed, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir, count

if TYPE_CHECKING:
    from emobench.analysis.assessment import Checks
    from emobench.analysis.gates import GateResult, Verdict
    from emobench.analysis.judge.manipulation import Agreement, Manipulation, VariantManipulation
    from emobench.core.outcomes import Condition
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
    from emobench.analysis.assessment import as_data, assess, write_checks

    checks = assess(run_dir, sample=sample).checks
    try:
        write_checks(run_dir, checks)
    except OSError as error:
        print(f"{run_dir.checks} is not written: {error.strerror}", file=sys.stderr)
    print(json.dumps(as_data(checks), indent=2) if as_json else show(checks))
    return FAILED if checks.verdict == "failed" else PASSED


def show(checks: Checks) -> str:
    """Every gate of every variant with its figures, and what the judge saw."""
    lines = [f"{checks.run}: {_summary(checks)}"]
    if checks.thresholds_changed:
        lines.append(
            f"thresholds were changed on {checks.thresholds_changed}, with results on disk: "
            "they were not declared before the data"
        )
    if checks.sample is not None:
        lines.append(f"read: a sample of at most {checks.sample} conversations of each variant")
    group = None
    for condition, results in _by_condition(checks.gates).items():
        if condition.group != group:
            group = condition.group
            lines += ["", ", ".join(group)]
        passed = [result.gate for result in results if result.verdict == "passed"]
        name = f"  {condition.variant:<14}"
        if passed:
            lines.append(f"{name}passed       {', '.join(passed)}")
            name = " " * len(name)
        for result in results:
            if result.verdict != "passed":
                lines.append(f"{name}{_line(result)}")
                name = " " * len(name)
    for each in checks.manipulation:
        lines += ["", *_judge(each)]
    lines += [f"judges {_agreement(each)}" for each in checks.judges_agree]
    return "\n".join(lines)


def _summary(checks: Checks) -> str:
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


def _by_condition(results: Sequence[GateResult]) -> dict[Condition, list[GateResult]]:
    found: dict[Condition, list[GateResult]] = {}
    for result in results:
        found.setdefault(result.condition, []).append(result)
    return found


def _line(result: GateResult) -> str:
    near = any(criterion.near for criterion in result.criteria)
    doubt = " (an interval holds its threshold)" if near and result.verdict == "failed" else ""
    return f"{WORDS[result.verdict]:<13}{result.gate}: {result.reason}{doubt}"


def _judge(seen: Manipulation) -> list[str]:
    from emobench.store.labels import LABELS

    lines = [f"judge {seen.model}: user turns by label"]
    width = max((len(each.condition.variant) for each in seen.conditions), default=0) + 2
    head = "".join(f"{label:>13}" for label in LABELS)
    lines.append(f"  {'':<{width}}{head}{'missing':>10}")
    lines += [_row(each, width) for each in seen.conditions]
    lines += [f"  {_agreement(each)}" for each in seen.with_markers]
    return lines


def _row(each: VariantManipulation, width: int) -> str:
    from emobench.store.labels import LABELS

    counts = "".join(f"{each.labels[label]:>13}" for label in LABELS)
    group = "/".join(each.condition.group)
    return f"  {each.condition.variant:<{width}}{counts}{each.missing:>10}  {group}"


def _agreement(each: Agreement) -> str:
    if each.observed is None:
        return f"{each.what}: no turn in common"
    kappa = "undefined" if each.kappa is None else f"{each.kappa:.2f}"
    return f"{each.what}: agree on {each.observed:.0%} of {each.turns} turns, kappa {kappa}"
