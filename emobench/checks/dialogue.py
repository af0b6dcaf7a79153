"""A transcript as a dialogue: what user and agent said to each other, and which tools were called.

The agent's reasoning, its tool calls' arguments and the tools' answers are not part of it: the
user never sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from emobench.analysis.metrics import CONTROL, INFRA_ERROR
from emobench.benchmarks.tasksets import TASK_COUNTS
from emobench.results.collect import Collected, collect, conversations
from emobench.results.rows import told
from emobench.rundir import RunDir
from emobench.serving.scripted.tasks import Act, TaskText, load_env

STOP = "###STOP###"  # tau-bench's own marker
_STOP = re.compile(r"[\s.'\"`*]*" + re.escape(STOP) + r"[\s.'\"`*]*")
_USER_RESPONSE = "User Response:"


class Arm(NamedTuple):
    """A variant in its group: variants are compared within one group."""

    env: str
    agent_strategy: str
    assistant: str
    variant: str

    @property
    def group(self) -> tuple[str, str, str]:
        return self[:3]

    @property
    def control(self) -> Arm:
        return self._replace(variant=CONTROL)

    def __str__(self) -> str:
        return f"{self.variant} ({self.env}, {self.agent_strategy}, {self.assistant})"


class Said(NamedTuple):
    """Words of one side, or the name of a tool that the agent called."""

    who: Literal["user", "agent", "tool"]
    text: str


@dataclass(frozen=True)
class Dialogue:
    """One conversation that has a result."""

    arm: Arm
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

    `sample` bounds the conversations of an arm: the same (task, trial) pairs in every variant.
    """
    return read_collected(collect(run_dir), sample)


def read_collected(collected: Collected, sample: int | None = None) -> Iterator[Dialogue]:
    """`read` for a run directory that is collected already."""
    sweep = collected.plan.sweep
    chosen = {
        env: sampled(env, tasks, sweep.trials, sample, sweep.seed)
        for env, tasks in sweep.tasks.items()
    }
    for result in collected.cells:
        cell = result.cell
        records = [
            record
            for record in result.file.episodes
            if record.outcome != INFRA_ERROR and (record.task_id, cell.trial) in chosen[cell.env]
        ]
        if records:
            for _, line in conversations(result.file.path, records):
                yield dialogue_of(line)


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
    arm = Arm(record["env"], record["agent_strategy"], record["assistant"], record["variant"])
    messages = record.get("traj")
    said, stopped = _said(messages if isinstance(messages, list) else [], arm.agent_strategy)
    calls = record.get("calls")
    return Dialogue(
        arm=arm,
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


def _said(messages: list[Any], strategy: str) -> tuple[tuple[Said, ...], bool]:
    said: list[Said] = []
    stopped = False
    for _, role, content, tool in told(messages, strategy):
        if role == "user":
            # Stock hands the react user's thought to the agent as well; its words are no turn.
            text = content.rpartition(_USER_RESPONSE)[2]
            stopped = STOP in text
            text = _STOP.sub(" ", text).strip()
            if text:
                said.append(Said("user", text))
        elif role == "assistant" and tool is not None:
            said.append(Said("tool", tool))
        elif role == "assistant" and content:
            said.append(Said("agent", _spoken(content) if "Action:" in content else content))
    return tuple(said), stopped


def _spoken(content: str) -> str:
    """What a react or act message hands to the user, read as its agent reads it."""
    action = content.rpartition("Action:")[2].strip()
    try:
        data = json.loads(action)
    except ValueError:
        return action
    arguments = data.get("arguments") if isinstance(data, dict) else None
    words = arguments.get("content") if isinstance(arguments, dict) else None
    return words if isinstance(words, str) else ""
