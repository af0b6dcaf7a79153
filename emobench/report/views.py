"""What the template shows: the report's sections as plain values, ready to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from emobench.analysis.metrics import CONTROL, INFRA_ERROR, OUTCOMES
from emobench.report import tables
from emobench.report.chart import Dot, dot_chart
from emobench.report.provenance import scripted_roles
from emobench.report.tables import Group, VariantRow, plural
from emobench.results.collect import CellResult, Collected

GLYPHS = {"done": "\u25cf", "partial": "\u25d0", "running": "\u25b7", "failed": "\u2715"}
MISSING_GLYPH = "\u25cb"
MOST_PROBLEMS = 50


@dataclass(frozen=True)
class Results:
    """One figure with its tables: over all cells, or within one group of them."""

    identifier: str
    title: str
    rows: list[VariantRow]
    size: str
    """'6 tasks x 2 trials'."""
    mean_chart: str
    difference_chart: str
    few_tasks: int
    """The number of tasks where it is small, else 0."""


def headline(collected: Collected) -> str:
    """One or two sentences: how much there is, control's mean, the largest change."""
    rows = tables.variant_rows(collected)
    scored = sum(row.mean.scored for row in rows)
    planned = sum(row.planned for row in rows)
    if not scored:
        return f"No conversation has a result yet; {planned:,} are planned."
    start = f"{scored:,} of {plural(planned, 'planned conversation')} "
    start += "has a result." if planned == 1 else "have a result."
    control = next((row for row in rows if row.variant == CONTROL), None)
    if control is None:
        return f"{start} The sweep has no control, so no variant can be compared with it."
    compared = [row for row in rows if row.difference and row.difference.value is not None]
    if not compared:
        return f"{start} Mean reward with control: {tables.rate(control.mean.value)}."
    largest = max(compared, key=lambda row: abs(_gap(row)))
    gap = largest.difference
    if gap is None or not _gap(largest):
        return f"{start} Mean reward with control: {tables.rate(control.mean.value)}; no change."
    interval = (
        f"95% interval {tables.bounds(gap.interval, difference=True).replace(', ', ' to ')[1:-1]}"
        if gap.interval
        else "too little to give an interval"
    )
    return (
        f"{start} Mean reward is {tables.rate(control.mean.value)} with control; the largest "
        f"change from it is {tables.signed(gap.value)} with {largest.variant} "
        f"({interval}, {plural(gap.tasks, 'task')} paired)."
    )


def notices(collected: Collected) -> list[str]:
    """What a reader has to know before the numbers, plainest first."""
    found: list[str] = []
    if scripted_roles(collected):
        found.append(
            "Scripted models: this report tests the pipeline; it is no finding about any model."
        )
    states = Counter(result.state for result in collected.cells)
    open_cells = len(collected.cells) - states["done"]
    if open_cells:
        found.append(
            f"Not complete: results are still missing in {open_cells:,} of "
            f"{plural(len(collected.cells), 'cell')}. "
            "The numbers below are over the conversations that exist."
        )
    files = [result.file for result in collected.cells]
    damaged = sum(file.damaged for file in files)
    foreign = sum(result.foreign for result in collected.cells)
    duplicates = sum(file.duplicates for file in files)
    if damaged or foreign or duplicates:
        found.append(
            f"Left out: {plural(damaged, 'damaged line')}, {plural(duplicates, 'repeated result')}"
            f" and {plural(foreign, 'conversation')} that belong to another cell or task."
        )
    changed = _changed_texts(collected)
    if changed:
        found.append(
            "Mixed prompts: some conversations were run with another text of "
            f"{', '.join(changed)} than this plan holds."
        )
    if len({collected.plan.benchmark, *(r.benchmark for file in files for r in file.episodes)}) > 1:
        found.append("Mixed benchmarks: the conversations were run with more than one version.")
    return found


def results(collected: Collected) -> list[Results]:
    """Over all cells first; then, where there are several, each group."""
    groups = tables.groups_of([result.cell for result in collected.cells])
    if len(groups) == 1:
        return [_results(collected, "all", " / ".join(groups[0]), groups[0])]
    found = [_results(collected, "all", f"all {len(groups)} settings together", None)]
    found += [
        _results(collected, f"group-{number}", " / ".join(group), group)
        for number, group in enumerate(groups)
    ]
    return found


def outcome_table(rows: Sequence[VariantRow]) -> list[dict[str, Any]]:
    """Counts and rates by variant; rates are over the conversations that are no infra errors."""
    table: list[dict[str, Any]] = []
    for row in rows:
        ended = sum(row.outcomes.values()) - row.infra_errors
        cells = [
            {
                "outcome": outcome,
                "count": row.outcomes[outcome],
                "percent": f"{100 * row.outcomes[outcome] / ended:.0f}%" if ended else "",
                "few": 0 < row.outcomes[outcome] < tables.FEW_EVENTS,
                "link": "#" + urlencode({"variant": row.variant, "outcome": outcome}),
            }
            for outcome in OUTCOMES
            if outcome != INFRA_ERROR
        ]
        table.append({"row": row, "cells": cells, "ended": ended})
    return table


def coverage(collected: Collected) -> dict[str, Any]:
    """The grid: a row for each assistant, env, strategy and trial; a column for each variant."""
    variants = tables.variants_of([result.cell for result in collected.cells])
    grid: dict[tuple[str, str, str, int], dict[str, CellResult]] = {}
    for result in collected.cells:
        cell = result.cell
        key = (cell.assistant, cell.env, cell.agent_strategy, cell.trial)
        grid.setdefault(key, {})[cell.variant] = result
    rows = [
        {"key": key, "cells": [_covered(found.get(variant)) for variant in variants]}
        for key, found in sorted(grid.items())
    ]
    states = Counter(result.state for result in collected.cells)
    legend = [
        {"state": state, "glyph": GLYPHS.get(state, MISSING_GLYPH), "count": states[state]}
        for state in ("done", "running", "partial", "failed", "missing")
    ]
    return {"variants": variants, "rows": rows, "legend": legend}


def unfinished(collected: Collected, redact: Callable[[str], str]) -> dict[str, Any]:
    """Cells whose summary gives a reason for what is missing, the first MOST_PROBLEMS of them."""
    found = [
        {
            "title": result.cell.title,
            "reason": result.says("exit_reason") or result.says("status"),
            "message": redact(result.says("message")),
        }
        for result in collected.cells
        if result.state != "done" and result.says("status") not in ("", "running")
    ]
    return {"shown": found[:MOST_PROBLEMS], "more": max(0, len(found) - MOST_PROBLEMS)}


def _results(collected: Collected, identifier: str, title: str, group: Group | None) -> Results:
    rows = tables.variant_rows(collected, group)
    cells = [r.cell for r in collected.cells if group is None or tables.group_of(r.cell) == group]
    tasks = len({(cell.env, task) for cell in cells for task in cell.tasks})
    trials = len({cell.trial for cell in cells})
    size = f"{plural(tasks, 'task')} \u00d7 {plural(trials, 'trial')}"
    return Results(
        identifier=identifier,
        title=title,
        rows=rows,
        size=size,
        mean_chart=_mean_chart(rows, identifier, title, size),
        difference_chart=_difference_chart(rows, identifier, title),
        few_tasks=tasks if tasks < tables.FEW_TASKS else 0,
    )


def _mean_chart(rows: Sequence[VariantRow], identifier: str, title: str, size: str) -> str:
    dots = [
        Dot(
            row.variant,
            row.mean.value,
            row.mean.interval,
            tables.rate(row.mean.value) if row.mean.scored else "no result yet",
            f"mean reward, {row.variant}, {size}: {tables.rate(row.mean.value)} "
            f"{tables.bounds(row.mean.interval)} over {plural(row.mean.scored, 'conversation')}",
            is_reference=row.variant == CONTROL,
        )
        for row in rows
    ]
    control = next((row.mean.value for row in rows if row.variant == CONTROL), None)
    return dot_chart(
        dots,
        identifier=f"{identifier}-mean",
        title=f"Mean reward by variant, {title}, {size}",
        description="; ".join(dot.caption for dot in dots),
        axis="mean reward",
        domain=(0.0, 1.0),
        ticks=[(value / 4, f"{value / 4:g}") for value in range(5)],
        reference=control,
    )


def _difference_chart(rows: Sequence[VariantRow], identifier: str, title: str) -> str:
    dots = [
        Dot(
            row.variant,
            row.difference.value,
            row.difference.interval,
            tables.signed(row.difference.value) if row.difference.tasks else "no pair of tasks yet",
            f"difference from control, {row.variant}: {tables.signed(row.difference.value)} "
            f"{tables.bounds(row.difference.interval, difference=True)} over "
            f"{plural(row.difference.tasks, 'paired task')}",
        )
        for row in rows
        if row.difference is not None
    ]
    if not dots:
        return ""
    # The same rows as in the chart beside it.
    dots.insert(0, Dot(CONTROL, 0.0, None, "0", "control is the reference", is_reference=True))
    ends = [abs(dot.value or 0) for dot in dots]
    ends += [abs(e) for d in dots if d.interval for e in (d.interval.low, d.interval.high)]
    reach = next(step for step in (0.1, 0.2, 0.5, 1.0) if step >= max(ends) or step == 1.0)
    return dot_chart(
        dots,
        identifier=f"{identifier}-difference",
        title=f"Difference in mean reward from control by variant, {title}",
        description="; ".join(dot.caption for dot in dots),
        axis="difference from control, paired by task",
        domain=(-reach, reach),
        ticks=[(reach * part / 2, _tick(reach * part / 2)) for part in range(-2, 3)],
        reference=0.0,
    )


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", tables.MINUS) if value else "0"


def _gap(row: VariantRow) -> float:
    return (row.difference.value if row.difference else None) or 0.0


def _covered(result: CellResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    cell = result.cell
    keys = ("assistant", "env", "strategy", "variant", "trial")
    reason = result.says("exit_reason") if result.state in ("failed", "partial") else ""
    infra = plural(result.infra_errors, "infrastructure error") if result.infra_errors else ""
    return {
        "state": result.state,
        "glyph": GLYPHS.get(result.state, MISSING_GLYPH),
        "count": f"{result.scored}/{result.expected}",
        "title": ", ".join(part for part in (cell.title, result.state, reason, infra) if part),
        "link": "#" + urlencode(dict(zip(keys, cell.key, strict=True)))
        if result.file.episodes
        else "",
    }


def _changed_texts(collected: Collected) -> list[str]:
    variants = collected.plan.sweep.variants
    return sorted(
        {
            result.cell.variant
            for result in collected.cells
            for record in result.file.episodes
            if record.variant_sha256
            and result.cell.variant in variants
            and record.variant_sha256 != variants[result.cell.variant].sha256
        }
    )
