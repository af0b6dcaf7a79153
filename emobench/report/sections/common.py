"""What the sections share: how groups are called, and numbers as columns of a table."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

from emobench.analysis.effects import GroupFinding
from emobench.analysis.gates import Label
from emobench.analysis.stats.estimates import FEW, Difference, Interval, Mean, Sensitivity
from emobench.analysis.stats.paired import make_undefined
from emobench.core.outcomes import Condition
from emobench.core.wording import pluralise
from emobench.report.blocks import Cell, Scalar, State
from emobench.report.numbers import DAGGER, DASH, format_change, format_interval
from emobench.report.study import Study

BLANK = Cell(DASH, state="muted")
FEW_NOTE = f"{DAGGER} Fewer than {FEW} events, or fewer than {FEW} others: the rate says little."


def format_title(group: GroupFinding) -> str:
    """Return 'retail / qwen / react'."""
    return f"{group.env} / {group.assistant} / {group.agent_strategy}"


def is_compared(group: GroupFinding) -> bool:
    """Return whether it has a baseline, and something to compare with it."""
    names = [each.variant for each in group.variants]
    return group.baseline in names and len(names) > 1


def format_size(study: Study, group: GroupFinding) -> str:
    """Return '115 tasks x 4 trials', as planned."""
    cells = [c for c in study.cells if c.group == group.key]
    tasks = len({task for cell in cells for task in cell.tasks})
    trials = len({cell.trial for cell in cells})
    return f"{pluralise(tasks, 'task')} \u00d7 {pluralise(trials, 'trial')}"


def shorten_labels(labels: Iterable[Label]) -> str:
    """Return 'fails power; not checked: manipulation'; empty where all gates passed."""
    marks = list(labels)
    failed = list(dict.fromkeys(mark.gate for mark in marks if mark.verdict == "failed"))
    open_ = list(dict.fromkeys(mark.gate for mark in marks if mark.verdict == "not_checked"))
    parts = [f"fails {', '.join(failed)}"] if failed else []
    parts += [f"not checked: {', '.join(open_)}"] if open_ else []
    return "; ".join(parts)


def link_conversations(group: GroupFinding, variant: str, **filters: str) -> str:
    """Return the address at which the page lists a variant's conversations."""
    names = ("env", "assistant", "strategy", "variant")
    values = (group.env, group.assistant, group.agent_strategy, variant)
    return "#" + urlencode({**dict(zip(names, values, strict=True)), **filters})


def choose_few_mark(found: Mean) -> str:
    """Return a mark where something happened, or failed to, but rarely; `FEW_NOTE` explains it."""
    return DAGGER if found.few_events and found.value not in (None, 0.0, 1.0) else ""


def build_difference_cell(
    found: Difference | Sensitivity, *, reason: str = "", state: State = "", mark: str = ""
) -> Cell:
    """Return a difference with its interval; `reason` stands where there is none."""
    detail = format_interval(found.interval, change=True) or reason
    return Cell(format_change(found.value), detail, found.label, state=state, mark=mark)


def build_keys(group: GroupFinding, variant: str) -> dict[str, Scalar]:
    """Return a variant of a group as columns of a table."""
    return {**group.key._asdict(), "variant": variant}


def build_interval_columns(name: str, interval: Interval | None) -> dict[str, Scalar]:
    """Return an interval as two columns, `name`_low and `name`_high; low and high without a
    name."""
    prefix = f"{name}_" if name else ""
    return {
        f"{prefix}low": interval.low if interval else None,
        f"{prefix}high": interval.high if interval else None,
    }


def build_difference_columns(found: Difference | None) -> dict[str, Scalar]:
    """Return a difference as columns of a table."""
    if found is None:
        return dict.fromkeys(build_difference_columns(make_undefined("", "")))
    return {
        "difference_label": found.label,
        "difference": found.value,
        **build_interval_columns("difference", found.t),
        **build_interval_columns("difference_bootstrap", found.bootstrap),
        "p_permutation": found.p_permutation,
        "p_adjusted": found.p_adjusted,
        "adjustment": found.adjustment,
        "tasks": found.tasks,
        "notes": "; ".join([*found.notes, found.reason]).strip("; "),
    }


def build_condition_keys(condition: Condition) -> dict[str, Scalar]:
    """Return a condition as columns of a table."""
    return {**condition.group._asdict(), "variant": condition.variant}
