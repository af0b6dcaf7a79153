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

RULES = ("as failure", "worst case", "best case")


def compare_missing(label: str, treated: Arm, control: Arm) -> tuple[Sensitivity, ...]:
    """Return the paired difference with missing rewards set to 0 (as failure), to 0 for the variant
    and 1 for control (worst case), and the other way round (best case)."""
    fills = {"as failure": (0.0, 0.0), "worst case": (0.0, 1.0), "best case": (1.0, 0.0)}
    found = []
    for rule in RULES:
        rows, left_out = align_by_task(
            {
                "treated": (treated.tasks, _filled(treated, fills[rule][0])),
                "control": (control.tasks, _filled(control, fills[rule][1])),
            },
            "treated",
            "control",
        )
        name = f"{label}, missing rewards {'as the ' if 'case' in rule else ''}{rule}"
        difference = paired_difference(name, rows[0] - rows[1], left_out=left_out, bootstrap=False)
        found.append(
            Sensitivity(
                name,
                rule,
                difference.value,
                difference.tasks,
                difference.t,
                difference.p_permutation,
                difference.reason,
            )
        )
    return tuple(found)


def _filled(arm: Arm, value: float) -> Floats:
    """Return mean reward by task with `value` for each missing one."""
    return divide(arm.total + value * arm.missing, arm.n + arm.missing)
