"""The results as a small table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emobench.analysis.assessment import assess_collected
from emobench.analysis.gates import Label, find_labels
from emobench.analysis.pooled import VariantRow, build_variant_rows, choose_ks
from emobench.cli.terminal import make_table
from emobench.core.outcomes import CONTROL
from emobench.core.run_dir import RunDir
from emobench.core.wording import pluralise
from emobench.report.numbers import (
    describe_decision,
    format_change,
    format_difference,
    format_interval,
    format_number,
    format_p_phrase,
)
from emobench.report.sections.common import shorten_labels
from emobench.report.study import choose_sample_size
from emobench.tables.run_results import Collected, collect

if TYPE_CHECKING:
    from rich.table import Table

TERMINAL_KS = 4


def build_results(run_dir: RunDir) -> tuple[Table, str]:
    """Return one row a variant, over all cells of the run, and what has to stand below them.

    Reads the conversations, or a sample of many. Raises InvalidInput without a plan.
    """
    collected = collect(run_dir)
    ks = choose_ks(collected.plan.sweep.trials)[:TERMINAL_KS]
    heads = ["variant", "episodes", "reward", *(f"pass^{k}" for k in ks), "vs control"]
    heads += ["95% interval", "missing"]
    rows = build_variant_rows(collected, ks)
    tasks = sum(len(tasks) for tasks in collected.plan.sweep.tasks.values())
    trials = pluralise(collected.plan.sweep.trials, "trial")
    notes = [
        (
            f"{pluralise(tasks, 'task')} x {trials}; differences are paired by task, and "
            "rewards are means over the tasks that are paired"
        )
    ]
    notes += [
        f"{row.variant}: {pluralise(row.difference.left_out, 'task')} without a pair left out; on "
        f"the others {CONTROL} has {format_number(row.baseline_mean.value)}"
        for row in rows
        if row.difference and row.difference.left_out and row.baseline_mean
    ]
    notes += _list_losses(rows)
    if not collected.is_complete:
        notes.append("interim, since the run is unfinished: intervals are no reason to stop it")
    notes += [
        f"{row.variant}: {describe_decision(row.difference, row.decision, CONTROL)}"
        + (f" (adjusted {p}, {row.decision.family})" if p else "")
        for row in rows
        if row.difference and row.decision and row.difference.value is not None
        for p in [format_p_phrase(row.decision.p_adjusted)]
    ]
    notes += [
        f"{each.label.partition(',')[0]}, {row.variant} minus {CONTROL}: {format_difference(each)}"
        for row in rows
        for each in row.pass_differences[-1:]
        if each.value is not None
    ]
    groups = {cell.group for cell in collected.plan.cells}
    if len(groups) > 1:
        together = "environments, assistants and agent strategies together"
        notes.append(f"{together}; the report has each of the {len(groups)} alone")
    return make_table(heads, map(_format_cells, rows)), "\n".join([*notes, *_list_gates(collected)])


def _list_losses(rows: Sequence[VariantRow]) -> list[str]:
    """Return the first attempts that were lost, by variant, and what each difference is with them
    as failures; nothing where none was lost."""
    if not any(row.lost for row in rows):
        return []
    counts = ", ".join(f"{row.variant} {row.lost}" for row in rows)
    differences = ", ".join(
        f"{row.variant} {format_change(row.failed.value)} "
        f"{format_interval(row.failed.interval, change=True)}".rstrip()
        for row in rows
        if row.failed is not None
    )
    as_failures = f"; as failures, vs control: {differences}" if differences else ""
    return [f"first attempts lost: {counts}{as_failures}"]


def _list_gates(collected: Collected) -> list[str]:
    """Return what has to stand beside the effects: variants by the gates that they do not pass."""
    checks = assess_collected(collected, sample=choose_sample_size(collected.plan)).checks
    conditions = dict.fromkeys(result.condition for result in checks.gates)
    marks: dict[str, list[Label]] = {}
    for condition in conditions:
        if condition != condition.control:
            marks.setdefault(condition.variant, []).extend(find_labels(checks.gates, condition))
    variants: dict[str, list[str]] = {}
    for variant, found in marks.items():
        variants.setdefault(shorten_labels(found) or "passed", []).append(variant)
    return [f"gates: {mark} ({', '.join(names)})" for mark, names in variants.items()]


def _format_cells(row: VariantRow) -> list[str]:
    gap = row.difference
    return [
        row.variant,
        f"{row.scored}/{row.planned}",
        format_number(row.mean.value),
        *(format_number(each.value) for each in row.passes),
        "" if gap is None else format_change(gap.value),
        "" if gap is None else format_interval(gap.interval, change=True),
        str(row.missing),
    ]
