"""`emobench power`: what a planned sweep, or a run like a pilot, can detect."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from emobench.analysis.planned_power import assess_planned_power
from emobench.analysis.stats.power import (
    ALPHA,
    POWER,
    Design,
    DesignPower,
    PowerVerdict,
    WantedFrom,
    solve_drop,
    solve_trials,
)
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.cli.arguments import add_json, make_number_type
from emobench.cli.terminal import show
from emobench.core.output import say_json
from emobench.core.wording import pluralise

TRIALS_SHOWN = (1, 2, 4, 8, 16)
SOURCES: dict[WantedFrom, str] = {
    "sweep file": "gates.smallest_effect",
    "default": "the default of gates.smallest_effect",
    "command": "--drop",
}

EPILOG = """examples:
  emobench power sweeps/x.yaml                     the smallest drop that the sweep can detect
  emobench power sweeps/x.yaml --drop 5            the trials that 5 points take
  emobench power sweeps/x.yaml --pilot runs/pilot  tasks as hard as the pilot found them
  emobench power runs/x                            a run's own design and difficulty
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The smallest drop in mean reward that a design detects by the report's own test, and the "
        "trials that a given drop takes."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "source", type=Path, metavar="FILE|RUN_DIR", help="a sweep file, or a run directory"
    )
    parser.add_argument(
        "--drop",
        type=make_number_type(
            float, lambda points: 0 < points < 100, "points above 0 and below 100"
        ),
        metavar="POINTS",
        help="drop of interest, in points of 100 (default: the sweep's gates.smallest_effect)",
    )
    parser.add_argument(
        "--pilot", type=Path, metavar="RUN_DIR", help="take the tasks' difficulty from this run"
    )
    parser.add_argument(
        "--alpha",
        type=make_number_type(float, lambda share: 0 < share < 1, "a share above 0 and below 1"),
        default=ALPHA,
        help=f"two-sided, over all variants of a group (default: {ALPHA})",
    )
    parser.add_argument(
        "--power",
        type=make_number_type(
            float, lambda share: 0.5 < share < 1, "a share above 0.5 and below 1"
        ),
        default=POWER,
        help=f"chance to find the drop (default: {POWER})",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0; 1 where the design is underpowered for the drop."""
    verdict = assess_planned_power(
        arguments.source,
        drop=None if arguments.drop is None else arguments.drop / 100,
        pilot=arguments.pilot,
        alpha=arguments.alpha,
        power=arguments.power,
    )
    if arguments.json:
        say_json(to_json(verdict), indent=2)
    else:
        show(render(verdict))
    return 0 if verdict.passed else 1


def summarise(verdict: PowerVerdict) -> list[str]:
    """Return one or two lines, for `emobench sweep` before it submits."""
    if not verdict.designs:
        return ["power       nothing is compared with control, so no effect can be found"]
    distinct = _drop_duplicates(verdict.designs)
    found = "; ".join(
        f"{_format_drop(each)}{', however large,' if each.smallest is None else ''} "
        f"{_describe_place(each.design)}"
        for each in distinct
    )
    lines = [f"power       smallest drop found {_format_chance(verdict.power)}: {found}"]
    short = [each for each in distinct if not each.enough]
    if short:
        fixes = "; ".join(f"{each.design.env} needs {suggest_remedy(each)}" for each in short)
        lines.append(
            f"            underpowered for a drop of {_format_points(verdict.wanted)} "
            f"({SOURCES[verdict.wanted_from]}): {fixes}"
        )
    return lines


def render(verdict: PowerVerdict) -> str:
    """Return the full answer: each design, its smallest drop by trials, and what the drop takes."""
    lines = [
        f"smallest drop in mean reward that is found {_format_chance(verdict.power)} "
        f"(two-sided, alpha {verdict.alpha:g}, sign flips paired by task, Holm's first step)"
    ]
    for each in _drop_duplicates(verdict.designs):
        design, hard = each.design, each.difficulty
        alpha = verdict.alpha / design.variants
        lines += [
            "",
            f"{design.env}, {_describe_size(design)} against control",
            f"  tasks as hard as    {hard.source}: pass^1 {hard.pass_1:.3f}, "
            f"pass^2 {hard.pass_2:.3f}",
            f"  effects differ by   {hard.spread:.2f} logits from task to task "
            f"({hard.spread_source})",
            f"  smallest drop       {_format_drop(each)}"
            + ("" if each.enough else f": underpowered for {_format_points(verdict.wanted)}"),
            f"  for {_format_points(verdict.wanted):<15} {_judge_wanted(each)}",
        ]
        row = []
        for trials in sorted({*TRIALS_SHOWN, design.trials} - {0}):
            drop = solve_drop(hard, design.tasks, trials, alpha=alpha, power=verdict.power)
            row.append(f"{trials}: {'none' if drop is None else f'{100 * drop:.1f}'}")
        lines.append(f"  points by trials    {'   '.join(row)}")
    lines += [
        "",
        *(
            f"{title}: nothing is compared with control"
            for title in _list_without_contrast(verdict)
        ),
    ]
    if len(verdict.designs) > len(_drop_duplicates(verdict.designs)):
        lines.append(f"{len(verdict.designs)} groups; those of the same design are shown once")
    return "\n".join(lines).rstrip()


def suggest_remedy(found: DesignPower) -> str:
    """Say what makes the wanted drop detectable; a sweep has no more tasks than the benchmark."""
    most = TASK_COUNTS[found.design.env]
    if found.wanted > found.most:
        return f"a smaller drop: control's mean is {_format_points(found.most)}"
    ways = []
    if found.trials_needed is not None:
        ways.append(pluralise(found.trials_needed, "trial"))
    if found.tasks_needed is not None and found.tasks_needed <= most:
        ways.append(pluralise(found.tasks_needed, "task"))
    if ways:
        return " or ".join(ways)
    trials = solve_trials(
        found.difficulty, most, found.wanted, alpha=found.alpha, power=found.power
    )
    if trials is None:
        return f"more than the benchmark's {most} tasks"
    return f"all {most} tasks x {pluralise(trials, 'trial')}"


def _judge_wanted(found: DesignPower) -> str:
    if found.wanted > found.most:
        mean = _format_points(found.most)
        return f"cannot be found: control's mean is {mean} and cannot lose more"
    return "is enough" if found.enough else f"needs {suggest_remedy(found)}"


def to_json(verdict: PowerVerdict) -> dict[str, object]:
    """Return the verdict for machines; drops as shares of 1."""
    designs = [
        {
            **asdict(each),
            "trials_needed": each.trials_needed,
            "tasks_needed": each.tasks_needed,
            "enough": each.enough,
        }
        for each in verdict.designs
    ]
    return {**asdict(verdict), "designs": designs}


def _drop_duplicates(found: Iterable[DesignPower]) -> list[DesignPower]:
    """Return the designs, each once where groups differ in name only."""
    unique: dict[tuple[object, ...], DesignPower] = {}
    for each in found:
        design = each.design
        key = (design.env, design.tasks, design.trials, design.variants, each.difficulty)
        unique.setdefault(key, each)
    return list(unique.values())


def _list_without_contrast(verdict: PowerVerdict) -> tuple[str, ...]:
    return verdict.without_contrast or (() if verdict.designs else ("this sweep",))


def _format_chance(power: float) -> str:
    return "4 times in 5" if abs(power - 0.8) < 1e-9 else f"with power {power:g}"


def _format_points(share: float) -> str:
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point{'' if text == '1' else 's'}"


def _format_drop(found: DesignPower) -> str:
    return "none" if found.smallest is None else _format_points(found.smallest)


def _describe_place(design: Design) -> str:
    return f"in {design.env} ({_describe_size(design)})"


def _describe_size(design: Design) -> str:
    return (
        f"{pluralise(design.tasks, 'task')} x {pluralise(design.trials, 'trial')}, "
        f"{pluralise(design.variants, 'variant')}"
    )
