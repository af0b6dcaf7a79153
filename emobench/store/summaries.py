"""`variant_summary.json`: how a cell stands, for those who do not want to read its episodes."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from emobench.core.files import read_json, write_json
from emobench.core.job_id import own_task_id
from emobench.core.outcomes import Outcome
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import now
from emobench.store.episodes import EpisodeStore


class CellSummary:
    """`variant_summary.json`, rewritten as the cell goes on."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, cell: Cell, content: Mapping[str, object]
    ) -> None:
        self._written = 0.0
        self.path = run_dir.cell(cell.number).summary
        self.cell = cell
        self.fields: dict[str, Any] = {
            "schema": 1,
            "cell": cell.number,
            "title": cell.title,
            "variant": cell.variant,
            "status": "running",
            "exit_reason": "running",
            "message": "",
            "expected": len(cell.tasks),
            "finished": 0,
            "outcomes": {},
            "mean_reward": None,
            "variant_sha256": plan.sweep.variants[cell.variant].sha256,
            "started": now(),
            "ended": None,
            "job_id": own_task_id(),
            "host": socket.gethostname(),
            "content": content,
            # Only the run that begins a cell probes; those that complete it keep what it found.
            "probe": (read_json(self.path) or {}).get("probe", {}),
        }

    def write(self, store: EpisodeStore, **fields: Any) -> None:
        wanted = set(self.cell.tasks)
        records = [record for task, record in store.records.items() if task in wanted]
        rewards = [
            record["reward"] for record in records if record["outcome"] != Outcome.INFRA_ERROR
        ]
        self.fields.update(
            finished=len(rewards),
            outcomes=dict(Counter(record["outcome"] for record in records)),
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
            **fields,
        )
        write_json(self.path, self.fields)
        self._written = time.monotonic()

    def write_now_and_then(self, store: EpisodeStore) -> None:
        """At most once a second: its cost must not grow with the speed of the run."""
        if time.monotonic() - self._written > 1.0:
            self.write(store)

    def end(self, store: EpisodeStore, status: str, reason: str, message: str = "") -> None:
        """The last word on this run of the cell."""
        self.write(store, status=status, exit_reason=reason, message=message, ended=now())
