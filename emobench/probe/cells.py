"""The probe before a cell's first episode, shared among the cells of a run.

endpoints/probe_<server>_<incarnation>_<env>.json holds what was found of one start of a server.
The first cell that comes probes, the others of an array wait for what it finds. Of an endpoint
that is not the run's own there is no incarnation: what was found counts for an hour, and only
what spoke for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.transcript import TEXT_STRATEGIES
from emobench.core.files import read_json, write_json
from emobench.core.plan import USER_SERVER, Plan, name_assistant_server
from emobench.core.run_dir import RunDir, slugify
from emobench.core.sweep import Cell
from emobench.core.worker_pool import WorkerPool
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe.report import ProbeReport
from emobench.probe.session import probe

TIMEOUT_S = 300.0
"""Of each call: a server's first one may still compile."""
WAIT_S = 120.0
"""For the result of another cell's probe, before this cell asks on its own."""
EXTERNAL_S = 3600.0


@dataclass(frozen=True)
class CellProbe:
    """What a cell's two endpoints were found to be."""

    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For the cell's summary: state, verdict and warnings by role."""
    failure: str = ""
    """Why the cell should not run; empty where it may."""


def probe_cell(
    plan: Plan,
    run_dir: RunDir,
    cell: Cell,
    endpoints: Mapping[Role, ModelEndpoint],
    benchmark: Benchmark,
    interrupted: Callable[[], bool],
    progress: Callable[[str], None],
    limits: EndpointLimits | None = None,
) -> CellProbe:
    """Probe both roles as the sweep's `probe` says. An endpoint that does not answer is left to
    the episodes, which wait for it. Raises OSError where the disk refuses."""
    if plan.sweep.probe == "off":
        return CellProbe()
    servers: dict[Role, str] = {
        "assistant": name_assistant_server(cell.assistant),
        "user": USER_SERVER,
    }
    roles: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for role, server in servers.items():
        endpoint = endpoints[role]
        if plan.sweep.fidelity.send_seed:
            endpoint = replace(endpoint, sampling={**endpoint.sampling, "seed": plan.sweep.seed})
        tools = role == "user" or cell.agent_strategy not in TEXT_STRATEGIES
        file = _name_file(run_dir, server, endpoint, cell.env, tools)

        def ask(
            endpoint: ModelEndpoint = endpoint, role: Role = role, tools: bool = tools
        ) -> ProbeReport:
            timeout_s = min(endpoint.timeout_s, TIMEOUT_S)
            return probe(
                endpoint,
                role,
                env=cell.env,
                benchmark=benchmark,
                timeout_s=timeout_s,
                tools=tools,
                limits=limits,
            )

        report = _get_shared_report(file, endpoint, ask, interrupted)
        if report is None:
            break
        roles[role] = {
            "state": report.state,
            "verdict": report.verdict,
            "warnings": [f"{check.name}: {check.seen}" for check in report.warnings],
        }
        if report.state != "usable":
            progress(f"cell {cell.number}: probe of the {role}: {report.verdict}")
        if report.state == "not_usable":
            failures.append(f"{role} {report.model}: {report.verdict}")
    if not failures or plan.sweep.probe != "enforce":
        return CellProbe(roles)
    advice = (
        "see `emobench probe --help`; `probe: warn` in the sweep file runs the cell all the same"
    )
    return CellProbe(roles, f"{'; '.join(failures)}. {advice}")


def _name_file(
    run_dir: RunDir, server: str, endpoint: ModelEndpoint, env: str, tools: bool
) -> Path:
    incarnation = slugify(endpoint.incarnation or "external")
    form = env if tools else f"{env}_text"
    return run_dir.endpoints / f"probe_{server}_{incarnation}_{form}.json"


def _get_shared_report(
    file: Path,
    endpoint: ModelEndpoint,
    ask: Callable[[], ProbeReport],
    interrupted: Callable[[], bool],
) -> ProbeReport | None:
    """Return the report of the first cell that asked; None where the cell is told to stop
    meanwhile."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline, began = time.monotonic() + WAIT_S, time.time()
    while True:
        known = _read_known_report(file, endpoint, began)
        if known is not None:
            return known
        with _claim(file, force=time.monotonic() > deadline) as mine:
            if mine:
                # Another cell may have ended its probe between the look and the claim.
                report = _read_known_report(file, endpoint, began) or _ask_until_stopped(
                    ask, interrupted
                )
                if report is not None and report.state != "unreachable":
                    write_json(file, {**report.to_dict(), "written": time.time()})
                return report
        if interrupted():
            return None
        time.sleep(0.2)


def _read_known_report(file: Path, endpoint: ModelEndpoint, began: float) -> ProbeReport | None:
    data = read_json(file)
    try:
        written = float(data.pop("written"))
        report = ProbeReport.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if report.model != endpoint.model or report.url != (endpoint.url or "").rstrip("/"):
        return None
    if endpoint.incarnation or written >= began:
        return report
    fresh = began - written < EXTERNAL_S
    return report if fresh and report.state != "not_usable" else None


@contextmanager
def _claim(file: Path, force: bool) -> Iterator[bool]:
    """Say whether this cell is the one that probes. `force` takes it from one that was killed."""
    claim = file.with_name(f".{file.name}.claim")
    try:
        if not force:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def _ask_until_stopped(
    ask: Callable[[], ProbeReport], interrupted: Callable[[], bool]
) -> ProbeReport | None:
    """Ask in a thread of its own: a signal must not wait for a server that does not answer."""
    pool = WorkerPool(1, lambda _: ask(), [None], stopped=interrupted)
    found: list[ProbeReport] = []
    while pool.threads and not found and not interrupted():
        found = pool.wait_for_results(0.5)
    return found[0] if found else None
