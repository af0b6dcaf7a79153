"""One conversation with what its record says of it, parsed once for all that look at it.

`read_conversations` is the only way from a collected run to its transcripts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from emobench.benchmarks.tasks import Task, task_of
from emobench.benchmarks.transcript import Transcript, parse_transcript
from emobench.core.files import parse_json
from emobench.core.outcomes import Condition, Outcome
from emobench.core.sweep import Sweep
from emobench.tables.run_results import CellResult, Collected, EpisodeSummary

OPEN_FILES = 64
"""Files held open while conversations of several cells are read side by side."""


@dataclass(frozen=True)
class Conversation:
    """A line of episodes.jsonl."""

    condition: Condition
    trial: int
    task_id: int
    episode: str
    outcome: str
    transcript: Transcript
    task: Task | None
    """None where neither the record nor the installed benchmark knows it (`tasks.task_of`)."""
    error: tuple[str, str] | None = None
    """(type, message)."""
    think_removed: int = 0
    """Replies of the user that reasoning was taken out of before the agent saw them."""
    outputs_told: Mapping[str, bool] = field(default_factory=dict)
    """Of each output that was to be told, whether it was, as the benchmark's reward found it."""
    messages: int = 0
    calls: int = 0
    """Requests to the models."""
    tokens: int = 0
    wall_s: float | None = None
    seed: int | None = None
    info: object = None
    """As the benchmark left it."""


def parse_conversation(record: Mapping[str, Any], benchmark: str = "") -> Conversation:
    """The conversation of a record. Raises nothing for odd ones.

    `benchmark` ('package version') is the plan's, for records that do not name theirs.
    """
    info, error, seconds = record.get("info"), record.get("error"), record.get("wall_s")
    listed = record.get("calls")
    calls = [call for call in listed if isinstance(call, dict)] if type(listed) is list else []
    counts = [call.get(key) for call in calls for key in ("prompt_tokens", "completion_tokens")]
    names = (record.get(key) for key in ("env", "agent_strategy", "assistant", "variant"))
    seed = record.get("seed")
    return Conversation(
        condition=Condition(*(name if isinstance(name, str) else "" for name in names)),
        trial=_whole(record.get("trial")),
        task_id=_whole(record.get("task_id")),
        episode=str(record.get("episode") or ""),
        outcome=str(record.get("outcome") or ""),
        transcript=parse_transcript(record),
        task=task_of(record, benchmark),
        error=(str(error.get("type") or ""), str(error.get("message") or ""))
        if isinstance(error, dict)
        else None,
        think_removed=sum(bool(call.get("think")) and call.get("role") == "user" for call in calls),
        outputs_told=_outputs_told(info),
        messages=len(traj) if isinstance(traj := record.get("traj"), list) else 0,
        calls=len(listed) if isinstance(listed, list) else 0,
        tokens=sum(count for count in counts if type(count) is int),
        wall_s=seconds if isinstance(seconds, int | float) else None,
        seed=seed if isinstance(seed, int) else None,
        info=info,
    )


def read_conversations(
    collected: Collected, chosen: Iterable[tuple[CellResult, EpisodeSummary]]
) -> Iterator[tuple[CellResult, EpisodeSummary, Conversation]]:
    """Each of the `chosen` with its text, one at a time, in the order given.

    Lines that went away since are left out. A file is opened once, unless those of more than
    `OPEN_FILES` cells are read in turns. Raises OSError where a file went away.
    """
    with ExitStack() as stack:
        streams: OrderedDict[Path, BinaryIO] = OrderedDict()
        stack.callback(lambda: [stream.close() for stream in streams.values()])
        for result, record in chosen:
            path = result.file.path
            if path not in streams:
                if len(streams) >= OPEN_FILES:
                    streams.popitem(last=False)[1].close()
                streams[path] = path.open("rb")
            streams.move_to_end(path)
            streams[path].seek(record.offset)
            line = parse_json(streams[path].read(record.length))
            if isinstance(line, dict):
                yield result, record, parse_conversation(line, collected.plan.benchmark)


def with_result(
    collected: Collected, sample: int | None = None
) -> Iterator[tuple[CellResult, EpisodeSummary]]:
    """The records that have a result, cell by cell; infrastructure errors have none.

    `sample` bounds the conversations of a condition: the same (task, trial) pairs in every variant.
    """
    chosen = chosen_pairs(collected.plan.sweep, sample)
    for result in collected.cells:
        for record in result.file.episodes:
            pair = (record.task_id, result.cell.trial)
            if record.outcome != Outcome.INFRA_ERROR and pair in chosen[result.cell.env]:
                yield result, record


def chosen_pairs(sweep: Sweep, sample: int | None) -> dict[str, frozenset[tuple[int, int]]]:
    """The (task, trial) pairs that a `sample` of a sweep's conversations takes, by environment."""
    return {
        env: draw_pairs(env, tasks, sweep.trials, sample, sweep.seed)
        for env, tasks in sweep.tasks.items()
    }


def draw_pairs(
    env: str, tasks: Sequence[int], trials: int, sample: int | None, seed: int
) -> frozenset[tuple[int, int]]:
    """(task, trial) pairs drawn by the study's seed; all of them without a `sample`."""
    pairs = [(task, trial) for task in tasks for trial in range(1, trials + 1)]
    if sample is not None and sample < len(pairs):
        pairs.sort(key=lambda pair: _hash(f"{seed}/{env}/{pair[0]}/{pair[1]}"))
        pairs = pairs[:sample]
    return frozenset(pairs)


def _hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()


def _outputs_told(info: object) -> dict[str, bool]:
    for key in ("reward_info", "info", "outputs"):
        info = info.get(key) if isinstance(info, dict) else None
    return {str(key): bool(value) for key, value in info.items()} if isinstance(info, dict) else {}


def _whole(value: object) -> int:
    return value if type(value) is int else 0
