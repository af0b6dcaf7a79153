"""What an episode's record says of a conversation, with scripted agents and environments."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emobench import __version__
from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.overlay import SharedStateChanged
from emobench.benchmarks.tools import RESPOND
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core import redaction
from emobench.core.models import OpenAIModel
from emobench.core.outcomes import SUCCESS, Outcome
from emobench.core.sweep import Fidelity
from emobench.llm.transport import CallFailed, ModelEndpoint, Role, Transport
from emobench.runner import episode
from emobench.runner.completion import CallLog, StockDraws, get_current_log
from emobench.runner.episode import (
    CellContext,
    _MachineFailed,
    _Watch,
    derive_episode_seed,
    run_episode,
)
from emobench.runner.injection import UserRequest
from emobench.store.episodes import BenchmarkVersion, EpisodeError, EpisodeRecord
from tests.support.plans import make_plan

ENDPOINTS: dict[Role, ModelEndpoint] = {
    "user": ModelEndpoint("u", "http://localhost:9/v1", "k"),
    "assistant": ModelEndpoint("a", "http://localhost:9/v1", "k"),
}
SAID = [{"role": "system", "content": "Policy."}, {"role": "user", "content": "Hi."}]
MODEL = OpenAIModel(model="m", temperature=0.5)


class Env:
    """An environment as tau-bench's, of which a conversation ends at the step called 'end'."""

    def __init__(self, outputs: tuple[str, ...] = (), reward: float = 1.0) -> None:
        self.task = SimpleNamespace(outputs=outputs)
        self.actions: list[Any] = []
        self.user: Any = SimpleNamespace(messages=[{"role": "system", "content": "Be \ud83d."}])
        self.tools_map: dict[str, Any] = {}
        self.reward = reward
        self.reading_in: dict[str, Role | None] = {}
        self.resets: list[Any] = []

    def _note(self, place: str) -> None:
        log = get_current_log()
        assert log is not None
        self.reading_in[place] = log.reading

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        self._note("reset")
        self.resets.append((args, kwargs))
        return "opened"

    def step(self, action: Any) -> Any:
        self._note(action.name)
        self.actions.append(action)
        return SimpleNamespace(done=action.name == "end", observation=f"after {action.name}")

    def calculate_reward(self) -> float:
        self._note("calculate_reward")
        self.step(act("end"))  # as it replays the ground truth
        self.step(act("replayed"))
        return self.reward


def act(name: str, **arguments: Any) -> Any:
    return SimpleNamespace(name=name, kwargs=arguments)


def say(content: Any) -> Any:
    return act(RESPOND, content=content)


class Stub:
    """Benchmark and agent in one; the agent does what a test says."""

    package, version, label = "tau_stub", "1.2", "tau_stub 1.2"

    def __init__(self, solve: Callable[[Any], Any], env: Env | None = None) -> None:
        self._solve, self.env = solve, env or Env()
        self.made: list[Any] = []
        self.asked: list[Any] = []
        self.preloaded: list[str] = []
        self.find_last_task_drawn = lambda env: {"retail": 114}[env]

    def make_agent(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        return self

    def preload(self, env: str) -> None:
        self.preloaded.append(env)

    def make_env(self, *arguments: Any, **more: Any) -> Env:
        self.made.append((arguments, more))
        return self.env

    def solve(self, env: Any, task_index: int, max_num_steps: int) -> Any:
        self.solved = (env, task_index, max_num_steps)
        return self._solve(env)


def result(reward: float) -> Any:
    return SimpleNamespace(reward=reward, info={"of": "stock"}, messages=SAID)


def context_of(tmp_path: Path, stub: Stub, cell: dict[str, Any], **sweep: Any) -> CellContext:
    plan = make_plan(logs=tmp_path, assistants={"a": MODEL}, **sweep)
    chosen = plan.cells[0].model_copy(update=cell)
    benchmark: Benchmark = stub  # type: ignore[assignment]
    return CellContext.of(plan.sweep, chosen, benchmark)


Play = Callable[..., EpisodeRecord]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(
        solve: Callable[[Any], Any], env: Env | None = None, task: int = 1, **sweep: Any
    ) -> EpisodeRecord:
        return run_episode(context_of(tmp_path, Stub(solve, env), {}, **sweep), ENDPOINTS, task, 4)

    return run


class Clock:
    """Stands in for the time: each look is 1.23456 s later."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks * 1.23456


def test_the_whole_record_and_what_the_agent_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode, "time", Clock())
    logs: list[CallLog] = []
    calls: list[dict[str, Any]] = [{"cost": 0.5}, {"cost": None}, {"cost": 0.25}, {}]

    def solve(env: Any) -> Any:
        log = get_current_log()
        assert log is not None
        logs.append(log)
        log.calls += calls
        assert env.reset(7, task_index=3) == "opened"
        assert env.step(act("look")).observation == "after look"
        env.step(say("Done."))
        env.step(act("end"))
        return result(env.calculate_reward())

    stub = Stub(solve)
    own = {"trial": 2, "number": 5}
    repairs = Fidelity(sanitize_think=False)
    context = context_of(
        tmp_path, stub, own, max_steps=9, seed=3, user_strategy="react", fidelity=repairs
    )
    transports: dict[Role, Transport] = {}
    follower: Any = object()
    began = datetime.now(UTC).replace(microsecond=0)
    record = run_episode(context, ENDPOINTS, 1, 4, transports, follower)
    assert stub.env.resets == [((7,), {"task_index": 3})]
    assert stub.solved == (stub.env, 1, 9)
    ((made, shared),) = stub.made
    assert (made, shared) == (("retail", 1, "react", context.sweep.user.model), {"shared": True})
    (request,) = (each for each in made if isinstance(each, UserRequest))
    assert (request.variant, request.fidelity) == (context.variant, context.sweep.fidelity)
    (log,) = logs
    assert (log.endpoints, log.fidelity) == (ENDPOINTS, context.sweep.fidelity)
    assert (log.transports is transports, log.follower is follower) == (True, True)
    assert log.strategies == {"assistant": "tool-calling", "user": "react"}
    assert (log.seed, log.stock_draws) == (derive_episode_seed(3, "retail", 1, 2), None)
    assert get_current_log() is None
    assert record.started is not None
    assert began <= datetime.fromisoformat(record.started) <= datetime.now(UTC)
    assert record == EpisodeRecord(
        episode=hash_content(collect_cell_content(context.sweep, context.cell, "tau_stub 1.2"), 1),
        cell=5,
        env="retail",
        agent_strategy="tool-calling",
        variant="control",
        assistant="a",
        trial=2,
        task_id=1,
        attempt=4,
        reward=1.0,
        info={"of": "stock"},
        traj=SAID,
        outcome=Outcome.SOLVED,
        started=record.started,
        wall_s=1.235,
        steps=3,
        turns=1,
        tool_calls=2,
        cost=0.75,
        seed=log.seed,
        calls=calls,
        variant_sha256=context.variant.sha256,
        user_strategy="react",
        fidelity=[name for name, on in switches_of(repairs).items() if on],
        user_prompt_sha256=sha256(b"Be ?.").hexdigest(),
        benchmark=BenchmarkVersion("tau_stub", "1.2"),
        emobench=__version__,
    )


def switches_of(fidelity: Fidelity) -> dict[str, bool]:
    return dict(fidelity.model_dump())


def test_transports_of_its_own_where_none_are_kept(play: Play) -> None:
    seen: list[Any] = []

    def solve(env: Any) -> Any:
        log = get_current_log()
        assert log is not None
        seen.append((log.transports, log.follower))
        return result(0.0)

    play(solve)
    assert seen == [({}, None)]


@pytest.mark.parametrize("seeded", [True, False])
def test_a_few_shot_agent_draws_as_stock_where_no_seed_is_sent(
    tmp_path: Path, seeded: bool
) -> None:
    seen: list[Any] = []

    def solve(env: Any) -> Any:
        log = get_current_log()
        assert log is not None
        seen.append(log.stock_draws)
        return result(0.0)

    cell = {"agent_strategy": "few-shot", "trial": 2, "tasks": (3, 1)}
    fidelity = Fidelity(send_seed=seeded)
    context = context_of(tmp_path, Stub(solve), cell, fidelity=fidelity, seed=8)
    run_episode(context, ENDPOINTS, 1, 1)
    assert seen == [None if seeded else StockDraws(8, 114, 3)]


@pytest.mark.parametrize(
    ("reward", "ends", "outcome"),
    [
        (1.0, True, "solved"),
        (SUCCESS, True, "solved"),
        (0.9, True, "failed"),
        (0.0, True, "failed"),
        (0.0, False, "max_steps"),
        (1.0, False, "max_steps"),
    ],
)
def test_how_a_conversation_that_was_scored_ended(
    play: Play, reward: float, ends: bool, outcome: str
) -> None:
    def solve(env: Any) -> Any:
        env.step(act("end" if ends else "look"))
        return result(reward)

    record = play(solve)
    assert (record.outcome.value, record.reward, record.steps) == (outcome, reward, 1)
    assert (record.error, record.cost, record.traj) == (None, None, SAID)


def reading(role: Role | None, failure: BaseException) -> Callable[[Any], Any]:
    """An agent that fails while the reply of a role is read."""

    def solve(env: Any) -> Any:
        log = get_current_log()
        assert log is not None
        log.messages, log.reading = [*SAID], role
        raise failure

    return solve


@pytest.mark.parametrize(
    ("role", "failure", "outcome"),
    [
        (None, CallFailed("user", "infra", "w"), "infra_error"),
        (None, CallFailed("assistant", "infra", "w"), "infra_error"),
        (None, CallFailed("user", "context_overflow", "w"), "context_overflow"),
        (None, CallFailed("assistant", "context_overflow", "w"), "context_overflow"),
        (None, CallFailed("user", "rejected", "w"), "user_error"),
        (None, CallFailed("assistant", "rejected", "w"), "agent_error"),
        (None, ValueError("w"), "infra_error"),
        ("user", ValueError("w"), "user_error"),
        ("assistant", ValueError("w"), "agent_error"),
        ("assistant", KeyError("w"), "agent_error"),
        ("assistant", OSError("w"), "infra_error"),
        ("user", MemoryError("w"), "infra_error"),
        ("assistant", _MachineFailed(OSError("w")), "infra_error"),
    ],
    ids=repr,
)
def test_whose_an_exception_is(
    play: Play, role: Role | None, failure: BaseException, outcome: str
) -> None:
    record = play(reading(role, failure))
    assert (record.outcome.value, record.traj) == (outcome, SAID)
    assert record.reward == (None if outcome == "infra_error" else 0.0)
    cause = failure.failure if isinstance(failure, _MachineFailed) else failure
    assert record.error is not None
    if isinstance(cause, CallFailed):
        assert record.error == EpisodeError(f"{cause.role}:{cause.kind}", "w")
        assert record.info == {"error": "w"}
    else:
        assert record.error == EpisodeError(type(cause).__name__, str(cause))
        assert (record.info["error"], len(record.info)) == (str(cause), 2)
        assert record.info["traceback"] == "".join(traceback.format_exception(cause))


@pytest.mark.parametrize("kind", [ValueError, lambda words: CallFailed("user", "infra", words)])
def test_words_of_errors_are_cut_and_hold_no_key(
    play: Play, monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], Exception]
) -> None:
    secret = "sk-" + "secret" * 5
    redaction.hide(secret)
    record = play(reading("user", kind(f"{secret} " + "x" * 30_000)))
    assert record.error is not None
    assert len(record.error.message) == 2000
    assert secret not in record.error.message and "xxx" in record.error.message
    assert record.info["error"] == record.error.message
    if "traceback" in record.info:
        assert len(record.info["traceback"]) == 20_000
        assert record.info["traceback"].endswith("xxx\n"), "its end says what happened"
    shown = play(reading("user", kind(f"no {secret}!")))
    assert secret not in json.dumps(shown.info)


def test_data_that_cannot_be_shared_makes_it_converse_again(tmp_path: Path) -> None:
    seen: list[Any] = []

    def solve(env: Any) -> Any:
        seen.append(get_current_log())
        if len(seen) == 1:
            raise SharedStateChanged("walked")
        return result(0.0)

    stub = Stub(solve)
    transports: dict[Role, Transport] = {}
    follower: Any = object()
    context = context_of(tmp_path, stub, {})
    record = run_episode(context, ENDPOINTS, 1, 4, transports, follower)
    assert [more["shared"] for _, more in stub.made] == [True, False]
    assert (record.task_id, record.attempt, record.outcome) == (1, 4, Outcome.MAX_STEPS)
    assert "shared_state" not in record.fidelity
    assert "send_seed" in record.fidelity
    assert [(log.endpoints, log.transports is transports) for log in seen] == [
        (ENDPOINTS, True),
        (ENDPOINTS, True),
    ]
    assert [log.follower for log in seen] == [follower, follower]


def test_what_a_cells_episodes_share(tmp_path: Path) -> None:
    displays = tmp_path / "displays.jsonl"
    displays.write_text('{"messages_display": "ä"}\n\n{"messages_display": "b"}\n')
    for shared in (True, False):
        stub = Stub(lambda env: None)
        context = context_of(
            tmp_path,
            stub,
            {"agent_strategy": "few-shot"},
            few_shot_displays={"retail": str(displays)},
            fidelity=Fidelity(shared_state=shared),
        )
        assert stub.asked == [("few-shot", "retail", "m", 0.5, ["ä", "b"])]
        assert (context.shared, stub.preloaded) == (shared, ["retail"] if shared else [])
        assert {id(context.agent), id(context.benchmark)} == {id(stub)}
        assert context.variant == context.sweep.variants["control"]
        assert context.content == collect_cell_content(context.sweep, context.cell, stub.label)
    stub = Stub(lambda env: None)
    cold = MODEL.model_copy(update={"temperature": None})
    plan = make_plan(logs=tmp_path, assistants={"a": cold})
    benchmark: Benchmark = stub  # type: ignore[assignment]
    CellContext.of(plan.sweep, plan.cells[0], benchmark)
    assert stub.asked == [("tool-calling", "retail", "m", 0.0, [])]


def test_what_reads_a_reply_and_what_does_not(play: Play) -> None:
    """Words that are no text are still being read by the user's side; all else is ours."""
    env = Env()
    after: list[Role | None] = []

    def solve(env: Any) -> Any:
        log = get_current_log()
        assert log is not None

        def do(work: Callable[[], Any]) -> None:
            log.reading = "assistant"
            work()
            after.append(log.reading)

        do(env.reset)
        for action in (act("look"), act("look again", content=5), say("Hi."), say(5), say(None)):
            do(lambda action=action: env.step(action))  # type: ignore[misc]
            env.reading_in[f"{action.name} {action.kwargs}"] = env.reading_in[action.name]
        do(env.calculate_reward)
        return result(0.0)

    record = play(solve, env)
    assert after == [None] * 7
    assert (record.steps, record.turns, record.outcome) == (5, 3, Outcome.MAX_STEPS)
    assert env.reading_in == {
        "reset": "assistant",
        "look": None,
        "look {}": None,
        "look again": None,
        "look again {'content': 5}": None,
        RESPOND: "assistant",
        RESPOND + " {'content': 'Hi.'}": None,
        RESPOND + " {'content': 5}": "assistant",
        RESPOND + " {'content': None}": "assistant",
        "calculate_reward": None,
        "end": None,
        "replayed": None,
    }


@pytest.mark.parametrize(
    ("outputs", "actions", "fails"),
    [
        (("5",), [say("Hi."), say(None)], True),
        (("5",), [act(RESPOND)], True),
        (("5",), [say("Hi."), act("look", content=None)], False),
        ((), [say(None)], False),
    ],
)
def test_a_message_without_text_is_scored_only_where_stock_can(
    play: Play, outputs: tuple[str, ...], actions: list[Any], fails: bool
) -> None:
    def solve(env: Any) -> Any:
        for action in actions:
            env.step(action)
        env.step(act("end"))
        return result(env.calculate_reward())

    record = play(solve, Env(outputs))
    if fails:
        words = "a message without text to be scored"
        assert (record.outcome, record.reward) == (Outcome.AGENT_ERROR, 0.0)
        assert record.error == EpisodeError("assistant:no_reply", words)
    else:
        assert (record.outcome, record.error) == (Outcome.SOLVED, None)


@pytest.mark.parametrize("kind", [MemoryError, OSError, ValueError])
def test_a_tool_that_fails_for_the_machine_ends_the_conversation(
    play: Play, kind: type[Exception]
) -> None:
    """tau-bench shows an agent what a tool raises, as that tool's answer."""
    tool, env = SimpleNamespace(), Env()
    env.tools_map = {"look": tool}
    asked: list[Any] = []

    def invoke(*args: Any, **kwargs: Any) -> str:
        asked.append((args, kwargs))
        if len(asked) == 2:
            raise kind("no room")
        return "seen"

    tool.invoke = invoke

    def solve(env: Any) -> Any:
        assert env.tools_map["look"].invoke("data", place=1) == "seen"
        try:
            env.tools_map["look"].invoke("data", place=2)
        except Exception as shown:
            env.step(act("end"))
            return SimpleNamespace(reward=0.0, info={}, messages=[str(shown)])
        raise AssertionError

    record = play(solve, env)
    assert asked == [(("data",), {"place": 1}), (("data",), {"place": 2})]
    if kind is ValueError:
        assert (record.outcome, record.traj) == (Outcome.FAILED, ["no room"])
    else:
        assert (record.outcome, record.error) == (
            Outcome.INFRA_ERROR,
            EpisodeError(kind.__name__, "no room"),
        )


def test_a_machines_failure_names_its_cause() -> None:
    cause = OSError("no room")
    assert (_MachineFailed(cause).args, _MachineFailed(cause).failure) == ((cause,), cause)


@pytest.mark.parametrize("user", [None, SimpleNamespace(), SimpleNamespace(messages=[])])
def test_no_prompt_has_no_hash(user: Any) -> None:
    log = CallLog(ENDPOINTS, 1, Fidelity())
    watch = _Watch(log)
    assert watch.hash_user_prompt() is None, "no environment was made"
    env = Env()
    env.user = user
    watch.follow(env)
    assert watch.hash_user_prompt() is None
    env.user = SimpleNamespace(messages=[{"content": "first"}, {"content": "second"}])
    assert watch.hash_user_prompt() == sha256(b"first").hexdigest()


def test_the_repairs_that_were_on(play: Play) -> None:
    off = Fidelity(send_seed=False, shared_state=False)
    found = play(lambda env: result(0.0), fidelity=off).fidelity
    assert found == [name for name, on in switches_of(off).items() if on]
    assert not {"send_seed", "shared_state"} & {*found}
