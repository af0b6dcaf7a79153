"""`episodes.jsonl`: the record of an episode, which lines of a file count, and the one writer.

A file may be cut off anywhere, may be growing while it is read, and may hold lines that an editor
or a disk spoilt: a line ends in a checksum of its other bytes, and one that does not fit it is
damaged. Every reader goes by the same rule: of a task counts its first line that is no
infrastructure error and has a reward, or else the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from zlib import crc32

from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.files import dump_json, parse_json, write_bytes_atomic
from emobench.core.outcomes import Condition, Outcome
from emobench.core.ownership import make_folder
from emobench.core.run_dir import CellPaths
from emobench.core.sweep import Cell
from emobench.store.appending import LineStore, append_lines, read_stored_lines
from emobench.store.calls import RoleUsage, Usage, add_usage, count_usage, read_usage

SCHEMA = 2
"""Of the lines that are written. From 2 on a line ends in its checksum; one of schema 1 may."""
_MARK = b',"crc32":"'
_AFTER_MARK = len(b'12345678"}\n')

T = TypeVar("T")
INT16, INT32, INT64 = 2**15 - 1, 2**31 - 1, 2**63 - 1
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class EpisodeError:
    """What ended a conversation that tau-bench could not score."""

    type: str
    """An exception's name, '<role>:<kind>' of a failed call, or 'stock:<name>'."""
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


@dataclass(frozen=True, slots=True)
class BenchmarkVersion:
    package: str
    version: str

    @property
    def label(self) -> str:
        """As plans name the benchmark."""
        return f"{self.package} {self.version}"


@dataclass(frozen=True, slots=True)
class EarlierAttempt:
    """A conversation that was begun again, after an infrastructure error or by `emobench rerun`."""

    attempt: int
    error: EpisodeError | None
    started: str | None
    wall_s: float | None
    steps: int
    outcome: Outcome = Outcome.INFRA_ERROR
    """Another one where the episode had a result that was set aside."""
    usage: Usage = field(default_factory=dict)
    """Tokens and money by role."""


# Not frozen: a report makes a million of them, and a frozen one takes four times as long to make.
@dataclass(slots=True, kw_only=True)
class EpisodeRecord:
    """One line of episodes.jsonl. The order of the fields is that of the file."""

    schema: int = SCHEMA
    episode: str = ""
    """Hash of all that affects the conversation's content (`config.identity`)."""
    cell: int = -1
    """Number of the cell in the run that wrote it."""
    env: str = ""
    agent_strategy: str = ""
    variant: str = ""
    assistant: str = ""
    trial: int
    task_id: int
    attempt: int = 1
    """Times that the task was begun, this one included."""
    reward: float | None = None
    """None: missing, which is not 0."""
    info: dict[str, Any] = field(default_factory=dict)
    """As tau-bench has it: the task, and how the reward came about."""
    traj: list[Any] = field(default_factory=list)
    """The messages, as tau-bench has them."""
    outcome: Outcome
    error: EpisodeError | None = None
    started: str | None = None
    """ISO 8601, UTC."""
    wall_s: float | None = None
    """Seconds from begin to end."""
    steps: int = 0
    """What the assistant did: said something or called a tool."""
    turns: int = 0
    """What it said to the user, of these."""
    tool_calls: int = 0
    cost: float | None = None
    """US dollars; None where no provider named any."""
    seed: int | None = None
    """Sent to both models."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Each request to a model: role, latency, tokens, incarnation of the server."""
    variant_sha256: str | None = None
    """Of the variant's text."""
    user_strategy: str | None = None
    fidelity: list[str] = field(default_factory=list)
    """The departures from stock tau-bench that were on."""
    user_prompt_sha256: str | None = None
    """Of the user's system prompt as it was sent."""
    benchmark: BenchmarkVersion | None = None
    emobench: str | None = None
    """Version that ran it."""
    history: list[EarlierAttempt] = field(default_factory=list)
    """Those before this one: of the same run of the cell, and those that were set aside."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """The cell that it belongs to, as `Cell.key`."""
        return (self.assistant, self.env, self.agent_strategy, self.variant, self.trial)

    @property
    def condition(self) -> Condition:
        return Condition(self.env, self.agent_strategy, self.assistant, self.variant)

    @property
    def is_final(self) -> bool:
        """Whether it is a result; an infrastructure error is missing data and is run again, as is
        an episode whose reward is no number."""
        return self.outcome is not Outcome.INFRA_ERROR and self.reward is not None

    @property
    def attempts(self) -> list[EarlierAttempt]:
        """All of them, this one last, for the record of the one after it."""
        own = EarlierAttempt(
            self.attempt,
            self.error,
            self.started,
            self.wall_s,
            self.steps,
            self.outcome,
            count_usage(self.calls),
        )
        return [*self.history, own]

    def to_stock_result(self) -> dict[str, Any]:
        """Return a result as tau-bench writes it; its trials count from 0. Where an error ended
        the conversation, `info` says in addition what emobench calls that."""
        info = self.info
        if self.error is not None:
            info = {**info, "outcome": self.outcome, "error_type": self.error.type}
        return {
            "task_id": self.task_id,
            "reward": self.reward,
            "info": info,
            "traj": self.traj,
            "trial": self.trial - 1,
        }


def format_line(record: EpisodeRecord) -> bytes:
    """Return the record as a line of the file, without its line break."""
    body = dump_json(record)[:-1]
    return b'%b%b%08x"}' % (body, _MARK, crc32(body))


def parse_line(line: bytes, path: Path) -> EpisodeRecord | None:
    """Return the record of a whole line of a file, or None where it is damaged or no episode.

    Raises InvalidInput for a line of a newer version, which this one cannot judge.
    """
    if line.endswith(b"\r\n"):  # an editor, or git on Windows
        line = line[:-2] + b"\n"
    end = len(line) - _AFTER_MARK
    has_checksum = line.startswith(_MARK, end - len(_MARK))
    if has_checksum:
        checksum = b"%08x" % crc32(memoryview(line)[: end - len(_MARK)])
        if not line.startswith(checksum, end):
            return None
    data = parse_json(line)
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is int and schema > 1:
        if not has_checksum:
            return None
        if schema > SCHEMA:
            raise InvalidInput(
                Problem(
                    f"an episode of schema {schema}; this emobench reads up to {SCHEMA}",
                    file=str(path),
                    hint="a newer version wrote it; use that one",
                )
            )
    return parse_episode(data)


def parse_episode(data: object) -> EpisodeRecord | None:
    """Return parsed JSON as a record, or None where it is no episode. A field that is not as a run
    writes it is as if it were absent."""
    if not isinstance(data, dict):
        return None
    get = data.get
    task, trial, outcome = get("task_id"), get("trial"), get("outcome")
    if type(task) is not int or type(trial) is not int or not isinstance(outcome, str):
        return None
    ended = _OUTCOMES.get(outcome)
    if ended is None:
        return None
    info, traj, calls = get("info"), get("traj"), get("calls")
    cell = parse_whole(get("cell"), INT32)
    return EpisodeRecord(
        schema=parse_whole(get("schema"), INT16) or 1,
        episode=parse_text(get("episode")) or "",
        cell=-1 if cell is None else cell,
        env=parse_text(get("env")) or "",
        agent_strategy=parse_text(get("agent_strategy")) or "",
        variant=parse_text(get("variant")) or "",
        assistant=parse_text(get("assistant")) or "",
        trial=trial,
        task_id=task,
        attempt=parse_whole(get("attempt"), INT16) or 1,
        reward=None if ended is Outcome.INFRA_ERROR else parse_number(get("reward")),
        info=info if isinstance(info, dict) else {},
        traj=traj if isinstance(traj, list) else [],
        outcome=ended,
        error=_parse_error(get("error")),
        started=parse_text(get("started")),
        wall_s=parse_number(get("wall_s")),
        steps=parse_whole(get("steps"), INT32) or 0,
        turns=parse_whole(get("turns"), INT32) or 0,
        tool_calls=parse_whole(get("tool_calls"), INT32) or 0,
        cost=parse_number(get("cost")),
        seed=parse_whole(get("seed"), INT64),
        calls=[each for each in calls if isinstance(each, dict)] if isinstance(calls, list) else [],
        variant_sha256=parse_text(get("variant_sha256")),
        user_strategy=parse_text(get("user_strategy")),
        fidelity=_parse_names(get("fidelity")),
        user_prompt_sha256=parse_text(get("user_prompt_sha256")),
        benchmark=_parse_benchmark(get("benchmark")),
        emobench=parse_text(get("emobench")),
        history=_parse_history(get("history")),
    )


def make_cell_filter(cell: Cell) -> Callable[[EpisodeRecord], bool]:
    """Return a function that says whether a record is one of the cell's, on one of its tasks."""
    key, tasks = cell.key, frozenset(cell.tasks)
    return lambda record: record.task_id in tasks and record.key == key


class Line(NamedTuple):
    """One line of an episodes.jsonl."""

    offset: int
    """Where it begins, in bytes."""
    length: int
    state: Literal["episode", "damaged", "blank", "torn"]
    """torn: the last line has no end; a write was cut off or is going on."""
    record: EpisodeRecord | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length


def read_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """Yield the lines from the byte `start` on. Raises OSError; InvalidInput for a newer schema."""
    for line, offset in read_stored_lines(path, start):
        if not line.endswith(b"\n"):
            yield Line(offset, len(line), "torn")
            continue
        record = parse_line(line, path)
        if record is not None:
            yield Line(offset, len(line), "episode", record)
        else:
            yield Line(offset, len(line), "damaged" if line.strip() else "blank")


@dataclass(frozen=True)
class LineCounts:
    """What was left out of one file."""

    replaced: int = 0
    """Infrastructure errors that a later line of the same task replaced."""
    duplicates: int = 0
    """Later lines of a task that had a result already."""
    damaged: int = 0
    """Whole lines that are no episode."""
    torn: int = 0
    """1 where the last line has no end: a write that was cut off or is going on."""
    foreign: int = 0
    """Episodes of another cell, task set, variant text or benchmark."""
    repeated: int = 0
    """Episodes that another run has too, with the same content; they count once."""

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Kept(NamedTuple, Generic[T]):
    """The line that counts for a task so far."""

    path: Path
    is_final: bool
    made: T


def count_lines(
    path: Path,
    make: Callable[[EpisodeRecord, int, int], T],
    kept: MutableMapping[int, Kept[T]],
    belongs: Callable[[EpisodeRecord], bool],
) -> LineCounts:
    """Add what counts of `path` to `kept`, by task; `make(record, offset, length)` turns such a
    line into what is kept.

    `kept` may hold lines of an earlier file of the same cell. An absent file has no lines. Raises
    OSError on a bad disk.
    """
    replaced = duplicates = damaged = torn = foreign = repeated = 0
    try:
        for line in read_lines(path):
            record = line.record
            if record is None:
                damaged += line.state == "damaged"
                torn += line.state == "torn"
                continue
            if not belongs(record):
                foreign += 1
                continue
            earlier = kept.get(record.task_id)
            if earlier is not None:
                same_file = earlier.path == path
                if earlier.is_final:
                    duplicates += same_file
                    repeated += not same_file
                    continue
                replaced += same_file
                repeated += not same_file
            made = make(record, line.offset, line.length)
            kept[record.task_id] = Kept(path, record.is_final, made)
    except (FileNotFoundError, NotADirectoryError):
        return LineCounts()
    return LineCounts(replaced, duplicates, damaged, torn, foreign, repeated)


class TaskResult(NamedTuple):
    """What a cell's file says of one task."""

    outcome: Outcome
    reward: float | None

    is_final: bool


def read_results(path: Path, cell: Cell) -> Mapping[int, TaskResult]:
    """Return what counts in a cell's file, by task, also of tasks that the cell no longer has.

    Read once as long as the file stays the same. An absent file has none. Raises OSError on a bad
    disk.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    version = (status.st_size, status.st_mtime_ns, status.st_ino)
    return _read_results_at(path, version, cell.key)


@lru_cache(2**16)
def _read_results_at(
    path: Path, _: object, key: tuple[str, str, str, str, int]
) -> Mapping[int, TaskResult]:
    kept: dict[int, Kept[TaskResult]] = {}
    count_lines(
        path,
        lambda record, *_: TaskResult(record.outcome, record.reward, record.is_final),
        kept,
        lambda record: record.key == key,
    )
    return MappingProxyType({task: line.made for task, line in kept.items()})


class CellBusy(EmobenchError):
    """Another process is writing this cell."""

    exit_code = 2


class EpisodeStore(LineStore):
    """Appends episodes to `episodes.jsonl` under an exclusive lock, flushed to disk.

    Opening moves lines that are damaged, or were torn by a kill or a full disk, to
    `set_aside.jsonl`: those episodes run again. Raises CellBusy where another process holds the
    cell, OSError where the disk says no; what was there before stays.
    """

    def __init__(
        self, paths: CellPaths, belongs: Callable[[EpisodeRecord], bool] = lambda record: True
    ) -> None:
        super().__init__(paths.episodes, paths.lock)
        self.paths = paths
        self.records: dict[int, EpisodeRecord] = {}
        """What counts so far, by task."""
        self.foreign: list[EpisodeRecord] = []
        """Those in the file that do not belong to the cell."""
        self.damaged = 0
        """Lines that were set aside when it was opened."""
        self.earlier: dict[int, list[EarlierAttempt]] = {}
        """Attempts of episodes that were set aside, by task."""
        self._belongs = belongs
        self._attempts: dict[int, int] = {}
        self._usage: dict[tuple[int, int], Usage] = {}

    def __enter__(self) -> EpisodeStore:
        make_folder(self.paths.folder)
        return super().__enter__()

    def append(self, *records: EpisodeRecord) -> None:
        """Write episodes; when this returns they are on disk. Raises OSError otherwise."""
        self._write(map(format_line, records))
        for record in records:
            self._remember(record)

    @property
    def usage(self) -> dict[str, RoleUsage]:
        """Tokens and money of all attempts, those that count for nothing included, by role."""
        return add_usage(*self._usage.values())

    def count_tokens(self) -> dict[int, int]:
        """Return what both models wrote in each finished episode, by task, where it was counted."""
        tokens: dict[int, int] = {}
        for task in self.list_finished():
            usage = self._usage[task, self.records[task].attempt].values()
            written = [each.completion_tokens for each in usage if each.completion_tokens]
            if written:
                tokens[task] = sum(written)
        return tokens

    def list_finished(self) -> set[int]:
        """Return the tasks that need no further run."""
        return {task for task, record in self.records.items() if record.is_final}

    def count_attempts(self, task: int) -> int:
        """Return how often the task was begun before."""
        set_aside = (each.attempt for each in self.earlier.get(task, ()))
        return max(self._attempts.get(task, 0), *set_aside, 0)

    def set_aside(self, tasks: Collection[int]) -> None:
        """Move every episode of these tasks to `set_aside.jsonl`, to be run again. Raises OSError;
        nothing is lost then."""

        def goes(line: Line) -> bool:
            record = line.record
            return record is not None and record.task_id in tasks and self._belongs(record)

        self._move(goes)
        self._load()

    def _make_busy_error(self) -> CellBusy:
        return CellBusy(
            f"{self.paths.folder}: another process is running this cell; "
            "wait for it or cancel it (emobench cancel)"
        )

    def _load(self) -> int:
        self.records.clear()
        self.foreign.clear()
        self._attempts.clear()
        damaged = end = 0
        for line in read_lines(self._path):
            end = line.end
            damaged += _is_damaged(line)
            if line.record is None:
                continue
            if self._belongs(line.record):
                self._remember(line.record)
            else:
                self.foreign.append(line.record)
        if damaged:
            self.damaged = damaged
            self._move(_is_damaged)
            return self._load()
        if self.paths.set_aside.exists():
            self._note_earlier()
        return end

    def _note_earlier(self) -> None:
        found: dict[int, dict[int, EarlierAttempt]] = {}
        for line in read_lines(self.paths.set_aside):
            record = line.record
            if record is not None and self._belongs(record):
                attempts = found.setdefault(record.task_id, {})
                attempts.update((each.attempt, each) for each in record.attempts)
        self.earlier = {
            task: [attempts[number] for number in sorted(attempts)]
            for task, attempts in found.items()
        }
        for task, earlier in self.earlier.items():
            self._note_usage(task, earlier)

    def _move(self, goes: Callable[[Line], bool]) -> None:
        """Move lines to `set_aside.jsonl`. Those of a move that is killed are in both files."""
        data = self._path.read_bytes()
        stay: list[bytes] = []
        moved: list[bytes] = []
        for line in read_lines(self._path):
            (moved if goes(line) else stay).append(data[line.offset : line.end])
        append_lines(self.paths.set_aside, (each.removesuffix(b"\n") for each in moved))
        write_bytes_atomic(self._path, b"".join(stay))
        self._reopen()

    def _note_usage(self, task: int, attempts: Iterable[EarlierAttempt]) -> None:
        # Several lines may tell of one attempt, which was paid for once.
        self._usage.update({(task, each.attempt): each.usage for each in attempts})

    def _remember(self, record: EpisodeRecord) -> None:
        task = record.task_id
        self._attempts[task] = max(self._attempts.get(task, 0), record.attempt)
        self._note_usage(task, record.attempts)
        known = self.records.get(task)
        if known is None or not known.is_final:
            self.records[task] = record


def _is_damaged(line: Line) -> bool:
    return line.state in ("damaged", "torn")


def parse_number(value: object) -> float | None:
    """Return a finite number, or None."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is not int:
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def parse_whole(value: object, largest: int) -> int | None:
    """Return a whole number of at most that size, or None."""
    if type(value) is int:
        return value if -largest <= value <= largest else None
    return parse_whole(int(value), largest) if type(value) is float and value.is_integer() else None


def parse_text(value: object) -> str | None:
    """Return a string that UTF-8 can write, or None. A model can send a lone surrogate."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _parse_error(data: object) -> EpisodeError | None:
    if not isinstance(data, dict):
        return None
    return EpisodeError(parse_text(data.get("type")) or "", parse_text(data.get("message")) or "")


def _parse_benchmark(data: object) -> BenchmarkVersion | None:
    if not isinstance(data, dict):
        return None
    return _version(parse_text(data.get("package")) or "", parse_text(data.get("version")) or "")


_version = lru_cache(16)(BenchmarkVersion)


def _parse_names(data: object) -> list[str]:
    if not data or not isinstance(data, list):
        return []
    return [each for each in data if isinstance(each, str)]


def _parse_history(data: object) -> list[EarlierAttempt]:
    if not data or not isinstance(data, list):
        return []
    return [
        EarlierAttempt(
            attempt=parse_whole(each.get("attempt"), INT16) or 1,
            error=_parse_error(each.get("error")),
            started=parse_text(each.get("started")),
            wall_s=parse_number(each.get("wall_s")),
            steps=parse_whole(each.get("steps"), INT32) or 0,
            outcome=_OUTCOMES.get(parse_text(each.get("outcome")) or "", Outcome.INFRA_ERROR),
            usage=read_usage(each.get("usage")),
        )
        for each in data
        if isinstance(each, dict)
    ]
