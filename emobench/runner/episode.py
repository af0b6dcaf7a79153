"""One episode: a conversation between tau-bench's agent and a user of a variant, as a record.

Whatever happens, the record keeps the transcript, and its outcome says which boundary failed
(the table of outcomes is in docs/architecture.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench import __version__
from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.overlay import SharedStateChanged
from emobench.benchmarks.tools import RESPOND
from emobench.config.identity import cell_content, content_hash
from emobench.core.outcomes import SUCCESS, Outcome
from emobench.core.sweep import Cell, Fidelity, Sweep, Variant
from emobench.llm.transport import CallFailed, ModelEndpoint, Role, Transport
from emobench.runner.completion import CallLog
from emobench.runner.injection import UserRequest
from emobench.store.episodes import BenchmarkVersion, EpisodeError, EpisodeRecord

if TYPE_CHECKING:
    from emobench.runner.endpoint_resolver import Follower


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

    @classmethod
    def of(cls, sweep: Sweep, cell: Cell, benchmark: Benchmark) -> CellContext:
        """Builds the stock agent and reads the data; imports the benchmark (seconds)."""
        model = sweep.assistants[cell.assistant]
        displays = _displays(sweep.few_shot_displays.get(cell.env))
        agent = benchmark.make_agent(
            cell.agent_strategy, cell.env, model.model, model.temperature or 0.0, displays
        )
        content = cell_content(sweep, cell, benchmark.label)
        shared = sweep.fidelity.shared_state
        if shared:
            benchmark.preload(cell.env)
        return cls(sweep, cell, sweep.variants[cell.variant], benchmark, agent, content, shared)


def episode_seed(sweep_seed: int, env: str, task: int, trial: int) -> int:
    """The seed sent to both models: the same for all variants and assistants, so that a contrast
    compares like with like; different for each task and trial."""
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

    Never raises for what the models or the endpoints do: that is the record's outcome.
    """
    cell, sweep = context.cell, context.sweep
    seed = episode_seed(sweep.seed, cell.env, task, cell.trial)
    transports = {} if transports is None else transports
    log = CallLog(endpoints, seed, sweep.fidelity, transports, follower=follower)
    watch = _Watch()
    began, started = datetime.now(UTC), time.monotonic()
    reward: float | None = 0.0
    info: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
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
    except Exception as failure:
        messages = list(log.messages)
        outcome = _outcome(failure, watch)
        kind = type(failure).__name__
        if isinstance(failure, CallFailed):
            kind = f"{failure.role}:{failure.kind}"
        error = EpisodeError(kind, str(failure)[:2000])
        info = {"error": error.message}
        reward = None if outcome is Outcome.INFRA_ERROR else 0.0
    return EpisodeRecord(
        episode=content_hash(context.content, task),
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
        cost=_cost(log.calls),
        seed=log.seed,
        calls=log.calls,
        variant_sha256=context.variant.sha256,
        user_strategy=sweep.user_strategy,
        fidelity=_departures(sweep.fidelity, context.shared),
        user_prompt_sha256=watch.user_prompt_sha256(),
        benchmark=BenchmarkVersion(context.benchmark.package, context.benchmark.version),
        emobench=__version__,
    )


class _Watch:
    """Sees the steps of one environment: how many, whether it ended, and whose turn failed."""

    def __init__(self) -> None:
        self.env: Any = None
        self.steps = 0
        """What the assistant did: said something or called a tool."""
        self.turns = 0
        """What it said to the user, of these."""
        self.done = False
        self.in_user = False
        """The user was being asked when an exception came through."""

    def follow(self, env: Any) -> None:
        self.env = env
        stock_reset, stock_step = env.reset, env.step
        scoring = False

        def reset(*args: Any, **kwargs: Any) -> Any:
            self.in_user = True
            response = stock_reset(*args, **kwargs)
            self.in_user = False
            return response

        def step(action: Any) -> Any:
            nonlocal scoring
            if scoring:  # the reward replays the ground truth through this same method
                return stock_step(action)
            self.steps += 1
            self.turns += action.name == RESPOND
            self.in_user = action.name == RESPOND and isinstance(action.kwargs.get("content"), str)
            scoring = True
            response = stock_step(action)
            scoring = self.in_user = False
            self.done = response.done
            return response

        env.reset, env.step = reset, step

    def user_prompt_sha256(self) -> str | None:
        messages = getattr(getattr(self.env, "user", None), "messages", None)
        if not messages:
            return None
        return sha256(str(messages[0]["content"]).encode("utf-8", "replace")).hexdigest()


def _outcome(failure: Exception, watch: _Watch) -> Outcome:
    if isinstance(failure, CallFailed):
        if failure.kind == "infra":
            return Outcome.INFRA_ERROR
        if failure.kind == "context_overflow":
            return Outcome.CONTEXT_OVERFLOW
        return Outcome.USER_ERROR if failure.role == "user" else Outcome.AGENT_ERROR
    # Not a call: the reply could not be used. By whose reply it was.
    return Outcome.USER_ERROR if watch.in_user else Outcome.AGENT_ERROR


def _cost(calls: list[dict[str, Any]]) -> float | None:
    """Sum of the calls' costs in US dollars; None where no provider named any."""
    costs = [call["cost"] for call in calls if call.get("cost") is not None]
    return sum(costs) if costs else None


def _departures(fidelity: Fidelity, shared: bool) -> list[str]:
    """The repairs that were on, by name."""
    names = [name for name in Fidelity.model_fields if getattr(fidelity, name)]
    return [name for name in names if shared or name != "shared_state"]


def _displays(path: str | None) -> list[str]:
    if path is None:
        return []
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line)["messages_display"] for line in lines if line.strip()]
