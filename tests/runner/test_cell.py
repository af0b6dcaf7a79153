"""A cell's own bookkeeping, with scripted conversations: counts, pauses, limits, what it says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.models import OpenAIModel
from emobench.core.outcomes import Outcome
from emobench.core.plan import save_plan
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import StopRequest
from emobench.core.worker_pool import WorkerPool
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.probe.cells import CellProbe
from emobench.runner import cell as cell_module
from emobench.runner import injection
from emobench.runner.cell import run_cell
from emobench.runner.endpoint_resolver import EndpointResolver, Follower
from emobench.runner.episode import CellContext
from emobench.runner.order import sort_longest_first
from emobench.runner.rejections import RejectionRow
from emobench.store.episodes import EpisodeError, EpisodeRecord, EpisodeStore
from tests.support.plans import make_plan

LOCAL = ClusterProfile(name="local", scheduler="local", server_deadline_min=5)
PRICE = {"input": 1.0, "output": 1.0}
Play = Callable[[int, int], EpisodeRecord]
"""What a task's conversation comes to, by task and attempt."""


def ended(outcome: str = "solved", reward: float | None = 1.0, **more: Any) -> EpisodeRecord:
    return EpisodeRecord(task_id=0, trial=1, outcome=Outcome(outcome), reward=reward, **more)


def failed(words: str = "away", cost: float | None = None) -> EpisodeRecord:
    calls = [] if cost is None else [{"role": "user", "cost": cost}]
    error = EpisodeError("user:infra", words)
    return ended("infra_error", None, error=error, calls=calls)


def solve(task: int, attempt: int) -> EpisodeRecord:
    return ended()


class Run:
    """A run of one cell of trial 1, whose conversations are played by a function."""

    def __init__(self, folder: Path, tasks: int, **sweep: Any) -> None:
        model = OpenAIModel(model="m", base_url="http://localhost:9/v1", price=PRICE)  # type: ignore[arg-type]
        options = {"concurrency": 1, "trials": 1, "probe": "off", **sweep}
        plan = make_plan(LOCAL, folder, model, {"a": model}, tasks=tasks, **options)
        self.plan = plan.model_copy(update={"benchmark": load_benchmark().label})
        self.run_dir = RunDir(folder / "run")
        self.run_dir.path.mkdir()
        save_plan(self.run_dir, self.plan)
        self.cell = self.plan.cells[0]
        self.title = f"cell 0: {self.cell.title}"
        self.said: list[str] = []
        self.begun: list[tuple[int, int]] = []
        """(task, attempt) of each conversation."""
        self.play: Play = solve
        self.pauses: list[float] = []

    def run(self, play: Play = solve, number: int = 0) -> int:
        self.play, self.said, self.begun, self.pauses = play, [], [], []
        return run_cell(self.plan, self.run_dir, number, self.said.append)

    def episode(
        self,
        context: CellContext,
        roles: Any,
        task: int,
        attempt: int,
        transports: Any,
        follower: Follower,
    ) -> EpisodeRecord:
        assert context.cell == self.cell
        assert (roles, transports) == (follower.endpoints.roles, follower.endpoints.transports)
        assert transports is follower.endpoints.transports
        self.begun.append((task, attempt))
        content = collect_cell_content(self.plan.sweep, self.cell, self.plan.benchmark)
        return replace(
            self.play(task, attempt),
            task_id=task,
            attempt=attempt,
            episode=hash_content(content, task),
            assistant=self.cell.assistant,
            env=self.cell.env,
            agent_strategy=self.cell.agent_strategy,
            variant=self.cell.variant,
        )

    def wait(self, stop: StopRequest, pause: float | None = None) -> bool:
        assert pause is not None
        self.pauses.append(pause)
        return stop.is_set()

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self.run_dir.cell(0).episodes.read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def tasks(self) -> list[int]:
        return [line["task_id"] for line in self.lines]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.run_dir.cell(0).summary.read_text()))

    @property
    def ending(self) -> tuple[str, str, str]:
        found = self.summary
        return found["status"], found["exit_reason"], found["message"]


@pytest.fixture(autouse=True)
def held_no_longer() -> Iterator[None]:
    """Where a cell abandons a conversation it holds the benchmark for good: here for the test."""
    yield
    injection._installed = 0
    while injection._undo:
        module, name, stock = injection._undo.pop()
        setattr(module, name, stock)


@pytest.fixture
def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setattr("emobench.serving.budget.LOOK_S", 0.0)

    def make(tasks: int = 2, **sweep: Any) -> Run:
        run = Run(tmp_path, tasks, **sweep)
        monkeypatch.setattr("emobench.runner.episode.run_episode", run.episode)
        monkeypatch.setattr(StopRequest, "wait", lambda *args: run.wait(*args))
        # Nobody answers there.
        monkeypatch.setattr(EndpointResolver, "wait_for_servers", lambda *_: None)
        return run

    return make


def test_what_a_cell_says(run_of: Callable[..., Run]) -> None:
    records = [
        ended(reward=1.0, steps=12, wall_s=3.26),
        ended("agent_error", 0.0, error=EpisodeError("assistant:no_reply", "no text")),
        failed("HTTP 503: away"),
    ]
    run = run_of(3)
    assert run.run(lambda task, _: records[task]) == 1
    assert run.said == [
        f"{run.title}: 3 of 3 tasks to run",
        "  task   0  reward 1.0  solved  12 steps  3.3 s",
        "  task   1  reward 0.0  agent_error  0 steps  0.0 s  (no text)",
        "  task   2  reward   -  infra_error  0 steps  0.0 s  (HTTP 503: away)",
        "cell 0: incomplete (infra_errors): HTTP 503: away",
    ]
    assert run.ending == ("incomplete", "infra_errors", "HTTP 503: away")
    assert run.run() == 0
    assert run.said == [
        f"{run.title}: 1 of 3 tasks to run",
        "  task   2  reward 1.0  solved  0 steps  0.0 s",
        "cell 0: done (completed)",
    ]
    assert run.ending == ("done", "completed", "")
    assert run.run() == 0
    assert (run.said[0], run.begun) == (f"{run.title}: 0 of 3 tasks to run", [])
    assert run.said[1:] == ["cell 0: done (completed)"]


def test_damaged_lines_are_told_and_their_tasks_run_again(run_of: Callable[..., Run]) -> None:
    run = run_of(1)
    paths = run.run_dir.cell(0)
    paths.episodes.parent.mkdir(parents=True)
    paths.episodes.write_text("{}\n")
    assert run.run() == 0
    where = f"set aside in {paths.set_aside}: 1 damaged line"
    assert run.said[0] == f"cell 0: {where}; what they held runs again"
    assert paths.set_aside.exists()
    assert run.run() == 0
    assert run.said[0].startswith(run.title), "the second time there is nothing to tell"


def test_attempts_with_their_pauses_and_their_history(run_of: Callable[..., Run]) -> None:
    run = run_of(1)
    assert run.run(lambda task, attempt: failed(f"no {attempt}")) == 1
    assert (run.begun, run.pauses) == ([(0, 1), (0, 2), (0, 3)], [1.0, 5.0])
    (line,) = run.lines
    assert (line["attempt"], line["error"]["message"]) == (3, "no 3")
    messages = [(each["attempt"], each["error"]["message"]) for each in line["history"]]
    assert messages == [(1, "no 1"), (2, "no 2")]
    assert run.run(lambda task, attempt: failed() if attempt < 5 else ended()) == 0
    assert (run.begun, run.pauses) == ([(0, 4), (0, 5)], [1.0])
    assert [each["attempt"] for each in run.lines[1]["history"]] == [4], "the others have a line"


def test_what_was_set_aside_is_history_from_the_first_attempt_on(
    run_of: Callable[..., Run],
) -> None:
    run = run_of(2)
    assert run.run() == 0
    with EpisodeStore(run.run_dir.cell(0)) as store:
        store.set_aside({1})
    assert run.run(lambda task, attempt: failed() if attempt < 3 else ended()) == 0
    assert run.begun == [(1, 2), (1, 3)]
    found = [(each["attempt"], each["outcome"]) for each in run.lines[-1]["history"]]
    assert found == [(1, "solved"), (2, "infra_error")]


def test_a_stop_during_a_pause_keeps_the_attempt(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(2)
    monkeypatch.setattr(StopRequest, "wait", lambda *_: True)
    assert run.run(lambda task, attempt: failed()) == 1
    assert run.begun == [(0, 1), (1, 1)]
    assert [line["history"] for line in run.lines] == [[], []]


def test_before_each_attempt_servers_are_chosen_and_after_a_failed_one_waited_for(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = run_of(1)
    monkeypatch.setattr(
        EndpointResolver, "wait_for_servers", lambda _, endpoints: seen.append(endpoints.number)
    )
    monkeypatch.setattr(EndpointResolver, "return_to_preferred", lambda _: seen.append("chosen"))
    assert run.run(lambda task, attempt: failed() if attempt < 3 else ended()) == 0
    assert seen == ["chosen", 0, "chosen", 0, "chosen"]


def test_the_first_word_on_servers_that_are_gone_is_kept(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two conversations wait at the same time: none begins after, and the servers end the cell."""
    words, both = iter(["first", "second"]), threading.Barrier(2)

    def wait(*_: object) -> None:
        both.wait(20)
        with threading.Lock():
            raise ServersGone(next(words))

    run = run_of(4, concurrency=2)
    monkeypatch.setattr(EndpointResolver, "wait_for_servers", wait)
    assert run.run(lambda task, attempt: failed()) == 3
    assert sorted(run.begun) == [(0, 1), (1, 1)]
    assert sorted(run.tasks) == [0, 1]
    assert run.ending[:2] == ("failed", "endpoint_unavailable")
    assert run.said[-1] == f"cell 0: failed (endpoint_unavailable): {run.ending[2]}"


def test_a_wait_for_servers_that_the_third_error_ends_says_nothing_of_them(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    stock = cell_module._CellRun._write

    def write(cell_run: Any, records: Any) -> None:
        if any(record.task_id == 2 for record in records):
            assert waiting.wait(20)
        stock(cell_run, records)

    def wait(resolver: Any, *_: object) -> None:
        if (3, 1) in run.begun:
            waiting.set()
            while not resolver._interrupted():
                time.sleep(0.01)
            raise ServersGone("interrupted while waiting")

    run = run_of(5)
    monkeypatch.setattr(cell_module._CellRun, "_write", write)
    monkeypatch.setattr(EndpointResolver, "wait_for_servers", wait)
    assert run.run(lambda task, attempt: failed()) == 1
    assert waiting.is_set()
    assert run.ending == ("incomplete", "infra_errors", "away")


def test_no_more_than_the_sweep_says_converse_at_a_time(run_of: Callable[..., Run]) -> None:
    here, most = threading.Barrier(3), []

    def play(task: int, attempt: int) -> EpisodeRecord:
        here.wait(20)
        most.append(here.parties)
        return ended()

    assert run_of(6, concurrency=3).run(play) == 0
    assert len(most) == 6


def in_turn(play: Play, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Each conversation after the one before it is on disk and counted."""
    written = threading.Semaphore(0)
    stock = cell_module._CellRun._write

    def write(cell_run: Any, records: Any) -> None:
        stock(cell_run, records)
        for _ in records:
            written.release()

    def turn(task: int, attempt: int) -> EpisodeRecord:
        assert not task or written.acquire(timeout=20)
        return play(task, attempt)

    monkeypatch.setattr(cell_module._CellRun, "_write", write)
    return turn


@pytest.mark.parametrize(
    ("pattern", "tasks"), [("xx.xx.xx.", 9), ("xxx......", 3), (".xxx.....", 4)]
)
def test_infrastructure_errors_in_a_row(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, pattern: str, tasks: int
) -> None:
    """The conversation that is under way at the third ends the cell with it."""
    monkeypatch.setattr(cell_module, "MAX_ATTEMPTS", 1)

    def play(task: int, attempt: int) -> EpisodeRecord:
        return failed(f"no {task}") if pattern[task] == "x" else ended()

    run = run_of(len(pattern))
    assert run.run(in_turn(play, monkeypatch)) == 1
    assert run.tasks[:tasks] == list(range(tasks))
    assert len(run.tasks) <= tasks + 1
    last = max(place for place in range(len(run.tasks)) if pattern[place] == "x")
    assert run.ending == ("incomplete", "infra_errors", f"no {last}")


def test_the_probe_comes_first_and_may_end_the_cell(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = CellProbe({"user": {"state": "bad"}}, "the user's model cannot"), []

    def probe(*arguments: Any) -> CellProbe:
        asked.append(arguments)
        return found

    monkeypatch.setattr("emobench.probe.cells.probe_cell", probe)
    run = run_of(2)
    assert run.run() == 2
    assert (run.begun, run.lines) == ([], [])
    assert run.ending == ("failed", "probe_failed", "the user's model cannot")
    assert run.summary["probe"] == {"user": {"state": "bad"}}
    assert run.said[-1] == "cell 0: failed (probe_failed): the user's model cannot"
    ((plan, run_dir, cell, roles, benchmark, interrupted, progress, limits),) = asked
    assert (plan, run_dir, cell) == (run.plan, run.run_dir, run.cell)
    assert {role: endpoint.model for role, endpoint in roles.items()} == {
        "user": "m",
        "assistant": "m",
    }
    assert (benchmark, interrupted()) == (load_benchmark(), False)
    assert isinstance(limits, EndpointLimits), "the probe waits for rate limits with the cell"
    progress("a word")
    assert run.said[-1] == "a word"

    found = CellProbe({"user": {"state": "good"}})
    run.cell = run.plan.cells[0]
    assert run.run(lambda task, _: failed() if task else ended()) == 1
    assert (len(asked), run.summary["probe"]) == (2, {"user": {"state": "good"}})
    assert run.run() == 0
    assert len(asked) == 2, "a cell that has results was probed when it began"


def test_at_the_limit_of_money_nothing_begins(run_of: Callable[..., Run]) -> None:
    """What conversations of earlier runs of the cell have cost counts; those begun again too."""
    run = run_of(4, max_cost=1.0)

    def play(task: int, attempt: int) -> EpisodeRecord:
        if (task, attempt) == (1, 1):
            return failed(cost=0.3)
        return ended(calls=[{"role": "user", "cost": 0.4}] if task else [])

    assert run.run(play) == 1
    assert run.begun == [(0, 1), (1, 1), (1, 2), (2, 1)]
    assert run.ending[:2] == ("incomplete", "max_cost")
    assert run.ending[2].startswith("max_cost reached: $1.10 of $1.00")
    (run.run_dir.path / "plan.json").unlink()  # the plan that the cell was given will do
    assert run.run() == 1
    assert run.begun == []
    assert run.ending[:2] == ("incomplete", "max_cost")
    assert run.ending[2].startswith("max_cost reached: $1.10 of $1.00")


def test_a_limit_that_the_last_conversation_reaches_ends_nothing(
    run_of: Callable[..., Run],
) -> None:
    run = run_of(1, max_cost=1.0)
    assert run.run(lambda task, attempt: ended(calls=[{"role": "user", "cost": 2.0}])) == 0
    assert run.said[-1] == "cell 0: done (completed)"
    assert run.ending == ("done", "completed", "")


def test_a_limit_that_cannot_be_looked_at_ends_the_cell_in_words(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the threads of the conversations, which ask before each."""
    always = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr("emobench.serving.budget.time", always)
    run = run_of(3, max_cost=1.0)

    def play(task: int, attempt: int) -> EpisodeRecord:
        run.run_dir.cell(1).summary.mkdir(parents=True, exist_ok=True)
        return ended()

    with pytest.raises(IsADirectoryError):
        run.run(play)
    assert run.tasks == [0]
    assert run.ending[:2] == ("failed", "error")
    assert run.ending[2].startswith("IsADirectoryError: ")


def test_errors_that_end_a_cell_are_named_before_its_limit(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "MAX_ATTEMPTS", 1)
    run = run_of(5, max_cost=1.0)
    assert run.run(in_turn(lambda task, attempt: failed("away", 0.4), monkeypatch)) == 1
    assert run.tasks == [0, 1, 2]
    assert run.ending == ("incomplete", "infra_errors", "away")


def test_a_signal_is_looked_for_each_second(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    stock = WorkerPool.wait_for_results

    def results(pool: WorkerPool[Any, Any], timeout_s: float) -> list[Any]:
        asked.append(timeout_s)
        return stock(pool, timeout_s)

    monkeypatch.setattr(WorkerPool, "wait_for_results", results)
    assert run_of(2).run() == 0
    assert set(asked) == {1.0}


def stop_in(run: Run, stops: list[StopRequest], received: str = "SIGTERM") -> None:
    """Ask the cell to stop, as a signal does."""
    (stop,) = stops
    stop.received = received
    stop.set()


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[StopRequest]:
    """The cell's stop request, once it runs."""
    made: list[StopRequest] = []

    class Kept(StopRequest):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(cell_module, "StopRequest", Kept)
    return made


def test_what_ends_within_the_grace_is_kept_and_the_rest_abandoned(
    run_of: Callable[..., Run], stops: list[StopRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "GRACE_S", 0.6)
    run, over, begun = run_of(4, concurrency=3), threading.Event(), threading.Barrier(3)
    first, second, third, _ = sort_longest_first(run.plan, run.run_dir, run.cell, range(4))

    def play(task: int, attempt: int) -> EpisodeRecord:
        begun.wait(20)
        if task == first:
            stop_in(run, stops)
        elif task == second:
            while not any(line.startswith("stopping") for line in run.said):
                time.sleep(0.01)
        else:
            over.wait(20)
        return ended()

    began = time.monotonic()
    try:
        assert run.run(play) == 1
        assert time.monotonic() - began < 10
    finally:
        over.set()
    assert set(run.tasks) == {first, second}
    assert {task for task, _ in run.begun} == {first, second, third}
    (stopping,) = (line for line in run.said if line.startswith("stopping"))
    assert stopping in (
        "stopping: 1 s to end for 3 episodes",
        "stopping: 1 s to end for 2 episodes",
    )
    assert "abandoned 1 episode, to be run again next time" in run.said
    assert injection._installed == 1, "it must not meet the stock functions later"
    words = "stopped by a signal; submit again to complete this cell"
    assert run.ending == ("incomplete", "interrupted", words)


def test_nothing_is_said_of_abandoning_where_all_end_in_time(
    run_of: Callable[..., Run], stops: list[StopRequest]
) -> None:
    run = run_of(2)
    base = load_benchmark().import_module("envs.base")
    stock = base.load_user

    def play(task: int, attempt: int) -> EpisodeRecord:
        assert base.load_user is not stock
        stop_in(run, stops)
        return ended()

    assert run.run(play) == 1
    assert base.load_user is stock, "nobody is left who must not meet it"
    assert run.tasks == [0]
    assert not [line for line in run.said if "abandoned" in line]
    assert run.ending[1] == "interrupted"


def test_rejections_that_are_held_at_the_end(
    run_of: Callable[..., Run], stops: list[StopRequest]
) -> None:
    """They are the agents' where the cell came to its end, and missing where it was stopped."""
    rejected = ended("agent_error", 0.0, error=EpisodeError("assistant:rejected", "no"))
    run = run_of(3)

    def play(task: int, attempt: int) -> EpisodeRecord:
        if task == 1:
            stop_in(run, stops)
        return rejected

    assert run.run(play) == 1
    assert [line["outcome"] for line in run.lines] == ["infra_error", "infra_error"]
    stops.clear()
    run.run(lambda task, attempt: rejected if task else ended())
    assert [line["outcome"] for line in run.lines][2:] == ["solved", "agent_error", "agent_error"]


def test_a_cell_that_breaks_says_so_and_begins_nothing_more(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(40)

    def slow(task: int, attempt: int) -> EpisodeRecord:
        time.sleep(0.02)
        return ended()

    def refuse(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(RejectionRow, "sort", refuse)
    with pytest.raises(RuntimeError, match="broken"):
        run.run(slow)
    assert run.ending == ("failed", "error", "RuntimeError: broken")
    begun = len(run.begun)
    time.sleep(0.1)
    assert len(run.begun) <= begun + 1 < 40


def test_another_benchmark_than_the_plans_is_refused(run_of: Callable[..., Run]) -> None:
    run = run_of(1)
    run.plan = run.plan.model_copy(update={"benchmark": "tau_bench 9"})
    with pytest.raises(InvalidInput) as refusal:
        run.run()
    assert str(refusal.value) == (
        f"this sweep is a run of tau_bench 9, but here {load_benchmark().label} is installed; "
        "results of different benchmarks must not mix: install the same one on all nodes"
    )
    assert run.begun == []


def test_the_words_for_other_content(run_of: Callable[..., Run]) -> None:
    run = run_of(2)
    assert run.run() == 0
    run.plan = run.plan.model_copy(
        update={"sweep": run.plan.sweep.model_copy(update={"max_steps": 7})}
    )
    before = f"{run.run_dir.cell(0).episodes} holds 2 episodes of other content"
    with pytest.raises(InvalidInput) as refusal:
        run.run()
    assert str(refusal.value) == (
        f"{before}; differing:\n  max_steps: was 30, now 7\n  run this in another run directory"
    )
    run.run_dir.cell(0).summary.unlink()
    with pytest.raises(InvalidInput) as refusal:
        run.run()
    assert str(refusal.value) == f"{before}\n  run this in another run directory"


@pytest.mark.parametrize(("look_s", "finished"), [(0.0, [0, 0, 0]), (1.1, [0, 1, 2])])
def test_the_summary_follows_the_cell_once_a_second(
    run_of: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    look_s: float,
    finished: list[int],
) -> None:
    looks = (look_s * number for number in count(100))
    clock = SimpleNamespace(monotonic=lambda: next(looks))
    run = run_of(3)
    seen: list[tuple[str, int]] = []

    def play(task: int, attempt: int) -> EpisodeRecord:
        seen.append((run.summary["status"], run.summary["finished"]))
        return ended()

    monkeypatch.setattr("emobench.store.summaries.time", clock)
    assert run.run(in_turn(play, monkeypatch)) == 0
    assert seen == [("running", number) for number in finished]
    assert run.summary["finished"] == 3


def test_a_result_without_a_reward_is_missing_without_words(run_of: Callable[..., Run]) -> None:
    run = run_of(1)
    assert run.run(lambda task, attempt: ended("failed", None)) == 1
    assert run.ending == ("incomplete", "infra_errors", "")
