"""What it cost: accelerator-hours by job and by variant, tokens and money of the models."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict

from emobench.core.outcomes import Outcome
from emobench.core.wording import format_about, format_duration, pluralise
from emobench.report.blocks import Block, Cell, Remark, Section, Table, make_heads
from emobench.report.sections.common import BLANK
from emobench.report.study import Study
from emobench.scheduler.cost import (
    PHASES,
    CostTotals,
    JobCost,
    compute_elapsed_s,
    compute_mean_batch,
    format_hours,
    sum_up,
)
from emobench.store.calls import NO_USAGE, ROLES, RoleUsage, add_usage, format_dollars, sum_cost
from emobench.store.forecast import Estimate, read_forecast
from emobench.store.jobs import JobKind

HOUR = 3600.0


def build_cost_section(study: Study) -> Section:
    """Build the table of the servers' queued, loading, serving and idle hours."""
    title, identifier = "Cost", "cost"
    if study.runs:
        text = (
            "A collected folder has no jobs of its own; the reports of the runs that it was made "
            "of hold their cost."
        )
        return Section(identifier, title, (Remark(text),))
    cost = study.collected.cost
    rows = [row for row in cost.jobs if row.spent.running_s or row.spent.queued_s]
    if not rows:
        remark = Remark(cost.problem or "No job of this run is recorded.")
        return Section(identifier, title, (remark, *_build_model_tables(study)))
    totals = sum_up(cost)
    blocks: list[Block] = [Remark(f"{totals}, from {totals.source}.", "In all.")]
    if cost.problem:
        blocks.append(Remark(cost.problem, "Not all is known."))
    kinds: dict[tuple[JobKind, str], list[JobCost]] = defaultdict(list)
    for row in rows:
        kinds[(row.run.kind, row.run.name)].append(row)
    table = Table(
        "cost",
        "Hours by server and by block of cells. Accelerator-hours are cards times hours held; a "
        "server is loading until its engine answers, serving while it has a request, waiting "
        "while no partner of it answers, else idle. Batch: requests under way while it had any, "
        "in the mean.",
        make_heads(
            "Job",
            "Jobs",
            "Cards",
            "Queued",
            "Held",
            "Loading",
            "Waiting",
            "Serving",
            "Idle",
            "Batch",
            "Accelerator-hours",
        ),
        tuple(_build_row(kind, name, each) for (kind, name), each in kinds.items()),
        records=tuple(
            {
                "kind": str(row.run.kind),
                "name": row.run.name,
                "job_id": row.run.job_id,
                "cell": row.run.cell,
                "accelerators": row.run.accelerators,
                "queued_s": row.spent.queued_s,
                "running_s": row.spent.running_s,
                "loading_s": row.spent.loading_s,
                "serving_s": row.spent.serving_s,
                "idle_s": row.spent.idle_s,
                "waiting_s": row.spent.waiting_s,
                "measured_s": row.spent.measured_s,
                "request_s": row.spent.request_s,
                "accelerator_s": row.accelerator_s,
                "source": row.run.source,
            }
            for row in rows
        ),
    )
    return Section(
        identifier,
        title,
        (
            *blocks,
            *_build_comparison(study),
            *_build_use_tables(study, totals),
            table,
            *_build_variant_tables(study),
            *_build_model_tables(study),
        ),
    )


def _build_row(kind: JobKind, name: str, rows: list[JobCost]) -> tuple[Cell, ...]:
    def hours(seconds: float) -> Cell:
        return Cell(format_hours(seconds / HOUR))

    server = kind is JobKind.SERVER
    cards = sorted({row.run.accelerators for row in rows})
    return (
        Cell(f"{name} ({'server' if server else 'cells'})"),
        Cell(f"{len(rows):,}"),
        Cell(" to ".join(map(str, dict.fromkeys((cards[0], cards[-1]))))) if server else BLANK,
        hours(sum(row.spent.queued_s for row in rows)),
        hours(sum(row.spent.running_s for row in rows)),
        hours(sum(row.spent.loading_s for row in rows)) if server else BLANK,
        hours(sum(row.spent.waiting_s for row in rows)) if server else BLANK,
        hours(sum(row.spent.serving_s for row in rows)) if server else BLANK,
        hours(sum(row.spent.idle_s for row in rows)) if server else BLANK,
        BLANK if (batch := compute_mean_batch(rows)) is None else Cell(f"{batch:.3g}"),
        hours(sum(row.accelerator_s for row in rows)) if server else BLANK,
    )


def _build_use_tables(study: Study, totals: CostTotals) -> list[Table]:
    """Build where the servers' hours went, in total and for each solved task."""
    kind = "accelerator" if totals.accelerator_hours else "server"
    total = getattr(totals, f"{kind}_hours")
    if not total:
        return []
    episodes = [record for each in study.collected.cells for record in each.file.episodes]
    solved = sum(record.outcome is Outcome.SOLVED for record in episodes)
    dollars = study.collected.plan.profile.accelerator_hour_price or 0.0
    dollars = dollars if totals.accelerator_hours else 0.0
    rows = [(name, getattr(totals, f"{kind}_hours_{name}")) for name in PHASES]
    titles = {"waiting": "waiting for a partner"}
    batch = ""
    if totals.mean_batch is not None:
        batch = f" A server that was serving had {totals.mean_batch:.3g} requests, in the mean."

    def build(title: str, hours: float) -> tuple[Cell, ...]:
        cells = [Cell(title), Cell(format_hours(hours)), Cell(f"{hours / total:.0%}")]
        each = f"{format_about(hours * HOUR / solved)} s" if solved else ""
        cells.append(Cell(each) if solved else BLANK)
        if dollars:
            cells.append(Cell(format_dollars(hours * dollars)))
            cells.append(Cell(format_dollars(hours * dollars / solved)) if solved else BLANK)
        return tuple(cells)

    heads = [f"{kind.capitalize()}-hours", "Share", "for a solved task"]
    heads += ["US dollars", "for a solved task"] if dollars else []
    return [
        Table(
            "cost-use",
            f"Where the {kind}-hours went, in total and for each of "
            f"{pluralise(solved, 'solved task')}.{batch} The servers' jobs were queued for "
            f"{format_hours(totals.server_hours_queued)} hours, which hold no card.",
            make_heads("What", *heads),
            (
                *(build(titles.get(name, name), hours) for name, hours in rows),
                build("in total", total),
            ),
            records=tuple(
                {
                    "what": name,
                    f"{kind}_hours": hours,
                    f"{kind}_hours_for_a_solved_task": hours / solved if solved else None,
                    "mean_batch": totals.mean_batch if name == "serving" else None,
                }
                for name, hours in (*rows, ("total", total))
            ),
        )
    ]


def _build_comparison(study: Study) -> list[Block]:
    """Build what was expected at the first submission, beside what it took."""
    collected = study.collected
    forecast = read_forecast(collected.run_dir)
    if forecast is None:
        return []
    summaries = [each.summary for each in collected.cells if each.summary]
    usage = add_usage(*(each.usage for each in summaries))
    totals = sum_up(collected.cost)
    elapsed = compute_elapsed_s(collected.cost, time.time()) / HOUR
    episodes = sum(each.finished for each in summaries)
    rows: list[tuple[str, Estimate, float | None, Callable[[float], str]]] = []
    for role in ROLES:
        for title, expected, fact in (
            ("tokens in", forecast.tokens_in, usage[role].prompt_tokens),
            ("tokens out", forecast.tokens_out, usage[role].completion_tokens),
        ):
            if role in expected:
                rows.append((f"{role}'s {title}", expected[role], fact, format_about))
    rows.append(("hours with a job running", forecast.hours, elapsed, format_hours))
    if forecast.accelerators:
        hours = totals.accelerator_hours
        rows.append(("accelerator-hours", forecast.accelerator_hours, hours, format_hours))
    price = collected.plan.profile.accelerator_hour_price
    if forecast.accelerator_dollars is not None and price is not None:
        spent = totals.accelerator_hours * price
        rows.append(("cost of accelerators", forecast.accelerator_dollars, spent, format_dollars))
    if forecast.token_dollars is not None:
        rows.append(
            ("cost of hosted models", forecast.token_dollars, sum_cost(usage), format_dollars)
        )
    caption = (
        "What the study was expected to take when it was first submitted, and what it took. The "
        "expected range was to hold nine times in ten."
    )
    if episodes < forecast.episodes:
        caption += f" So far {episodes:,} of {pluralise(forecast.episodes, 'episode')} are done."
    table = Table(
        "cost-plan",
        caption,
        make_heads("Figure", "Expected", "from", "to", "Took", "Took / expected"),
        tuple(_build_comparison_row(*row) for row in rows),
        notes=tuple(f"{what} rested on: {text}" for what, text in forecast.rests_on.items()),
        records=tuple(
            {"figure": title, "low": e.low, "expected": e.typical, "high": e.high, "took": fact}
            for title, e, fact, _ in rows
        ),
    )
    return [table]


def _build_comparison_row(
    title: str, expected: Estimate, fact: float | None, write: Callable[[float], str]
) -> tuple[Cell, ...]:
    figures = (Cell(write(each)) for each in (expected.typical, expected.low, expected.high))
    if fact is None:
        return (Cell(title), *figures, BLANK, BLANK)
    ratio = Cell(f"{fact / expected.typical:.2f}") if expected.typical else BLANK
    return (Cell(title), *figures, Cell(write(fact)), ratio)


def _build_variant_tables(study: Study) -> list[Table]:
    """Build the shares of each variant; conversations share a server's time while they go on."""
    cells = study.collected.cost.cells
    if not cells:
        return []
    shares: dict[str, list[float]] = {name: [0.0, 0.0] for name in study.variants}
    episodes = dict.fromkeys(study.variants, 0)
    for result in study.collected.cells:
        cards, servers = cells.get(result.cell.number, (0.0, 0.0))
        shares[result.cell.variant][0] += cards
        shares[result.cell.variant][1] += servers
        episodes[result.cell.variant] += len(result.file.episodes)
    table = Table(
        "cost-variant",
        "Hours of answering servers by variant: a moment is shared by the conversations that were "
        "going on; loading and idle time is nobody's.",
        make_heads("Variant", "Conversations", "Accelerator-hours", "Server-hours"),
        tuple(
            (
                Cell(name),
                Cell(f"{episodes[name]:,}"),
                Cell(format_hours(cards / HOUR)),
                Cell(format_hours(servers / HOUR)),
            )
            for name, (cards, servers) in shares.items()
        ),
        records=tuple(
            {
                "variant": name,
                "conversations": episodes[name],
                "accelerator_s": cards,
                "server_s": servers,
            }
            for name, (cards, servers) in shares.items()
        ),
    )
    return [table]


def _build_model_tables(study: Study) -> list[Table | Remark]:
    """Build what the calls to models took: a row for a variant of a group, a record for a cell."""
    rows: dict[tuple[str, ...], dict[str, RoleUsage]] = {}
    records = []
    for result in study.collected.cells:
        cell, usage = result.cell, result.summary.usage if result.summary else {}
        if not any(used != NO_USAGE for used in usage.values()):
            continue
        names = (cell.env, cell.agent_strategy, cell.assistant, cell.variant)
        rows[names] = add_usage(rows.get(names, {}), usage)
        records += [
            {"cell": cell.number, "role": role, **asdict(used)} for role, used in usage.items()
        ]
    if not rows:
        return []
    table = Table(
        "cost-models",
        "Tokens and money by role, of all conversations, those that were begun again included. "
        "Money is that of hosted models, as their replies say or by a list of prices; the probe's "
        "and the judge's calls are not in it.",
        make_heads(
            *("Env", "Strategy", "Assistant", "Variant"),
            *("User's tokens in", "out", "US dollars"),
            *("Assistant's tokens in", "out", "US dollars"),
        ),
        tuple(
            (
                *map(Cell, names),
                *(cell for role in ROLES for cell in _build_usage_cells(usage[role])),
            )
            for names, usage in rows.items()
        ),
        records=tuple(records),
    )
    waited = {
        role: used.rate_limit_wait_s
        for role, used in add_usage(*rows.values()).items()
        if used.rate_limit_wait_s
    }
    if not waited:
        return [table]
    times = (f"{format_duration(seconds)} of the {role}'s" for role, seconds in waited.items())
    text = f"{' and '.join(times)} calls, added up over conversations that waited side by side."
    return [table, Remark(text, "Waiting for rate limits.")]


def _build_usage_cells(usage: RoleUsage) -> tuple[Cell, ...]:
    counts = (usage.prompt_tokens, usage.completion_tokens)
    tokens = (BLANK if count is None else Cell(f"{count:,}") for count in counts)
    return (*tokens, BLANK if usage.cost is None else Cell(format_dollars(usage.cost)))
