"""endpoints/<server>.<job>.events.jsonl: when a server was loading, ready, busy and idle.

The endpoint file says what is; this says what was, in a few lines, so that the cost of a run can
be told where no accounting is kept. Each file has one writer, the server's job: a successor that
takes over has a job id, and so a file, of its own.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from emobench.core.files import open_to_read, open_to_write, parse_json
from emobench.core.output import say
from emobench.core.run_dir import RunDir
from emobench.core.times import to_iso
from emobench.llm.engine_metrics import Load, was_busy
from emobench.store.usage_meter import Served, UsageMeter

Kind = Literal["starting", "ready", "busy", "idle", "served", "restarted", "left", "failed"]
ENDS = ("restarted", "left", "failed")
SUFFIX = ".events.jsonl"
REASON_LIMIT = 300
SERVED_EVERY_S = 300.0
"""How often what was served is noted; a job that is killed loses the rest."""


@dataclass(frozen=True)
class Event:
    time: float
    """Seconds since the epoch."""
    event: Kind
    server: str
    job_id: str
    incarnation: str = ""
    reason: str = ""
    cause: str = ""
    """Kind of the cause (see `serving.failure_diagnosis`) where an engine ended by itself."""
    busy_s: float = 0.0
    """Of `served`: as `UsageMeter` has it, since the job's begin."""
    request_s: float = 0.0


class EventLog:
    """Appends this job's events. A disk that says no must not end a server: it is passed over."""

    def __init__(self, run_dir: RunDir, server: str, job_id: str) -> None:
        self._path = run_dir.events(server, job_id)
        self._server, self._job_id = server, job_id
        self._incarnation = ""
        self._load: Load | None = None
        self._busy = False
        self._meter = UsageMeter()
        self._noted, self._noted_at = Served(), time.monotonic()

    def note(self, event: Kind, incarnation: str = "", reason: str = "", cause: str = "") -> None:
        """Append one event; `incarnation` stays the last one given."""
        self._incarnation = incarnation or self._incarnation
        if event in ("starting", "ready"):
            self._busy, self._load = False, None
            self._meter.forget_engine()
        if event in ENDS:
            self._note_served()
        words = " ".join(reason.split())[:REASON_LIMIT]
        self._append(
            Event(_now(), event, self._server, self._job_id, self._incarnation, words, cause)
        )

    def _note_served(self) -> None:
        served = self._meter.served
        if served != self._noted:
            self._noted, self._noted_at = served, time.monotonic()
            busy_s, request_s = round(served.busy_s, 3), round(served.request_s, 3)
            self._append(
                Event(
                    *(_now(), "served", self._server, self._job_id, self._incarnation),
                    busy_s=busy_s,
                    request_s=request_s,
                )
            )

    def _append(self, value: Event) -> None:
        fields = {key: each for key, each in asdict(value).items() if each not in ("", 0.0)}
        fields["time"] = to_iso(value.time)
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        try:
            descriptor = open_to_write(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, line.encode(errors="replace"))
            finally:
                os.close(descriptor)
        except OSError as error:
            say(f"emobench: cannot note '{value.event}': {error}")

    def note_load(self, load: Load) -> bool:
        """Take a look at the engine into account, note where it turned busy or idle, and return
        whether it had a request since the last look."""
        busy = was_busy(self._load, load)
        self._load = load
        self._meter.observe(time.monotonic(), load)
        if time.monotonic() - self._noted_at >= SERVED_EVERY_S:
            self._note_served()
        if busy != self._busy:
            self._busy = busy
            self.note("busy" if busy else "idle")
        return busy


def read_events(run_dir: RunDir) -> dict[str, list[Event]]:
    """Return the events of every server's job by job id, in the order they were written."""
    found: dict[str, list[Event]] = {}
    try:
        paths = sorted(run_dir.endpoints.iterdir())
    except OSError:
        return found
    for path in paths:
        if path.name.endswith(SUFFIX):
            for event in _read(path):
                found.setdefault(event.job_id, []).append(event)
    return found


def _read(path: Path) -> list[Event]:
    try:
        with open_to_read(path) as stream:
            lines = stream.read().splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            events.append(_parse_event(parse_json(line)))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue  # torn by a full disk or a kill
    return events


def _parse_event(data: Any) -> Event:
    if data["event"] not in get_args(Kind):
        raise ValueError
    return Event(
        datetime.fromisoformat(data["time"]).timestamp(),
        data["event"],
        str(data["server"]),
        str(data["job_id"]),
        str(data.get("incarnation", "")),
        str(data.get("reason", "")),
        str(data.get("cause", "")),
        *(_parse_seconds(data.get(name)) for name in ("busy_s", "request_s")),
    )


def _parse_seconds(value: object) -> float:
    known = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if known else 0.0  # type: ignore[arg-type]


def _now() -> float:
    return datetime.now(UTC).timestamp()
