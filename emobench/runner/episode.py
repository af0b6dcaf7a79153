"""One episode: a conversation between tau-bench's agent and a user of a variant, as a record.

Whatever happens, the record keeps the transcript, and its outcome says which boundary failed
(the table of outcomes is in docs/architecture.md).
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench import __version__
from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.overlay import SharedStateChanged
from emobench.benchmarks.tools import RESPOND
from emobench.config.identity import collect_cell_content, hash_content
from emobench.core.outcomes import SUCCESS, Outcome
from emobench.core.redaction import redact
from emobench.core.sweep import Cell, Fidelity, Sweep, Variant
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.llm.transport import CallFailed, ModelEndpoint, Role, Transport
from emobench.runner.completion import CallLog, StockDraws
from emobench.runner.injection import UserRequest
from emobench.store.episodes import BenchmarkVersion, EpisodeError, EpisodeRecord

if TYPE_CHECKING:
    from emobench.runner.endpoint_resolver import Follower


_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RecursionError,
)
"""What tau-bench's code raises for a reply that it cannot read."""


@dataclass(frozen=True)
class CellContext:
    """What the episodes of a cell share."""

    sweep: Sweep
    cell: Cell
    variant: Variant
    benchmark: Benchmark
    agent: Any
    content: Mapping[str, object]
    shared: bool
    """Environments work over data that all episodes share."""
    limits: EndpointLimits = field(default_factory=EndpointLimits)
    """What the endpoints let this cell do."""

    @classmethod
    def of(
        cls, sweep: Sweep, cell: Cell, benchmark: Benchmark, limits: EndpointLimits | None = None
    ) -> CellContext:
        """Build the stock agent and read the data; imports the benchmark (seconds)."""
        model = sweep.assistants[cell.assistant]
        displays = _read_displays(sweep.few_shot_displays.get(cell.env))
        agent = benchmark.make_agent(
            cell.agent_strategy, cell.env, model.model, model.temperature or 0.0, displays
        )
        content = collect_cell_content(sweep, cell, benchmark.label)
        shared = sweep.fidelity.shared_state
        if shared:
            benchmark.preload(cell.env)
        variant, limits = sweep.variants[cell.variant], limits or EndpointLimits()
        return cls(sweep, cell, variant, benchmark, agent, content, shared, limits)


def derive_episode_seed(sweep_seed: int, env: str, task: int, trial: int) -> int:
    """Return the seed sent to both models: the same for all variants and assistants, so that a
    contrast compares like with like; different for each task and trial."""
    digest = sha256(f"{sweep_seed}/{env}/{task}/{trial}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def run_episode(
    context: CellContext,
    endpoints: Mapping[Role, ModelEndpoint],
    task: int,
    attempt: int,
    transports: dict[Role, Transport] | None = None,
    follower: Follower | None = None,
) -> EpisodeRecord:
    """Converse to the end and return the episode's record. Must run inside `inject.seams`.

    `transports` are kept from episode to episode as long as the endpoints stay; a `follower`
    says where to call instead, call by call.

    Never raises for what the models or the endpoints do: that is the record's outcome. Raises
    Stopped where the cell is being ended while a call waits for a rate limit.
    """
    cell, sweep = context.cell, context.sweep
    seed = derive_episode_seed(sweep.seed, cell.env, task, cell.trial)
    transports = {} if transports is None else transports
    log = CallLog(
        endpoints,
        seed,
        sweep.fidelity,
        transports,
        follower=follower,
        strategies={"assistant": cell.agent_strategy, "user": sweep.user_strategy},
        limits=context.limits,
        stock_draws=None if sweep.fidelity.send_seed else _make_stock_draws(context, task),
    )
    watch = _Watch(log)
    began, started = datetime.now(UTC), time.monotonic()
    reward: float | None
    error: EpisodeError | None = None
    try:
        with log.active():
            request = UserRequest(sweep.user_strategy, context.variant, sweep.fidelity)
            env = context.benchmark.make_env(
                cell.env, task, request, sweep.user.model, shared=context.shared
            )
            watch.follow(env)
            result = context.agent.solve(env=env, task_index=task, max_num_steps=sweep.max_steps)
        reward, info, messages = result.reward, result.info, result.messages
        if not watch.done:
            outcome = Outcome.MAX_STEPS
        else:
            outcome = Outcome.SOLVED if result.reward >= SUCCESS else Outcome.FAILED
    except SharedStateChanged:
        # No tool of stock's does this: converse once more, over data of the episode's own.
        apart = replace(context, shared=False)
        return run_episode(apart, endpoints, task, attempt, transports, follower)
    except (Exception, _MachineFailed) as caught:
        failure = caught.failure if isinstance(caught, _MachineFailed) else caught
        messages = list(log.messages)
        outcome = _classify_failure(failure, log.reading)
        if isinstance(failure, CallFailed):
            error = EpisodeError(f"{failure.role}:{failure.kind}", redact(str(failure))[:2000])
            info = {"error": error.message}
        else:
            error = EpisodeError(type(failure).__name__, redact(str(failure))[:2000])
            trace = redact("".join(traceback.format_exception(failure)))
            info = {"error": error.message, "traceback": trace[-20_000:]}
        reward = None if outcome is Outcome.INFRA_ERROR else 0.0
    return EpisodeRecord(
        episode=hash_content(context.content, task),
        cell=cell.number,
        env=cell.env,
        agent_strategy=cell.agent_strategy,
        variant=cell.variant,
        assistant=cell.assistant,
        trial=cell.trial,
        task_id=task,
        attempt=attempt,
        reward=reward,
        info=info,
        traj=messages,
        outcome=outcome,
        error=error,
        started=began.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - started, 3),
        steps=watch.steps,
        turns=watch.turns,
        tool_calls=watch.steps - watch.turns,
        cost=_sum_costs(log.calls),
        seed=log.seed,
        calls=log.calls,
        variant_sha256=context.variant.sha256,
        user_strategy=sweep.user_strategy,
        fidelity=_list_departures(sweep.fidelity, context.shared),
        user_prompt_sha256=watch.hash_user_prompt(),
        benchmark=BenchmarkVersion(context.benchmark.package, context.benchmark.version),
        emobench=__version__,
    )


def _make_stock_draws(context: CellContext, task: int) -> StockDraws | None:
    """Return where a few-shot agent draws as in one run of stock's over the cell's tasks and
    trials."""
    cell = context.cell
    if cell.agent_strategy != "few-shot":
        return None
    earlier = (cell.trial - 1) * len(cell.tasks) + cell.tasks.index(task)
    return StockDraws(context.sweep.seed, context.benchmark.find_last_task_drawn(cell.env), earlier)


class _MachineFailed(BaseException):
    """The machine failed within a tool; no `Exception`, since tau-bench shows those to the agent as
    the tool's answer."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(failure)
        self.failure = failure


class _GuardedTool:
    """A tool that lets failures of the machine through to us."""

    def __init__(self, tool: Any) -> None:
        self._tool = tool

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._tool.invoke(*args, **kwargs)
        except (MemoryError, OSError) as failure:
            raise _MachineFailed(failure) from failure


class _Watch:
    """Sees the steps of one environment: how many, whether it ended, and what reads a reply."""

    def __init__(self, log: CallLog) -> None:
        self.env: Any = None
        self.steps = 0
        """What the assistant did: said something or called a tool."""
        self.turns = 0
        """What it said to the user, of these."""
        self.done = False
        self._log = log

    def follow(self, env: Any) -> None:
        self.env = env
        stock_reset, stock_step, stock_reward = env.reset, env.step, env.calculate_reward
        scoring = False

        def reset(*args: Any, **kwargs: Any) -> Any:
            response = stock_reset(*args, **kwargs)
            self._log.reading = None
            return response

        def step(action: Any) -> Any:
            if scoring:  # the reward replays the ground truth through this same method
                return stock_step(action)
            self.steps += 1
            self.turns += action.name == RESPOND
            if action.name != RESPOND or isinstance(action.kwargs.get("content"), str):
                self._log.reading = None
            response = stock_step(action)
            self._log.reading = None
            self.done = response.done
            return response

        def calculate_reward() -> Any:
            nonlocal scoring
            scoring, self._log.reading = True, None
            if env.task.outputs and any(map(_says_nothing, env.actions)):
                # Stock's score looks for outputs in each message, and fails at one without text.
                raise CallFailed("assistant", "no_reply", "a message without text to be scored")
            return stock_reward()

        env.reset, env.step, env.calculate_reward = reset, step, calculate_reward
        env.tools_map = {name: _GuardedTool(tool) for name, tool in env.tools_map.items()}

    def hash_user_prompt(self) -> str | None:
        messages = getattr(getattr(self.env, "user", None), "messages", None)
        if not messages:
            return None
        return sha256(str(messages[0]["content"]).encode("utf-8", "replace")).hexdigest()


def _says_nothing(action: Any) -> bool:
    return bool(action.name == RESPOND and action.kwargs.get("content") is None)


def _classify_failure(failure: Exception, reading: Role | None) -> Outcome:
    """Return how an exception ends an episode; `reading` is the role whose reply was being read."""
    if isinstance(failure, CallFailed):
        if failure.kind == "infra":
            return Outcome.INFRA_ERROR
        if failure.kind == "context_overflow":
            return Outcome.CONTEXT_OVERFLOW
        return Outcome.USER_ERROR if failure.role == "user" else Outcome.AGENT_ERROR
    if reading is None or not isinstance(failure, _UNREADABLE):
        return Outcome.INFRA_ERROR  # ours or the machine's, and never a reward
    return Outcome.USER_ERROR if reading == "user" else Outcome.AGENT_ERROR


def _sum_costs(calls: list[dict[str, Any]]) -> float | None:
    """Return the sum of the calls' costs in US dollars; None where no provider named any."""
    costs = [call["cost"] for call in calls if call.get("cost") is not None]
    return sum(costs) if costs else None


def _list_departures(fidelity: Fidelity, shared: bool) -> list[str]:
    """Return the repairs that were on, by name."""
    names = [name for name in Fidelity.model_fields if getattr(fidelity, name)]
    return [name for name in names if shared or name != "shared_state"]


def _read_displays(path: str | None) -> list[str]:
    if path is None:
        return []
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line)["messages_display"] for line in lines if line.strip()]
