"""Cells beside each other at their servers, in a sweep on this machine without Slurm."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.store.clients import read_clients
from emobench.store.endpoints import read_endpoint
from emobench.store.episodes import EpisodeRecord, EpisodeStore
from tests.support.commands import as_process, emobench
from tests.support.processes import until

SWEEP = """\
name: study
engine: scripted
matrix: {env: retail, variant: control}
trials: 3
tasks: 0-49
user: {latency_ms: 250}
assistants: {many: {latency_ms: 250}, one: {latency_ms: 250}}
exclude: [{assistant: one, trial: [2, 3]}]
"""


def test_assistants_share_the_users_server_and_no_cell_waits_for_the_end_of_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "study.yaml").write_text(SWEEP)
    run_dir = RunDir(tmp_path / "runs/study")
    started = as_process(tmp_path, "sweep", "study.yaml")
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        until(lambda: has_all_it_can_use(shares_of_assistants(run_dir)), "a share for both")
        until(lambda: is_finished(tmp_path), "the end", poll=0.2)
    finally:
        emobench(tmp_path, "cancel", "runs/study")
    cells = [cell.number for cell in load_plan(run_dir).cells if cell.assistant == "many"]
    first, second = (read_episodes(run_dir, number) for number in cells[:2])
    end = max(begin_of(record) + timedelta(seconds=record.wall_s or 0) for record in first)
    begun_before = [record for record in second if begin_of(record) < end]
    assert len(begun_before) >= 5, "more than the one that every cell has"
    assert len(second) == 50


def has_all_it_can_use(shares: Counter[str]) -> bool:
    """Return whether the assistant of one cell is not starved by the one of three."""
    return shares["one"] >= 32 and shares["many"] >= 32


def is_finished(folder: Path) -> bool:
    return bool(json.loads(emobench(folder, "status", "runs/study", "--json").stdout)["finished"])


def shares_of_assistants(run_dir: RunDir) -> Counter[str]:
    """Return what the user's server gives the cells of each assistant."""
    endpoint, shares = read_endpoint(run_dir, "user"), Counter[str]()
    for client in read_clients(run_dir, "user") if endpoint else ():
        shares[client.assistant] += endpoint.shares.get(client.name, 0) if endpoint else 0
    return shares


def read_episodes(run_dir: RunDir, number: int) -> list[EpisodeRecord]:
    with EpisodeStore(run_dir.cell(number)) as store:
        return list(store.records.values())


def begin_of(record: EpisodeRecord) -> datetime:
    return datetime.fromisoformat(record.started or "")
