"""pass^k over k."""

from __future__ import annotations

from emobench.analysis.findings import GroupFinding
from emobench.analysis.stats.estimates import PassK
from emobench.report.blocks import Block, Cell, Remark, Scalar, Section, Table, heads
from emobench.report.figures.curves import Curve, Point, curves
from emobench.report.numbers import DAGGER, bounds, plural, rate
from emobench.report.scene import series
from emobench.report.sections.common import interval_columns, keys_of, title_of


def pass_k_section(group: GroupFinding, prefix: str) -> Section:
    """The curves and their numbers; without two trials only pass^1, in words."""
    ks = sorted({each.k for variant in group.variants for each in variant.pass_k})
    blocks: list[Block] = []
    defined = [k for k in ks if any(_of(v.pass_k, k) is not None for v in group.variants)]
    if len(defined) > 1:
        roles = series([each.variant for each in group.variants], group.baseline)
        lines = [
            Curve(
                each.variant,
                tuple(
                    Point(
                        defined.index(found.k),
                        found.value,
                        found.interval,
                        f"{found.label}: {rate(found.value)} {bounds(found.interval)}",
                    )
                    for found in each.pass_k
                    if found.value is not None
                ),
                roles[each.variant],
            )
            for each in group.variants
        ]
        blocks.append(
            curves(
                f"{prefix}pass-k",
                f"pass^k by variant, {title_of(group)}",
                lines,
                [str(k) for k in defined],
                axis="k: trials of a task that must all succeed",
                value_axis="pass^k",
                caption=f"pass^k by variant, {title_of(group)}: the chance that k trials of a task "
                "all succeed, C(c,k)/C(n,k) averaged over tasks with the n trials counted for each "
                "task; whiskers are 95 % score intervals over tasks.",
            )
        )
    elif defined:
        blocks.append(Remark("No task has two scored trials, so there is no pass^2 or beyond."))
    else:
        blocks.append(Remark("No conversation has a result yet."))
    if defined:
        blocks.append(_table(group, prefix, defined))
    return Section(f"{prefix}pass-k-section", "Reliability over trials: pass^k", tuple(blocks))


def _table(group: GroupFinding, prefix: str, ks: list[int]) -> Table:
    rows, records = [], []
    notes: dict[str, None] = {}
    for each in group.variants:
        cells = [Cell(each.variant)]
        for k in ks:
            found = next((item for item in each.pass_k if item.k == k), None)
            if found is None:
                cells.append(Cell("\u2013", state="muted"))
                continue
            few = f"{found.tasks} of {plural(found.of, 'task')}" if found.tasks < found.of else ""
            detail = " ".join(part for part in (bounds(found.interval), few) if part)
            mark = DAGGER if found.notes and found.value is not None else ""
            title = "; ".join([found.label, *found.notes, found.reason]).strip("; ")
            cells.append(Cell(rate(found.value), detail, title, mark=mark))
            if mark:
                notes.update(dict.fromkeys(found.notes))
            records.append({**keys_of(group, each.variant), **_record(found)})
        rows.append(tuple(cells))
    return Table(
        f"{prefix}pass-k",
        f"pass^k by variant, {title_of(group)}, 95 % intervals over tasks; a dash where no task "
        "has k scored trials.",
        heads("Variant", *(f"pass^{k}" for k in ks)),
        tuple(rows),
        (f"{DAGGER} {'; or '.join(notes)}.",) if notes else (),
        tuple(records),
    )


def _record(found: PassK) -> dict[str, Scalar]:
    return {
        "k": found.k,
        "label": found.label,
        "pass_k": found.value,
        **interval_columns("pass_k", found.interval),
        **interval_columns("pass_k_bootstrap", found.bootstrap),
        "tasks": found.tasks,
        "tasks_with_a_trial": found.of,
        "notes": "; ".join([*found.notes, found.reason]).strip("; "),
    }


def _of(found: tuple[PassK, ...], k: int) -> float | None:
    return next((each.value for each in found if each.k == k), None)
