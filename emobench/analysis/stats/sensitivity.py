"""What missing rewards could change: the difference under other treatments of them.

The main analysis takes an infrastructure error as missing: it says nothing about the agent. Where
errors hit the variants unequally that may bias, so three others stand beside it: every missing
reward as a failure, and the worst and the best that the missing ones could have been (Manski 1990,
bounds without assumptions on what is missing).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from emobench.analysis.stats.estimates import Difference, Sensitivity
from emobench.analysis.stats.paired import paired_difference
from emobench.analysis.stats.units import Arm, Floats, Ints, align_by_task, divide

FILLS = {"as failure": (0.0, 0.0), "worst case": (0.0, 1.0), "best case": (1.0, 0.0)}
"""What a missing reward is taken as, in the variant and in control, by rule."""
LOST = "lost first attempts as failures"
SHOWN = 0.05
"""p below which a difference is read as a drop or a gain."""


def compare_missing(label: str, treated: Arm, control: Arm) -> tuple[Sensitivity, ...]:
    """Return the paired difference with missing rewards set to 0 (as failure), to 0 for the variant
    and 1 for control (worst case), and the other way round (best case)."""
    return tuple(
        _compare(
            f"{label}, missing rewards {'as the ' if 'case' in rule else ''}{rule}",
            rule,
            (treated.tasks, _fill_missing(treated, own)),
            (control.tasks, _fill_missing(control, other)),
        )
        for rule, (own, other) in FILLS.items()
    )


def compare_lost(label: str, treated: Arm, control: Arm) -> Sensitivity:
    """Return the paired difference of arms in which lost first attempts count as failures
    (`lost_attempts.fail_losses`)."""
    sides = ((arm.tasks, arm.means) for arm in (treated, control))
    return _compare(f"{label}, {LOST}", LOST, *sides)


def mark_reversals(main: Difference, rows: Iterable[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Return the rows, those marked that read otherwise than the main difference."""
    read = _read_direction(main)
    return tuple(replace(row, reverses=_read_direction(row) != read) for row in rows)


def _read_direction(found: Difference | Sensitivity) -> int:
    """Return -1 for a drop and 1 for a gain that its p shows, before adjustment; else 0."""
    if found.p_permutation is None or found.p_permutation >= SHOWN or not found.value:
        return 0
    return 1 if found.value > 0 else -1


def _compare(
    name: str, rule: str, treated: tuple[Ints, Floats], control: tuple[Ints, Floats]
) -> Sensitivity:
    sides = {"treated": treated, "control": control}
    rows, left_out = align_by_task(sides, *sides)
    gap = paired_difference(name, rows[0] - rows[1], left_out=left_out, bootstrap=False)
    return Sensitivity(name, rule, gap.value, gap.tasks, gap.t, gap.p_permutation, gap.reason)


def _fill_missing(arm: Arm, value: float) -> Floats:
    """Return mean reward by task with `value` for each missing one."""
    return divide(arm.total + value * arm.missing, arm.n + arm.missing)
