"""A transcript as a dialogue: what user and agent said to each other, and which tools were called.

The agent's reasoning, its tool calls' arguments and the tools' answers are not part of it: the
user never sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.tasks import Act, TaskText, load_env
from emobench.benchmarks.transcript import REACT_USER, STOP, ToolCall, dialogue
from emobench.core.outcomes import Condition, Outcome
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep
from emobench.tables.run_results import Collected, collect, conversations

_STOP = re.compile(r"[\s.'\"`*]*" + re.escape(STOP) + r"[\s.'\"`*]*")
LONGEST = 20_000
"""Characters of a message that the checks look at: a model caught in a loop writes megabytes."""


class Said(NamedTuple):
    """Words of one side, or the name of a tool that the agent called."""

    who: Literal["user", "agent", "tool"]
    text: str


@dataclass(frozen=True)
class Dialogue:
    """One conversation that has a result."""

    condition: Condition
    trial: int
    task_id: int
    episode: str
    outcome: str
    task: TaskText
    said: tuple[Said, ...]
    stopped: bool
    """The user ended it."""
    think_removed: int = 0
    """Replies of the user that reasoning was taken out of before the agent saw them."""

    @property
    def turns(self) -> tuple[str, ...]:
        """What the user said, message by message; a bare end marker is no turn."""
        return tuple(item.text for item in self.said if item.who == "user")


def read(run_dir: RunDir, sample: int | None = None) -> Iterator[Dialogue]:
    """Every conversation of a run that has a result, cell by cell. Infrastructure errors have
    none. Raises InvalidInput without a plan.

    `sample` bounds the conversations of a condition: the same (task, trial) pairs in every variant.
    """
    return read_collected(collect(run_dir), sample)


def read_collected(collected: Collected, sample: int | None = None) -> Iterator[Dialogue]:
    """`read` for a run directory that is collected already."""
    chosen = chosen_pairs(collected.plan.sweep, sample)
    for result in collected.cells:
        cell = result.cell
        records = [
            record
            for record in result.file.episodes
            if record.outcome != Outcome.INFRA_ERROR
            and (record.task_id, cell.trial) in chosen[cell.env]
        ]
        if records:
            for _, line in conversations(result.file.path, records):
                yield dialogue_of(line)


def chosen_pairs(sweep: Sweep, sample: int | None) -> dict[str, frozenset[tuple[int, int]]]:
    """The (task, trial) pairs that a `sample` of a sweep's conversations takes, by environment."""
    return {
        env: sampled(env, tasks, sweep.trials, sample, sweep.seed)
        for env, tasks in sweep.tasks.items()
    }


def sampled(
    env: str, tasks: Sequence[int], trials: int, sample: int | None, seed: int
) -> frozenset[tuple[int, int]]:
    """(task, trial) pairs drawn by the study's seed; all of them without a `sample`."""
    pairs = [(task, trial) for task in tasks for trial in range(1, trials + 1)]
    if sample is not None and sample < len(pairs):
        pairs.sort(key=lambda pair: _drawn(f"{seed}/{env}/{pair[0]}/{pair[1]}"))
        pairs = pairs[:sample]
    return frozenset(pairs)


def _drawn(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()


def dialogue_of(record: Mapping[str, Any]) -> Dialogue:
    """A line of episodes.jsonl as a dialogue."""
    condition = Condition(
        record["env"], record["agent_strategy"], record["assistant"], record["variant"]
    )
    said, stopped = _said(record)
    calls = record.get("calls")
    return Dialogue(
        condition=condition,
        trial=record["trial"],
        task_id=record["task_id"],
        episode=str(record.get("episode") or ""),
        outcome=record["outcome"],
        task=task_of(record),
        said=said,
        stopped=stopped,
        think_removed=sum(
            bool(call.get("think")) and call.get("role") == "user"
            for call in (calls if isinstance(calls, list) else [])
            if isinstance(call, dict)
        ),
    )


def task_of(record: Mapping[str, Any]) -> TaskText:
    """The task as the record holds it; where a failure left none, the installed benchmark's."""
    env, index = record["env"], record["task_id"]
    info = record.get("info")
    task = info.get("task") if isinstance(info, dict) else None
    if isinstance(task, dict) and isinstance(task.get("instruction"), str) and "actions" in task:
        acts = tuple(
            Act(str(act.get("name")), dict(act.get("kwargs") or {}))
            for act in task["actions"]
            if isinstance(act, dict) and act.get("name") != "respond"
        )
        outputs = tuple(map(str, task.get("outputs") or ()))
        return TaskText(
            env, index, str(task.get("user_id") or ""), task["instruction"], acts, outputs
        )
    if index < TASK_COUNTS[env]:
        task_text: TaskText = load_env(env).tasks[index]
        return task_text
    return TaskText(env, index, "", "", (), ())


def _said(record: Mapping[str, Any]) -> tuple[tuple[Said, ...], bool]:
    told = dialogue(record)
    said: list[Said] = []
    for event in told.events:
        if isinstance(event, ToolCall):
            said.append(Said("tool", event.tool))
        elif event.role == "user":
            # Stock hands the react user's thought to the agent as well; its words are no turn.
            text = _STOP.sub(" ", event.text.rpartition(REACT_USER)[2][:LONGEST]).strip()
            if text:
                said.append(Said("user", text))
        elif event.text:
            said.append(Said("agent", event.text[:LONGEST]))
    return tuple(said), told.stopped_by_user
