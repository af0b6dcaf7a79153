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
from emobench.store.episodes import EpisodeRecord, episode_of
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
    info: Mapping[str, Any] = field(default_factory=dict)
    """As the benchmark left it."""


def parse_conversation(record: EpisodeRecord, benchmark: str = "") -> Conversation:
    """The conversation of a record. Raises nothing for odd ones.

    `benchmark` ('package version') is the plan's, for records that do not name theirs.
    """
    named = record.benchmark.label if record.benchmark else benchmark
    counts = [
        call.get(key) for call in record.calls for key in ("prompt_tokens", "completion_tokens")
    ]
    return Conversation(
        condition=record.condition,
        trial=record.trial,
        task_id=record.task_id,
        episode=record.episode,
        outcome=record.outcome,
        transcript=parse_transcript(record.traj, record.agent_strategy, record.user_strategy),
        task=task_of(record.env, record.task_id, record.info, named),
        error=(record.error.type, record.error.message) if record.error else None,
        think_removed=sum(
            bool(call.get("think")) and call.get("role") == "user" for call in record.calls
        ),
        outputs_told=_outputs_told(record.info),
        messages=len(record.traj),
        calls=len(record.calls),
        tokens=sum(count for count in counts if type(count) is int),
        wall_s=record.wall_s,
        seed=record.seed,
        info=record.info,
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
            whole = episode_of(parse_json(streams[path].read(record.length)))
            if whole is not None:
                yield result, record, parse_conversation(whole, collected.plan.benchmark)


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
