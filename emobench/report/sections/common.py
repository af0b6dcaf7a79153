"""What the sections share: how groups are called, and numbers as columns of a table."""

from __future__ import annotations

from collections.abc import Iterable

from emobench.analysis.findings import GroupFinding
from emobench.analysis.gates import Label
from emobench.analysis.stats.estimates import Difference, Interval
from emobench.core.outcomes import Condition
from emobench.report.blocks import Scalar
from emobench.report.numbers import plural
from emobench.report.study import Study

INTERVAL = "95 % interval clustered by task"


def title_of(group: GroupFinding) -> str:
    return f"{group.env} / {group.assistant} / {group.agent_strategy}"


def is_compared(group: GroupFinding) -> bool:
    """Whether it has a baseline, and something to compare with it."""
    names = [each.variant for each in group.variants]
    return group.baseline in names and len(names) > 1


def size_of(study: Study, group: GroupFinding) -> str:
    """'115 tasks x 4 trials', as planned."""
    cells = [c for c in study.cells if c.group == group.key]
    tasks = len({task for cell in cells for task in cell.tasks})
    trials = len({cell.trial for cell in cells})
    return f"{plural(tasks, 'task')} \u00d7 {plural(trials, 'trial')}"


def short_labels(labels: Iterable[Label]) -> str:
    """'fails power; not checked: manipulation'; empty where all gates passed."""
    marks = list(labels)
    failed = list(dict.fromkeys(mark.gate for mark in marks if mark.verdict == "failed"))
    open_ = list(dict.fromkeys(mark.gate for mark in marks if mark.verdict == "not_checked"))
    parts = [f"fails {', '.join(failed)}"] if failed else []
    parts += [f"not checked: {', '.join(open_)}"] if open_ else []
    return "; ".join(parts)


def keys_of(group: GroupFinding, variant: str) -> dict[str, Scalar]:
    return {
        "env": group.env,
        "agent_strategy": group.agent_strategy,
        "assistant": group.assistant,
        "variant": variant,
    }


def interval_columns(name: str, interval: Interval | None) -> dict[str, Scalar]:
    """An interval as two columns, `name`_low and `name`_high; low and high without a name."""
    prefix = f"{name}_" if name else ""
    return {
        f"{prefix}low": interval.low if interval else None,
        f"{prefix}high": interval.high if interval else None,
    }


def difference_columns(found: Difference | None) -> dict[str, Scalar]:
    """A difference as columns of a table."""
    return {
        "difference_label": found.label if found else None,
        "difference": found.value if found else None,
        **interval_columns("difference", found.t if found else None),
        **interval_columns("difference_bootstrap", found.bootstrap if found else None),
        "p_permutation": found.p_permutation if found else None,
        "p_adjusted": found.p_adjusted if found else None,
        "adjustment": found.adjustment if found else None,
        "tasks": found.tasks if found else None,
        "notes": "; ".join([*found.notes, found.reason]).strip("; ") if found else None,
    }


def condition_keys(condition: Condition) -> dict[str, Scalar]:
    return {
        "env": condition.env,
        "agent_strategy": condition.agent_strategy,
        "assistant": condition.assistant,
        "variant": condition.variant,
    }
