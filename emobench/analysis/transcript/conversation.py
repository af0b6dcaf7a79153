"""An episode with its transcript and its task, parsed once for all that look at it.

`read_conversations` is the way from a run's records to their transcripts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from emobench.benchmarks.tasks import Task, find_task
from emobench.benchmarks.transcript import Transcript, parse_transcript
from emobench.core.outcomes import Outcome
from emobench.core.plan import Plan
from emobench.core.sweep import Sweep
from emobench.store.episodes import EpisodeRecord, parse_line
from emobench.tables.run_results import CellResult, Collected, EpisodeSummary

OPEN_FILES = 64
"""Files held open while conversations of several cells are read side by side."""


@dataclass(frozen=True)
class Conversation:
    """An episode whose transcript is parsed."""

    record: EpisodeRecord
    transcript: Transcript
    task: Task | None
    """None where neither the record nor the installed benchmark knows it (`tasks.find_task`)."""

    @property
    def think_removed(self) -> int:
        """Replies of the user that reasoning was taken out of before the agent saw them."""
        calls = self.record.calls
        return sum(bool(call.get("think")) and call.get("role") == "user" for call in calls)

    @property
    def outputs_told(self) -> dict[str, bool]:
        """Of each output that was to be told, whether it was, as the benchmark's reward found."""
        found: object = self.record.info
        for key in ("reward_info", "info", "outputs"):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            return {}
        return {str(output): bool(told) for output, told in found.items()}


def parse_conversation(record: EpisodeRecord, benchmark: str = "") -> Conversation:
    """Return the conversation of a record. Raises nothing for odd ones.

    `benchmark` ('package version') is the plan's, for records that do not name theirs.
    """
    return Conversation(
        record,
        parse_transcript(record.traj, record.agent_strategy, record.user_strategy),
        find_task(
            record.env,
            record.task_id,
            record.info,
            record.benchmark.label if record.benchmark else benchmark,
        ),
    )


def read_conversations(
    plan: Plan, chosen: Iterable[tuple[CellResult, EpisodeSummary]]
) -> Iterator[tuple[CellResult, EpisodeSummary, Conversation]]:
    """Yield each of the `chosen` with its text, one at a time, in the order given.

    Lines that went away since are left out. A file is opened once, unless those of more than
    `OPEN_FILES` cells are read in turns. Raises OSError where a file went away.
    """
    with ExitStack() as stack:
        streams: OrderedDict[Path, BinaryIO] = OrderedDict()
        stack.callback(lambda: [stream.close() for stream in streams.values()])
        for result, summary in chosen:
            path = result.file.path
            if path not in streams:
                if len(streams) >= OPEN_FILES:
                    streams.popitem(last=False)[1].close()
                streams[path] = path.open("rb")
            streams.move_to_end(path)
            streams[path].seek(summary.offset)
            record = parse_line(streams[path].read(summary.length), path)
            if record is not None:
                yield result, summary, parse_conversation(record, plan.benchmark)


def select_with_result(
    collected: Collected, sample: int | None = None
) -> Iterator[tuple[CellResult, EpisodeSummary]]:
    """Yield the records that have a result, cell by cell; infrastructure errors have none.

    `sample` bounds the conversations of a condition: the same (task, trial) pairs in every variant.
    """
    chosen = choose_pairs(collected.plan.sweep, sample)
    for result in collected.cells:
        for record in result.file.episodes:
            pair = (record.task_id, result.cell.trial)
            if record.outcome != Outcome.INFRA_ERROR and pair in chosen[result.cell.env]:
                yield result, record


def choose_pairs(sweep: Sweep, sample: int | None) -> dict[str, frozenset[tuple[int, int]]]:
    """Return the (task, trial) pairs that a `sample` of a sweep's conversations takes, by
    environment."""
    return {
        env: draw_pairs(env, tasks, sweep.trials, sample, sweep.seed)
        for env, tasks in sweep.tasks.items()
    }


def draw_pairs(
    env: str, tasks: Sequence[int], trials: int, sample: int | None, seed: int
) -> frozenset[tuple[int, int]]:
    """Return (task, trial) pairs drawn by the study's seed; all of them without a `sample`."""
    pairs = [(task, trial) for task in tasks for trial in range(1, trials + 1)]
    if sample is not None and sample < len(pairs):
        pairs.sort(key=lambda pair: _hash(f"{seed}/{env}/{pair[0]}/{pair[1]}"))
        pairs = pairs[:sample]
    return frozenset(pairs)


def _hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8).digest()
