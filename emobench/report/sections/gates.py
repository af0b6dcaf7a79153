"""The gates of each variant, and what the design can detect."""

from __future__ import annotations

from collections.abc import Iterator

from emobench.analysis.gates import GATES, GateResult
from emobench.analysis.stats.power import POWER, power_verdict
from emobench.core.outcomes import Condition
from emobench.report.blocks import Block, Cell, Items, Remark, Scalar, Section, State, Table, heads
from emobench.report.numbers import DASH, percent, points
from emobench.report.sections.common import condition_keys
from emobench.report.study import Study

WORDS: dict[str, str] = {"passed": "passed", "failed": "failed", "not_checked": "not checked"}


def gate_section(study: Study) -> Section:
    """Every gate of every variant, and why those fail that do."""
    results: dict[Condition, dict[str, GateResult]] = {}
    for each in study.checks.gates:
        results.setdefault(each.condition, {})[each.gate] = each
    if not results:
        return Section("gates", "Gates", (Remark("Nothing is planned."),))
    several = len({condition.group for condition in results}) > 1
    table = Table(
        "gates",
        "Gates of each variant: thresholds declared in the sweep file before the data. What a "
        "variant does not pass stands beside its effect wherever that is shown.",
        heads("Variant", *GATES),
        tuple(
            (
                Cell(str(condition) if several else condition.variant),
                *(_verdict(found.get(gate)) for gate in GATES),
            )
            for condition, found in results.items()
        ),
        records=tuple(
            {
                **condition_keys(each.condition),
                "gate": each.gate,
                "verdict": each.verdict,
                "reason": each.reason,
            }
            for each in study.checks.gates
        ),
    )
    blocks: list[Block] = [table, *_reasons(study, several)]
    return Section("gates", "Gates", tuple(blocks))


def _verdict(found: GateResult | None) -> Cell:
    if found is None:
        return Cell(DASH, title="this gate needs a contrast", state="muted")
    state: State = found.verdict
    near = found.verdict != "not_checked" and any(each.near for each in found.criteria)
    return Cell(
        WORDS[found.verdict], title=found.reason, state=state, detail="near" if near else ""
    )


def _reasons(study: Study, several: bool) -> Iterator[Block]:
    """The same reason of several variants stands once."""
    whose: dict[tuple[str, str, str], list[str]] = {}
    for each in study.checks.gates:
        if each.verdict != "passed":
            key = (each.gate, WORDS[each.verdict], each.reason)
            name = str(each.condition) if several else each.condition.variant
            whose.setdefault(key, []).append(name)
    items = tuple(
        (f"{gate}, {verdict}", f"{', '.join(names)}: {reason}")
        for (gate, verdict, reason), names in whose.items()
    )
    if items:
        yield Items(items, "Reasons")
    if any(c.near for each in study.checks.gates for c in each.criteria):
        yield Remark(
            "The interval of its figure holds the threshold: more data might turn it.", "Near."
        )
    if study.checks.thresholds_changed:
        yield Remark(
            f"The thresholds were changed on {study.checks.thresholds_changed}, when there were "
            "results already: they are no longer declared before the data.",
            "Changed thresholds.",
        )


def power_section(study: Study) -> Section:
    """The smallest drop that the design can see."""
    wanted = study.checks.thresholds.smallest_effect
    verdict = power_verdict(study.cells, wanted)
    if not verdict.designs:
        reason = "No variant is compared with control, so there is no effect to detect."
        return Section("power", "Power", (Remark(reason),))
    rows, records = [], []
    for each in verdict.designs:
        design = each.design
        rows.append(
            (
                Cell(f"{design.env} / {design.assistant} / {design.agent_strategy}"),
                Cell(f"{design.tasks:,}"),
                Cell(f"{design.trials:,}"),
                Cell(f"{design.variants:,}"),
                Cell(
                    points(each.smallest) if each.smallest is not None else "none",
                    state="passed" if each.enough else "failed",
                ),
                Cell(points(wanted)),
                Cell(f"{each.trials_needed:,}" if each.trials_needed else "no number"),
                Cell(f"{each.tasks_needed:,}" if each.tasks_needed else "no number"),
            )
        )
        record: dict[str, Scalar] = {
            "env": design.env,
            "assistant": design.assistant,
            "agent_strategy": design.agent_strategy,
            "tasks": design.tasks,
            "trials": design.trials,
            "variants": design.variants,
            "alpha": each.alpha,
            "power": each.power,
            "smallest_drop": each.smallest,
            "wanted": each.wanted,
            "trials_needed": each.trials_needed,
            "tasks_needed": each.tasks_needed,
        }
        records.append(record)
    table = Table(
        "power",
        f"Smallest drop in mean reward, in points of 100, that the planned design finds with "
        f"{percent(POWER)} power, two-sided, at Holm's first step; and what the smallest effect of "
        "interest would take.",
        heads(
            "Group",
            "Tasks",
            "Trials",
            "Variants",
            "Smallest drop",
            "Wanted",
            "Trials needed",
            "Tasks needed",
        ),
        tuple(rows),
        (
            "From the difficulty of published gpt-4o results, not from this data: "
            "`emobench power SWEEP --pilot RUN_DIR` takes a run's own.",
        ),
        tuple(records),
    )
    return Section("power", "Power", (table,))
