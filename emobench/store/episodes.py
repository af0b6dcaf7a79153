"""The episode store of one cell: one writer, one appended line an episode, flushed to disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from emobench.core.errors import EmobenchError
from emobench.core.outcomes import Outcome
from emobench.core.run_dir import CellPaths
from emobench.store.appending import LineStore, written_lines


class CellBusy(EmobenchError):
    """Another process is writing this cell."""

    exit_code = 2


class EpisodeStore(LineStore):
    """Appends episodes to `episodes.jsonl` under an exclusive lock.

    Opening recognises a line that was torn by a kill or a full disk and cuts it off: that episode
    runs again. Raises CellBusy where another process holds the cell, OSError where the disk says
    no; what was there before stays.
    """

    def __init__(self, paths: CellPaths) -> None:
        super().__init__(paths.episodes, paths.lock)
        self.paths = paths
        self.records: dict[int, dict[str, Any]] = {}
        """What counts so far by task: the newest line that is no infrastructure error, if any."""
        self.attempts: dict[int, int] = {}

    def __enter__(self) -> EpisodeStore:
        self.paths.folder.mkdir(parents=True, exist_ok=True)
        return super().__enter__()

    def append(self, *records: dict[str, Any]) -> None:
        """Write episodes; when this returns they are on disk. Raises OSError otherwise."""
        self._write(map(dump, records))
        for record in records:
            self._remember(record)

    def finished(self) -> set[int]:
        """Tasks that need no further run."""
        return {
            task
            for task, record in self.records.items()
            if record["outcome"] != Outcome.INFRA_ERROR
        }

    def _busy(self) -> CellBusy:
        return CellBusy(
            f"{self.paths.folder}: another process is running this cell; "
            "wait for it or cancel it (emobench cancel)"
        )

    def _load(self) -> int:
        whole = 0
        for record, end in whole_lines(self.paths.episodes):
            whole = end
            if record is not None:
                self._remember(record)
        return whole

    def _remember(self, record: dict[str, Any]) -> None:
        task = record["task_id"]
        self.attempts[task] = max(self.attempts.get(task, 0), record.get("attempt", 1))
        known = self.records.get(task)
        if known is None or known["outcome"] == Outcome.INFRA_ERROR:
            self.records[task] = record


def whole_lines(path: Path) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Each line that was written to its end, as a record, with the offset after it.

    A line that is no record (a disk's fault, an editor's) is None. A last line without its line
    break was torn, and is left out.
    """
    for line, end in written_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        whole = isinstance(record, dict) and "task_id" in record and "outcome" in record
        yield (record if whole else None), end


def dump(value: Any) -> bytes:
    """Compact JSON."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # A lone surrogate, which a model can send as an escape, or a number beyond 64 bits.
        return json.dumps(value, default=_plain).encode()


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else str(value)
