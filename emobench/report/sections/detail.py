"""Outcomes, what else the variant changed, and what the choices of the analysis could change."""

from __future__ import annotations

from urllib.parse import urlencode

from emobench.analysis.findings import Exploratory, GroupFinding, VariantFinding
from emobench.analysis.stats.estimates import Difference, Mean
from emobench.analysis.stats.mediators import MEDIATORS
from emobench.core.outcomes import OUTCOMES, Outcome
from emobench.report.blocks import Block, Cell, Remark, Scalar, Section, Table, heads
from emobench.report.figures.bars import bars
from emobench.report.numbers import (
    DAGGER,
    bounds,
    change,
    measure,
    p_value,
    percent,
    signed,
    spread,
)
from emobench.report.sections.common import (
    difference_columns,
    interval_columns,
    is_compared,
    keys_of,
    short_labels,
    title_of,
)
from emobench.report.study import Study

ROLES: dict[str, tuple[str, float]] = {
    "solved": ("good", 0.9),
    "failed": ("bad", 0.85),
    "agent_error": ("bad", 0.5),
    "max_steps": ("warn", 0.85),
    "context_overflow": ("warn", 0.5),
    "user_error": ("s4", 0.7),
}
SCORED = [outcome for outcome in OUTCOMES if outcome != Outcome.INFRA_ERROR]
EXPLORATORY = (
    "Differences are paired by task; p from sign flips, adjusted by Benjamini and Hochberg over "
    "this table: exploratory."
)


def outcome_section(group: GroupFinding, prefix: str) -> Section:
    """How conversations ended."""
    title, identifier = "Outcomes", f"{prefix}outcomes"
    if not any(each.mean.episodes or each.mean.missing for each in group.variants):
        return Section(identifier, title, (Remark("Nothing is planned here."),))
    rows = [
        (each.variant, {o.replace("_", " "): _share(each.outcomes.get(o)) for o in SCORED})
        for each in group.variants
    ]
    blocks: list[Block] = []
    if any(each.mean.episodes for each in group.variants):
        blocks.append(
            bars(
                f"{prefix}outcomes",
                f"How the conversations ended by variant, {title_of(group)}",
                rows,
                {outcome.replace("_", " "): ROLES[outcome] for outcome in SCORED},
                caption=f"How the conversations ended by variant, {title_of(group)}: shares of "
                "scored conversations.",
            )
        )
    blocks.append(_outcome_table(group, prefix))
    return Section(identifier, title, tuple(blocks))


def _share(found: Mean | None) -> float:
    return found.value or 0.0 if found else 0.0


def _outcome_table(group: GroupFinding, prefix: str) -> Table:
    rows = []
    for each in group.variants:
        cells = [Cell(each.variant), Cell(f"{each.mean.episodes:,}")]
        cells += [_outcome_cell(group, each, outcome) for outcome in (*SCORED, Outcome.INFRA_ERROR)]
        rows.append(tuple(cells))
    return Table(
        f"{prefix}outcomes",
        f"How the conversations ended, {title_of(group)}: counts, and shares of the scored ones; "
        "95 % intervals on hover and in the exports. A count leads to its conversations.",
        heads("Variant", "Scored", *(o.replace("_", " ") for o in SCORED), "missing"),
        tuple(rows),
        (
            f"{DAGGER} Fewer than 10 events, or fewer than 10 others: the rate says little. Agent "
            "error: a malformed or unknown tool call, or no usable reply. User error: the "
            "simulated user left its role. Both are data. Missing (of all planned): infrastructure "
            "errors, run again when the sweep is, and conversations that are not there.",
        ),
        tuple(
            {
                **keys_of(group, each.variant),
                "outcome": outcome,
                "label": found.label,
                "share": found.value,
                **interval_columns("share", found.interval),
                "count": found.events,
                "episodes": found.episodes,
                "notes": "; ".join(found.notes),
                **difference_columns(_change(each, outcome)),
            }
            for each in group.variants
            for outcome, found in each.outcomes.items()
        ),
    )


def _outcome_cell(group: GroupFinding, each: VariantFinding, outcome: str) -> Cell:
    found = each.outcomes.get(outcome)
    if found is None or found.value is None:
        return Cell("\u2013", state="muted")
    count = found.events
    title = f"{found.label}: {percent(found.value)} {bounds(found.interval)}"
    if not count:
        return Cell("0", title=title, state="muted")
    keys = ("env", "assistant", "strategy", "variant", "outcome")
    values = (group.env, group.assistant, group.agent_strategy, each.variant, outcome)
    link = "#" + urlencode(dict(zip(keys, values, strict=True)))
    return Cell(
        f"{count:,}", percent(found.value), title, link, mark=DAGGER if found.few_events else ""
    )


def _change(each: VariantFinding, column: str) -> Difference | None:
    return _difference(each.contrast.outcomes, column) if each.contrast else None


def _difference(found: tuple[Exploratory, ...], column: str) -> Difference | None:
    return next((item.difference for item in found if item.column == column), None)


def mediator_section(group: GroupFinding, prefix: str) -> Section:
    """Means per conversation and their differences from control."""
    title, identifier = "What else changed", f"{prefix}mediators"
    present = [
        column
        for column in MEDIATORS
        if any(m.column == column and m.episodes for v in group.variants for m in v.mediators)
    ]
    if not present:
        return Section(identifier, title, (Remark("No scored conversation yet."),))
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, Scalar]] = []
    for column in present:
        cells = [Cell(f"{MEDIATORS[column]}")]
        for each in group.variants:
            mean = next((m for m in each.mediators if m.column == column), None)
            gap = _difference(each.contrast.mediators, column) if each.contrast else None
            detail = ""
            if gap is not None and gap.value is not None:
                detail = f"{change(gap.value)} {spread(gap.interval)}".strip()
            sure = gap is not None and gap.p_adjusted is not None and gap.p_adjusted < 0.05
            label = gap.label if gap else mean.label if mean else ""
            p = f"; adjusted p {p_value(gap.p_adjusted)}" if gap else ""
            cells.append(
                Cell(
                    measure(mean.value if mean else None),
                    detail,
                    f"{label}{p}",
                    state="strong" if sure else "",
                )
            )
            records.append(
                {
                    **keys_of(group, each.variant),
                    "column": column,
                    "label": mean.label if mean else None,
                    "mean": mean.value if mean else None,
                    "episodes": mean.episodes if mean else 0,
                    **difference_columns(gap),
                }
            )
        rows.append(tuple(cells))
    table = Table(
        f"{prefix}mediators",
        f"Means per conversation by variant, {title_of(group)}; behind them the difference from "
        f"{group.baseline} with its 95 % interval clustered by task.",
        heads("Per conversation", *(each.variant for each in group.variants)),
        tuple(rows),
        (f"Bold: adjusted p below 0.05. {EXPLORATORY}",),
        tuple(records),
    )
    remark = Remark(
        "These follow from the variant: a longer conversation may be why a task fails, or merely "
        "come with it. No result is corrected for them."
    )
    return Section(identifier, title, (table, remark))


def sensitivity_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """What missing rewards could change."""
    title, identifier = "Sensitivity to missing data", f"{prefix}sensitivity"
    compared = [each for each in group.variants if each.contrast and each.contrast.sensitivity]
    if not compared:
        reason = f"Nothing is compared with {group.baseline} here."
        return Section(identifier, title, (Remark(reason),))
    missing = sum(each.mean.missing for each in group.variants)
    if not missing:
        reason = "No reward is missing, so there is nothing that another treatment could change."
        return Section(identifier, title, (Remark(reason),))
    rules = [each.rule for each in compared[0].contrast.sensitivity] if compared[0].contrast else []
    rows, records = [], []
    for each in compared:
        assert each.contrast is not None
        main = each.contrast.difference
        marks = short_labels(study.labels(group, each.variant))
        cells = [Cell(each.variant, marks), Cell(f"{each.mean.missing:,}")]
        cells.append(Cell(signed(main.value), bounds(main.interval, True), main.label))
        for found in each.contrast.sensitivity:
            cells.append(Cell(signed(found.value), bounds(found.t, True), found.label))
            records.append(
                {
                    **keys_of(group, each.variant),
                    "rule": found.rule,
                    "label": found.label,
                    "difference": found.value,
                    **interval_columns("difference", found.t),
                    "p_permutation": found.p_permutation,
                    "tasks": found.tasks,
                    "reason": found.reason,
                }
            )
        rows.append(tuple(cells))
    table = Table(
        f"{prefix}sensitivity",
        f"Difference in mean reward from {group.baseline} under other treatments of missing "
        f"rewards, {title_of(group)}, 95 % intervals clustered by task.",
        heads("Variant", "Missing", "as missing (main)", *rules),
        tuple(rows),
        (
            "As failure: every missing reward is 0. Worst case: 0 for the variant and 1 for "
            f"{group.baseline}; best case: the reverse (bounds without any assumption).",
        ),
        tuple(records),
    )
    return Section(identifier, title, (table,))


def protocol_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """Per protocol, second to the main analysis."""
    title, identifier = "Per protocol", f"{prefix}protocol"
    if study.sample is not None:
        text = (
            "Not computed: only a sample of the conversations was read, so it is not known of "
            "each whether its user kept to the protocol."
        )
        return Section(identifier, title, (Remark(text),))
    rows, records = [], []
    for each in group.variants:
        found = each.contrast.per_protocol if each.contrast else None
        if each.contrast is None or found is None or not is_compared(group):
            continue
        main = each.contrast.difference
        rows.append(
            (
                Cell(each.variant, short_labels(study.labels(group, each.variant))),
                Cell(signed(main.value), bounds(main.interval, True), main.label),
                Cell(
                    signed(found.value), bounds(found.interval, True) or found.reason, found.label
                ),
                Cell(f"{found.tasks:,}"),
            )
        )
        records.append({**keys_of(group, each.variant), **difference_columns(found)})
    if not rows:
        return Section(identifier, title, (Remark("There is nothing to compare."),))
    table = Table(
        f"{prefix}protocol",
        f"Difference in mean reward from {group.baseline}, {title_of(group)}: all conversations "
        "as assigned (main), and those only whose user invented and contradicted nothing, did not "
        "stop early and stayed the user; 95 % intervals clustered by task.",
        heads("Variant", "as assigned (main)", "per protocol", "Tasks paired"),
        tuple(rows),
        (
            "The second selects by what happened after the variant acted, so its sides are no "
            "longer comparable by design.",
        ),
        tuple(records),
    )
    return Section(identifier, title, (table,))
