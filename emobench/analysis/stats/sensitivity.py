"""What missing rewards could change: the difference under other treatments of them.

The main analysis takes an infrastructure error as missing: it says nothing about the agent. Where
errors hit the variants unequally that may bias, so three others stand beside it: every missing
reward as a failure, and the worst and the best that the missing ones could have been (Manski 1990,
bounds without assumptions on what is missing).
"""

from __future__ import annotations

from emobench.analysis.stats.estimates import Sensitivity
from emobench.analysis.stats.paired import paired_difference
from emobench.analysis.stats.units import Arm, Floats, align_by_task, divide

FILLS = {"as failure": (0.0, 0.0), "worst case": (0.0, 1.0), "best case": (1.0, 0.0)}
"""What a missing reward is taken as, in the variant and in control, by rule."""


def compare_missing(label: str, treated: Arm, control: Arm) -> tuple[Sensitivity, ...]:
    """Return the paired difference with missing rewards set to 0 (as failure), to 0 for the variant
    and 1 for control (worst case), and the other way round (best case)."""
    found = []
    for rule, (own, other) in FILLS.items():
        sides = {
            "treated": (treated.tasks, _fill_missing(treated, own)),
            "control": (control.tasks, _fill_missing(control, other)),
        }
        rows, left_out = align_by_task(sides, *sides)
        name = f"{label}, missing rewards {'as the ' if 'case' in rule else ''}{rule}"
        gap = paired_difference(name, rows[0] - rows[1], left_out=left_out, bootstrap=False)
        found.append(
            Sensitivity(name, rule, gap.value, gap.tasks, gap.t, gap.p_permutation, gap.reason)
        )
    return tuple(found)


def _fill_missing(arm: Arm, value: float) -> Floats:
    """Return mean reward by task with `value` for each missing one."""
    return divide(arm.total + value * arm.missing, arm.n + arm.missing)
