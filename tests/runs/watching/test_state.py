"""From what was read to what the screen shows, and the screen at any size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from emobench.cli.terminal import render_plain
from emobench.cli.watch_screen import format_line, list_changes, render_screen
from emobench.llm.engine_metrics import Load
from emobench.runs.server_state import ServerState, ServerStatus
from emobench.runs.status import CellCounts, CellProblem, EpisodeCounts, RunStatus
from emobench.runs.watching.episodes import Tally, Trouble
from emobench.runs.watching.state import Seen, WatchState, build_watch_state, to_json

NOW = 1_800_000_000.0
BEAT = "2027-01-15T07:59:57+00:00"


def server(
    name: str = "user", state: ServerState = ServerState.READY, reason: str = "", **more: Any
) -> ServerStatus:
    return ServerStatus(
        name=name,
        state=state,
        reason=reason,
        job_id="12",
        node="cuda1",
        url="http://x/v1",
        model="m",
        heartbeat=BEAT,
        cause="",
        warnings=(),
        kept_until="",
        **{"incarnation": "abcdef0123", **more},
    )


def seen(
    servers: Sequence[ServerStatus] | None = None,
    finished: int = 30,
    problems: Sequence[CellProblem] = (),
    **more: Any,
) -> Seen:
    status = RunStatus(
        run_dir="/runs/x",
        sweep="x",
        scheduler="slurm",
        scripted=False,
        live=True,
        finished=False,
        servers=[server()] if servers is None else servers,
        cells=CellCounts(total=8, done=1, running=4, failed=0, waiting=3),
        episodes=EpisodeCounts(finished=finished, expected=90, outcomes={}),
        variants=(),
        problems=problems,
    )
    return Seen(status=status, **{"planned": {"control": 60, "anger": 30}, **more})


def load(tokens: float | None, running: float = 3, hits: float = 0, queries: float = 0) -> Load:
    return Load(running, 1, tokens, tokens, hits, queries)


def looks(*loads: tuple[float, Load | str], incarnations: str = "") -> WatchState:
    """The state after looks at these seconds; a letter of `incarnations` for each."""
    state = None
    for number, (at, each) in enumerate(loads):
        name = incarnations[number] * 8 if incarnations else "abcdef0123"
        look = seen([server(incarnation=name)])
        state = build_watch_state(state, look, {"user": each}, NOW + at)
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("loads", "incarnations", "tokens"),
    [
        ([(0, load(100))], "", None),
        ([(0, load(100)), (2, load(300))], "", 100),
        # The mean is over the last ten seconds, not over all.
        ([(0, load(0)), (10, load(1000)), (20, load(1100)), (25, load(1150))], "", 10),
        # A new engine counts from 0; so does one that was started again under the same name.
        ([(0, load(100)), (2, load(300))], "ab", None),
        ([(0, load(500)), (2, load(10))], "", None),
        ([(0, load(500)), (2, load(10)), (4, load(30))], "", 10),
        ([(0, load(None)), (2, load(None))], "", None),
        ([(0, load(100)), (2, "/metrics has not answered yet")], "", None),
    ],
)
def test_tokens_per_second(
    loads: list[tuple[float, Load | str]], incarnations: str, tokens: float | None
) -> None:
    assert looks(*loads, incarnations=incarnations).servers[0].generation_tokens_per_s == tokens


def test_what_a_server_does() -> None:
    row = looks((0, load(0, 7, 50, 100)), (5, load(10, 7, 80, 140))).servers[0]
    assert (row.running, row.waiting, row.cache_hit_rate) == (7, 1, 0.75)
    assert (row.incarnation, row.heartbeat_age_s) == ("abcdef", 8)
    quiet = looks((0, load(0, 0, 50, 100)), (5, load(0, 0, 50, 100))).servers[0]
    assert quiet.cache_hit_rate == 0.5
    gone = looks((0, "/metrics: refused")).servers[0]
    assert (gone.running, gone.problem) == (None, "/metrics: refused")


@pytest.mark.parametrize(
    ("recent", "rate", "left_s"),
    [
        ([], 0, None),
        # Ten in the last 300 s, of 300 s; an older one does not count.
        ([(-400, -300 - 1), *[(-330, -30 * i) for i in range(10)]], 2, 1800),
        # Begun two minutes ago.
        ([(-120, -10 * i) for i in range(6)], 3, 1200),
    ],
)
def test_rate_and_time_left(
    recent: list[tuple[float, float]], rate: float, left_s: float | None
) -> None:
    pairs = [(NOW + start, NOW + end) for start, end in recent]
    state = build_watch_state(None, seen(recent=pairs), {}, NOW)
    assert (state.episodes_per_minute, state.time_left_s) == (rate, left_s)


def test_nothing_is_left_of_a_finished_sweep() -> None:
    assert build_watch_state(None, seen(finished=90), {}, NOW).time_left_s == 0


def test_rewards_with_their_interval_and_outcomes() -> None:
    tally = Tally()
    for task, reward in ((1, 1.0), (1, 0.0), (2, 1.0)):
        tally.add("retail", task, "solved" if reward else "failed", reward)
    tally.add("retail", 3, "infra_error", None)
    control, anger = build_watch_state(None, seen(tallies={"control": tally}), {}, NOW).variants
    assert (control.episodes, control.planned) == (3, 60)
    assert control.mean_reward == pytest.approx(2 / 3)
    assert control.low is not None and control.high is not None
    assert control.low < 2 / 3 < control.high
    assert control.outcomes == {"solved": 2, "failed": 1, "infra_error": 1}
    assert (anger.mean_reward, anger.low, anger.outcomes) == (None, None, {})


def test_the_means_load_no_heavy_library() -> None:
    code = (
        "import sys; import emobench.cli.watch, emobench.runs.watching.state; "
        "print([n for n in ('scipy', 'pandas', 'statsmodels') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (seen(), ""),
        (seen(newest_error=Trouble(NOW - 9, "cell 1 task 2", "lost")), "cell 1 task 2: lost"),
        (
            seen(
                [server(state=ServerState.FAILED, reason="CUDA out\nof memory")],
                newest_error=Trouble(NOW - 9, "cell 1 task 2", "lost"),
            ),
            "server user: failed: CUDA out of memory",
        ),
        (
            seen(
                newest_error=Trouble(NOW - 9, "cell 1 task 2", "lost"),
                problems=[CellProblem(3, "x", "FAILED (exit code 1:0)", None)],
            ),
            "cell 1 task 2: lost",
        ),
        (
            seen(problems=[CellProblem(3, "x", "infra", "2027-01-15T07:59:00+00:00")]),
            "cell 3: failed: infra",
        ),
    ],
)
def test_the_newest_error(look: Seen, expected: str) -> None:
    error = build_watch_state(None, look, {}, NOW).newest_error
    assert (f"{error.where}: {error.text}" if error else "") == expected


def full() -> WatchState:
    """More of everything than fits on a small screen."""
    names = [f"a_variant_with_a_long_name_{n}" for n in range(14)]
    tally = Tally()
    for task in range(4):
        for outcome in ("solved", "failed", "agent_error", "max_steps", "infra_error"):
            reward = None if outcome == "infra_error" else float(outcome == "solved")
            tally.add("retail", task, outcome, reward)
    servers = [server(f"assistant_{n}" + "x" * 30) for n in range(9)]
    servers.append(
        server("user", ServerState.FAILED, reason="the engine ended with 1; " + "words " * 50)
    )
    look = seen(
        servers,
        tallies=dict.fromkeys(names, tally),
        planned=dict.fromkeys(names, 60),
        newest_error=Trouble(NOW, "cell 1", "a message " * 60),
        missing=("sacct: slurmdbd is away",),
        behind=5_000_000,
    )
    metrics: dict[str, Load | str] = {each.name: load(5) for each in servers}
    return build_watch_state(None, look, metrics, NOW)


@pytest.mark.parametrize("width", [10, 40, 80, 140, 300])
@pytest.mark.parametrize("height", [21, 24, 40, 100])
def test_the_screen_fits_any_window(width: int, height: int) -> None:
    lines = render_plain(render_screen(full(), width, height), columns=width).splitlines()
    assert 0 < len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[-1] == "Ctrl-C or q leaves; the jobs go on"[:width].rstrip()


def test_a_large_screen_has_room_between_its_parts() -> None:
    assert render_plain(render_screen(full(), 80, 100), columns=80).count("\n\n") == 5


@pytest.mark.parametrize("width", [60, 80])
def test_a_small_screen_shows_what_matters_and_says_what_it_left_out(width: int) -> None:
    text = render_plain(render_screen(full(), width, 24), columns=width)
    assert "user" in text and "failed" in text
    assert "more servers" in text
    assert "more variants: a taller window shows them" in text
    assert "newest error" in text
    assert "could not ask sacct: slurmdbd is away" in text
    assert "Ctrl-C or q leaves; the jobs go on" in text
    assert "1 done, 4 running, 3 waiting of 8" in text
    assert "5 MB to go" in text


def test_control_characters_do_not_reach_the_terminal() -> None:
    look = seen(newest_error=Trouble(NOW, "cell 1", "red \x1b[31m and a bell \a"))
    state = build_watch_state(None, look, {}, NOW)
    for text in (render_plain(render_screen(state, 200, 40), columns=200), format_line(state)):
        assert "\x1b" not in text and "\a" not in text
        assert "red \\x1b[31m and a bell \\x07" in text


def test_lines_are_printed_where_something_changed() -> None:
    first = looks((0, load(0)))
    assert list_changes(first) == list_changes(looks((0, load(0)), (9, load(99))))
    assert list_changes(first) != list_changes(
        build_watch_state(None, seen(finished=31), {"user": load(0)}, NOW)
    )
    state = looks((0, load(0)), (10, load(420)))
    assert "episodes: 30/90  servers: user ready" in format_line(state)
    assert "\n" not in format_line(full())
    shown = render_plain(render_screen(state, 100, 40), columns=100)
    (user,) = [row.split() for row in shown.splitlines() if row.startswith("user")]
    assert user == ["user", "ready", "cuda1", "12", "abcdef", "13", "s", "42", "3", "1"]


def test_json_has_everything_but_the_looks() -> None:
    data = json.loads(json.dumps(to_json(full())))
    assert data["servers"][0]["running"] == 3
    assert "looks" not in data["servers"][0]
    assert data["newest_error"]["where"] == "cell 1"
    assert data["missing"] == ["sacct: slurmdbd is away"]
