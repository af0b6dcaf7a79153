"""A WatchState as what a terminal of any size shows, and as one line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from emobench.cli.terminal import format_moment, make_table, wrap
from emobench.core.outcomes import OUTCOMES, Outcome
from emobench.core.output import flatten
from emobench.core.wording import format_duration
from emobench.runs.server_state import ServerState
from emobench.runs.watching.episodes import Trouble
from emobench.runs.watching.state import ServerRow, VariantRow, WatchState

SERVER_STYLE = {state: "error" if state.is_broken else "warn" for state in ServerState}
SERVER_STYLE |= {ServerState.READY: "good", ServerState.LEFT: "dim", ServerState.NONE: "dim"}
OUTCOME_NAMES = {name: name.removesuffix("_error") for name in OUTCOMES}
OUTCOME_NAMES |= {Outcome.MAX_STEPS: "steps", Outcome.CONTEXT_OVERFLOW: "context"}
FOOTER = "Ctrl-C or q leaves; the jobs go on"
BAR = 24
WHOLE = 10_000
"""Lines of a page from which nothing is left out."""
NOTES = 3
"""Lines about servers that are shown before any row of a table."""
Row = TypeVar("Row", ServerRow, VariantRow)
WIDE = 78
"""Columns from which a server's node and job are shown."""


def render_screen(state: WatchState, width: int, height: int | None = None) -> Group:
    """Return what fits into `height` lines, cut to `width` columns; what is left out is said.

    Without a height it is all there is, for a page and not for a screen to leave.
    """
    foot = [] if height is None else [Text(FOOTER, "dim")]
    height = height or WHOLE
    head, progress, troubles = (
        _build_head(state),
        _build_progress(state),
        _list_troubles(state, width),
    )
    notes = _list_notes(state.servers)
    reserved = min(len(notes), NOTES)
    room = height - len(head) - len(progress) - len(troubles) - reserved - len(foot)
    urgent = sorted(
        state.servers, key=lambda row: row.state in (ServerState.READY, ServerState.LEFT)
    )
    servers, more = _fit(urgent, max(room - len(state.variants) - 1, 3, room // 3), "servers")
    if not more:
        servers = state.servers
    room -= 1 + len(servers) + len(more)
    hint = "variants: a taller window shows them"
    variants, others = _fit(state.variants, max(room, 3), hint)
    room -= 1 + len(variants) + len(others)
    spare = min(max(room, 0), len(notes) - reserved)
    sections: list[list[RenderableType]] = [
        [*head],
        [_build_server_table(servers, width), *more, *notes[: reserved + spare]]
        if servers
        else [Text("no servers of its own: the endpoints exist already", "dim")],
        [*progress],
        [_build_variant_table(variants, width), *others],
        [*troubles],
        [*foot],
    ]
    room -= spare
    lines: list[RenderableType] = []
    for section in filter(None, sections):
        if lines and room > 0:
            lines.append(Text())
            room -= 1
        lines += section
    for text in lines:
        if isinstance(text, Text):
            text.no_wrap, text.overflow = True, "crop"
    return Group(*lines)


def format_line(state: WatchState) -> str:
    """Return all that `list_changes` looks at on one line."""
    episodes = f"{state.episodes_finished}/{state.episodes_expected}{_describe_pace(state)}"
    parts = [format_clock(state.time), f"cells: {state.cells}", f"episodes: {episodes}"]
    means = [
        f"{row.variant} {row.mean_reward:.2f}"
        for row in state.variants
        if row.mean_reward is not None
    ]
    servers = [f"{row.name} {row.state}" for row in state.servers]
    for name, found in (("reward per episode", means), ("servers", servers)):
        if found:
            parts.append(f"{name}: {', '.join(found)}")
    if state.newest_error is not None:
        parts.append(f"newest error: {_format_error(state.newest_error)}")
    parts += [*map(str, state.held), *(f"could not ask {text}" for text in state.missing)]
    return "  ".join(map(flatten, parts))


def list_changes(state: WatchState) -> tuple[object, ...]:
    """Return what has to differ for another line to be worth printing; times and loads do not."""
    return (
        tuple((row.name, row.state, row.reason, row.incarnation) for row in state.servers),
        state.cells,
        state.episodes_finished,
        state.newest_error,
        state.held,
        bool(state.missing),
    )


def format_clock(iso: str) -> str:
    """Return the local time of day."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")


def _build_head(state: WatchState) -> list[Text]:
    title = (f"{flatten(state.sweep)}  ({state.scheduler})  ", "bold")
    lines = [Text.assemble(title, (format_clock(state.time), "dim"))]
    if state.scripted:
        lines.append(Text("scripted models: this tests the pipeline and is no finding", "warn"))
    return lines


def _build_progress(state: WatchState) -> list[Text]:
    done, expected = state.episodes_finished, state.episodes_expected
    filled = BAR * done // expected if expected else 0
    bar = f"[{'#' * filled}{'-' * (BAR - filled)}]"
    style = "error" if state.cells.failed else ""
    lines = [
        Text(f"cells     {state.cells}", style),
        Text(f"episodes  {bar} {done} of {expected}{_describe_pace(state)}"),
    ]
    if state.cost is not None:
        lines.append(Text(f"cost      {state.cost}"))
    if state.unread_bytes:
        text = f"reading what was there before: {state.unread_bytes / 1e6:.0f} MB to go"
        lines.append(Text(text, "warn"))
    return lines


def _describe_pace(state: WatchState) -> str:
    if state.episodes_finished >= state.episodes_expected or not state.episodes_per_minute:
        return ""
    text = f", {state.episodes_per_minute:.3g} a minute"
    if state.time_left_s is None or state.expected_end is None:
        return text
    left, end = format_duration(state.time_left_s), format_moment(state.expected_end)
    return f"{text}, {left} left, until about {end}"


def _build_server_table(rows: Sequence[ServerRow], width: int) -> Table:
    heads = ["server", "state", "node", "job", "start", "beat", "talks", "tok/s", "run", "wait"]
    heads.append("cache")
    cells: list[list[object]] = [
        [
            row.name,
            (SERVER_STYLE[row.state], row.state),
            row.node,
            row.job_id,
            row.incarnation,
            "" if row.heartbeat_age_s is None else format_duration(row.heartbeat_age_s),
            "" if row.limit is None else f"{row.in_use}/{row.limit}",
            "" if row.generation_tokens_per_s is None else f"{row.generation_tokens_per_s:.0f}",
            "" if row.running is None else row.running,
            "" if row.waiting is None else row.waiting,
            "" if row.cache_hit_rate is None else f"{row.cache_hit_rate:.0%}",
        ]
        for row in rows
    ]
    left = 5
    if width < WIDE:
        heads, cells, left = heads[:2] + heads[5:], [row[:2] + row[5:] for row in cells], 2
    return make_table(heads, cells, left, one_line=True)


def _list_notes(rows: Sequence[ServerRow]) -> list[Text]:
    """Return what stands below the servers: why one is away, and whose it is."""
    lines = []
    for row in rows:
        first, *more = row.reason.splitlines() or [row.problem]
        style = SERVER_STYLE[row.state]
        if first:
            lines.append(Text(flatten(f"{row.name}: {first}"), style))
        lines += [
            Text(f"  {flatten(text)}", "warn") for text in more if row.state is ServerState.FAILED
        ]
        if row.leased_from:
            lines.append(Text(flatten(f"{row.name}: leased from {row.leased_from}"), "dim"))
    return lines


def _build_variant_table(rows: Sequence[VariantRow], width: int) -> Table:
    used = [name for name in OUTCOMES if any(row.outcomes.get(name) for row in rows)]
    fit = max((width - 62) // 9, 0)
    kept = len(used) if len(used) <= fit else max(fit - 1, 0)
    shown, rest = used[:kept], used[kept:]
    heads = ["variant", "episodes", "reward/episode", "95 % interval"]
    heads += [OUTCOME_NAMES[name] for name in shown] + ["other"] * bool(rest)
    cells: list[list[object]] = []
    for row in rows:
        counts: list[object] = []
        for name in shown:
            count = row.outcomes.get(name, 0)
            style = "dim" if not count else "error" if name == Outcome.INFRA_ERROR else ""
            counts.append((style, count))
        if rest:
            counts.append(sum(row.outcomes.get(name, 0) for name in rest))
        mean = "-" if row.mean_reward is None else f"{row.mean_reward:.3f}"
        known = row.low is not None and row.high is not None
        bounds = f"{row.low:.2f} to {row.high:.2f}" if known else ""
        cells.append([row.variant, f"{row.episodes}/{row.planned}", mean, bounds, *counts])
    return make_table(heads, cells, one_line=True)


def _list_troubles(state: WatchState, width: int) -> list[Text]:
    notes = [*map(str, state.held[:3]), *(f"could not ask {text}" for text in state.missing[:3])]
    lines = [Text(flatten(text), "warn") for text in notes]
    if state.newest_error is not None:
        text = flatten(f"newest error  {_format_error(state.newest_error)}")
        lines = [Text(part, "error") for part in wrap(text, max(width, 20))[:3]] + lines
    return lines


def _format_error(trouble: Trouble) -> str:
    when = datetime.fromtimestamp(trouble.time).strftime("%H:%M:%S ") if trouble.time else ""
    return f"{when}{trouble.where}: {trouble.text}"


def _fit(rows: Sequence[Row], lines: int, what: str) -> tuple[Sequence[Row], list[Text]]:
    """Return the rows of a table that fit below its head, and a line about those that do not."""
    if len(rows) < lines:
        return rows, []
    kept = max(lines - 2, 1)
    hidden = len(rows) - kept
    return rows[:kept], [Text(f"and {hidden} more {what}", "dim")] if hidden else []
