"""A WatchState as lines of text: for a terminal of any size, and as compact blocks. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

from emobench.runs.status import STATES
from emobench.runs.watching.episodes import Trouble
from emobench.runs.watching.state import ServerRow, VariantRow, WatchState
from emobench.scheduler.cost import line as cost_line

Line = list[tuple[str, str]]
"""Pieces of a line: (text, style); a style is one of STYLES, or empty."""
STYLES = ("bold", "dim", "good", "warn", "bad")
SERVER_STYLE = {"ready": "good", "failed": "bad", "gone": "bad", "silent": "bad", "left": "dim"}
OUTCOME_NAMES = {
    "solved": "solved",
    "failed": "failed",
    "agent_error": "agent",
    "max_steps": "steps",
    "context_overflow": "context",
    "user_error": "user",
    "infra_error": "infra",
}
FOOTER = "Ctrl-C or q leaves; the jobs go on"
BAR = 24


def screen(state: WatchState, width: int, height: int) -> list[Line]:
    """At most `height` lines of at most `width` characters."""
    head = _head(state, width)
    progress = _progress(state)
    trouble = _trouble(state, width)
    foot: list[Line] = [[(FOOTER, "dim")]]
    fixed = len(head) + len(progress) + len(trouble) + len(foot)
    # What does not fit is left out from the tables, and said.
    room = max(height - fixed, 4)
    rows_of_variants = len(state.variants) + 1
    servers = _servers(state.servers, width, max(room - rows_of_variants, 2, room // 3))
    variants = _variants(state.variants, width, max(room - len(servers), 2))
    parts = [head, servers, progress, variants, trouble, foot]
    spare = height - sum(map(len, parts))
    lines: list[Line] = []
    for number, part in enumerate(parts):
        if number and part and spare > 0:
            lines.append([])
            spare -= 1
        lines += part
    return [_cut(line, width) for line in lines[:height]]


def block(state: WatchState) -> str:
    """A few plain lines: what a log keeps of one look."""
    cells = ", ".join(f"{state.cells[name]} {name}" for name in STATES if state.cells[name])
    lines = [
        f"{clock(state.time)}  cells: {cells} of {state.cells['total']}  "
        f"episodes: {state.episodes_finished}/{state.episodes_expected}{_pace(state)}"
    ]
    for row in state.servers:
        load = "  ".join(part for part in _load_words(row) if part)
        text = f"  server {row.name}: {row.state}"
        text += f" on {row.node}" if row.node else ""
        text += f", leased from {row.leased_from}" if row.leased_from else ""
        reason, *more = row.reason.splitlines() or [""]
        lines.append("  ".join(part for part in (text, load, reason) if part))
        lines += [f"    {line}" for line in more]
    for variant in state.variants:
        if variant.episodes or variant.outcomes:
            outcomes = ", ".join(f"{n} {name}" for name, n in variant.outcomes.items())
            lines.append(f"  {variant.variant}: {_mean(variant)} {_bounds(variant)}  {outcomes}")
    if state.cost is not None:
        lines.append(f"  cost: {cost_line(state.cost)}")
    if state.newest_error is not None:
        lines.append(f"  newest error: {_error(state.newest_error)}")
    lines += [f"  could not ask: {text}" for text in state.missing]
    return "\n".join(line.rstrip() for line in lines)


def changes(state: WatchState) -> tuple[object, ...]:
    """What has to differ for another block to be worth printing; times and loads do not."""
    return (
        tuple((row.name, row.state, row.reason, row.incarnation) for row in state.servers),
        tuple(sorted(state.cells.items())),
        state.episodes_finished,
        state.newest_error,
        bool(state.missing),
    )


def clock(iso: str) -> str:
    """Local time of day."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """40 s, 12 min, 2 h 05 min, 3 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _head(state: WatchState, width: int) -> list[Line]:
    left, right = f"{state.sweep}  ({state.scheduler})", clock(state.time)
    space = max(width - len(left) - len(right), 2)
    lines: list[Line] = [[(left, "bold"), (" " * space, ""), (right, "dim")]]
    if state.scripted:
        lines.append([("scripted models: this tests the pipeline and is no finding", "warn")])
    return lines


def _progress(state: WatchState) -> list[Line]:
    styles = {"failed": "bad", "running": "good"}
    cells: Line = [("cells     ", "")]
    shown = [name for name in STATES if state.cells[name]]
    for number, name in enumerate(shown):
        cells.append((", " if number else "", ""))
        cells.append((f"{state.cells[name]} {name}", styles.get(name, "")))
    cells.append((f" of {state.cells['total']}", ""))
    done, expected = state.episodes_finished, state.episodes_expected
    filled = BAR * done // expected if expected else 0
    bar = f"[{'#' * filled}{'-' * (BAR - filled)}]"
    lines = [cells, [(f"episodes  {bar} {done} of {expected}{_pace(state)}", "")]]
    if state.cost is not None:
        lines.append([(f"cost      {cost_line(state.cost)}", "")])
    if state.unread_bytes:
        text = f"reading what was there before: {state.unread_bytes / 1e6:.0f} MB to go"
        lines.append([(text, "warn")])
    return lines


def _pace(state: WatchState) -> str:
    if state.episodes_finished >= state.episodes_expected:
        return ""
    if not state.episodes_per_minute:
        return ""
    text = f", {state.episodes_per_minute:.3g} a minute"
    return text if state.time_left_s is None else f"{text}, {duration(state.time_left_s)} left"


def _servers(rows: Sequence[ServerRow], width: int, room: int) -> list[Line]:
    if not rows:
        return [[("no servers of its own: the endpoints exist already", "dim")]]
    # Those that have something to say come first where not all can be shown.
    order = sorted(rows, key=lambda row: row.state in ("ready", "left"))
    shown = [row for row in rows if row in order[: max(room - 2, 1)]] if len(rows) >= room else rows
    name = min(max(len(row.name) for row in shown), max(width - 62, 12))
    node = min(max(len(row.node) for row in shown), 12)
    job = max(3, *(len(row.job_id) for row in shown))
    head = f"{'server':<{name}}  {'state':<8} {'node':<{node}} {'job':<{job}} {'start':<6} "
    head += f"{'beat':>6} {'tok/s':>6} {'run':>4} {'wait':>4} {'cache':>5}"
    lines: list[Line] = [[(head, "dim")]]
    spare = room - len(rows) - 2
    for row in shown:
        beat = "" if row.heartbeat_age_s is None else duration(row.heartbeat_age_s)
        tokens = "" if row.generation_tokens_per_s is None else f"{row.generation_tokens_per_s:.0f}"
        cache = "" if row.cache_hit_rate is None else f"{row.cache_hit_rate:.0%}"
        line: Line = [(f"{row.name[:name]:<{name}}  ", "")]
        line.append((f"{row.state:<8}", SERVER_STYLE.get(row.state, "warn")))
        text = f" {row.node[:node]:<{node}} {row.job_id:<{job}} {row.incarnation:<6} "
        if row.state in ("left", "gone", "failed"):
            line.append((text + _first(row.reason), "dim" if row.state == "left" else ""))
        elif row.problem or row.reason:
            line.append((f"{text}{beat:>6} {_first(row.problem or row.reason)}", ""))
        else:
            text += f"{beat:>6} {tokens:>6} {_count(row.running):>4} {_count(row.waiting):>4}"
            line.append((f"{text} {cache:>5}", ""))
        lines.append(line)
        # The cause and what to do, where no other server is pushed off the screen for it.
        details = row.reason.splitlines()[1:3] if row.state == "failed" else []
        leased = [f"leased from {row.leased_from}"] if row.leased_from else []
        spare -= len(details) + len(leased)
        if spare >= 0:
            lines += [[(f"  {text}", "dim")] for text in leased]
            lines += [[(f"  {text}", "warn")] for text in details]
    if len(shown) < len(rows):
        lines.append([(f"and {len(rows) - len(shown)} more servers", "dim")])
    return lines


def _first(text: str) -> str:
    return text.partition("\n")[0]


def _variants(rows: Sequence[VariantRow], width: int, room: int) -> list[Line]:
    shown = rows if len(rows) < room else rows[: max(room - 2, 1)]
    name = min(max([7, *(len(row.variant) for row in shown)]), 20)
    done = max([8, *(len(f"{row.episodes}/{row.planned}") for row in shown)])
    used = [key for key in OUTCOME_NAMES if any(row.outcomes.get(key) for row in shown)]
    fit = max((width - name - done - 27) // 8, 0)
    rest: list[str] = []
    if len(used) > fit:
        used, rest = used[: max(fit - 1, 0)], used[max(fit - 1, 0) :]
    head = f"{'variant':<{name}}  {'episodes':>{done}}  reward  {'95 % interval':<13}"
    head += "".join(f" {OUTCOME_NAMES[key]:>7}" for key in used) + ("   other" if rest else "")
    lines: list[Line] = [[(head, "dim")]]
    for row in shown:
        text = f"{row.variant[:name]:<{name}}  {f'{row.episodes}/{row.planned}':>{done}}  "
        text += f"{_mean(row):>6}  {_bounds(row):<13}"
        line: Line = [(text, "")]
        for key in used:
            count = row.outcomes.get(key, 0)
            style = "bad" if key == "infra_error" and count else "" if count else "dim"
            line.append((f" {count:>7}", style))
        if rest:
            line.append((f" {sum(row.outcomes.get(key, 0) for key in rest):>7}", ""))
        lines.append(line)
    if len(shown) < len(rows):
        left_out = len(rows) - len(shown)
        lines.append([(f"and {left_out} more variants: a taller window shows them", "dim")])
    return lines


def _trouble(state: WatchState, width: int) -> list[Line]:
    lines: list[Line] = []
    if state.newest_error is not None:
        text = f"newest error  {_error(state.newest_error)}"
        wrapped = textwrap.wrap(text, max(width, 20), max_lines=3, placeholder=" ...")
        lines += [[(part, "bad")] for part in wrapped]
    lines += [[(f"could not ask {text}", "warn")] for text in state.missing[:3]]
    return lines


def _error(trouble: Trouble) -> str:
    when = datetime.fromtimestamp(trouble.time).strftime("%H:%M:%S ") if trouble.time else ""
    return f"{when}{trouble.where}: {trouble.text}"


def _load_words(row: ServerRow) -> list[str]:
    return [
        "" if row.generation_tokens_per_s is None else f"{row.generation_tokens_per_s:.0f} tok/s",
        "" if row.running is None else f"{row.running} running",
        "" if row.waiting is None else f"{row.waiting} waiting",
        "" if row.cache_hit_rate is None else f"{row.cache_hit_rate:.0%} from cache",
        row.problem,
    ]


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _mean(row: VariantRow) -> str:
    return "-" if row.mean_reward is None else f"{row.mean_reward:.3f}"


def _bounds(row: VariantRow) -> str:
    return "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"


def _cut(line: Line, width: int) -> Line:
    cut: Line = []
    for text, style in line:
        # A name or an error may hold a line break or a control character.
        clean = "".join(letter if letter.isprintable() else " " for letter in text)[:width]
        width -= len(clean)
        cut.append((clean, style))
    return cut


def plain(lines: Sequence[Line]) -> str:
    """The lines without their styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
