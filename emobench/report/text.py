"""The results as a small table for the terminal."""

from __future__ import annotations

from emobench.report.numbers import bounds, plural, rate, signed
from emobench.report.tables import VariantRow, ks_of, variant_rows
from emobench.results.collect import collect
from emobench.rundir import RunDir

TERMINAL_KS = 4


def text_table(run_dir: RunDir) -> str:
    """One line a variant, over all cells of the run. Raises InvalidInput without a plan."""
    collected = collect(run_dir)
    rows = variant_rows(collected)
    ks = ks_of(collected.plan.sweep.trials)[:TERMINAL_KS]
    head = ["variant", "episodes", "reward", *(f"pass^{k}" for k in ks), "vs control"]
    head += ["95% interval", "infra errors"]
    lines = [head, *(_cells(row, len(ks)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    tasks = sum(len(tasks) for tasks in collected.plan.sweep.tasks.values())
    trials = plural(collected.plan.sweep.trials, "trial")
    text.append(f"{plural(tasks, 'task')} x {trials}; differences are paired by task")
    groups = {(cell.env, cell.assistant, cell.agent_strategy) for cell in collected.plan.cells}
    if len(groups) > 1:
        together = "environments, assistants and agent strategies together"
        text.append(f"{together}; the report has each of the {len(groups)} alone")
    return "\n".join(text)


def _cells(row: VariantRow, ks: int) -> list[str]:
    gap = row.difference
    return [
        row.variant,
        f"{row.mean.scored}/{row.planned}",
        rate(row.mean.value),
        *(rate(each.value) for each in row.passes[:ks]),
        "" if gap is None else signed(gap.value),
        "" if gap is None else bounds(gap.interval, difference=True),
        str(row.infra_errors),
    ]
