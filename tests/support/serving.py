"""A run directory with rendered scripts, and supervisors started on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile
from emobench.core.files import write_bytes_atomic
from emobench.core.models import RoleModel
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.scheduler.render import render
from emobench.store.clients import Client, write_client
from emobench.store.endpoints import Endpoint, ServerLocation, read_endpoint
from tests.support import runs
from tests.support.plans import LOCAL, scripted
from tests.support.processes import until

READY = Endpoint(
    server="user",
    role="user",
    url="",
    model="m",
    incarnation="abc",
    engine="vllm",
    host="node1",
    job_id="1",
    pid=1,
    started=now(),
    state="ready",
)
"""The user's server as it publishes itself, but for its address."""


def make_run(
    folder: Path,
    profile: ClusterProfile = LOCAL,
    user: RoleModel | None = None,
    trials: int = 1,
    tasks: int = 2,
    **sweep: Any,
) -> RunDir:
    """A run of two scripted servers (user, assistant_a) and 2 * `trials` cells, not started."""
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    run_dir = runs.make_run(
        folder / "run",
        profile=profile,
        logs=logs,
        user=user,
        assistants={"a": scripted()},
        variants=("control", "frustration"),
        tasks=tasks,
        trials=trials,
        **sweep,
    )
    run_dir.scripts.mkdir()
    for name, text in render(load_plan(run_dir), run_dir, [find_shipped_templates()]).items():
        (run_dir.scripts / name).write_text(text)
    return run_dir


class LoadedServer:
    """A server of a run that is as loaded as the test says (see loaded_server.py)."""

    def __init__(self, run_dir: RunDir, folder: Path, server: str = "user") -> None:
        self.location = ServerLocation(run_dir, server)
        self.hold = folder / "hold"
        """While this file exists, no conversation goes on."""
        self.delay = folder / "delay"
        """Seconds that each call takes."""
        self._metrics = folder / "metrics"
        folder.mkdir()
        self.delay.write_text("0")
        script = run_dir.scripts / f"serve_{server}.sh"
        program = Path(__file__).with_name("loaded_server.py")
        begun, module, rest = script.read_text().partition("-m emobench.scripted ")
        assert module
        script.write_text(f"{begun}{program} {folder} {rest}")
        self.load(running=0, waiting=0)

    def load(self, running: int, waiting: int, preemptions: int = 0, cache: float = 0.0) -> None:
        """From now on /metrics says so."""
        text = (
            f'vllm:num_requests_running{{engine="0"}} {running}\n'
            f'vllm:num_requests_waiting{{engine="0"}} {waiting}\n'
            f'vllm:num_preemptions_total{{engine="0"}} {preemptions}\n'
            f'vllm:kv_cache_usage_perc{{engine="0"}} {cache}\n'
        )
        write_bytes_atomic(self._metrics, text.encode())

    def read(self) -> Endpoint:
        endpoint = self.location.read()
        assert endpoint is not None
        return endpoint

    def come(self, sweep: str, cell: int, wish: int, in_use: int = 0) -> Client:
        """Be a cell of a sweep there."""
        client = Client(sweep, "a", cell, wish, in_use)
        write_client(self.location, client)
        return client

    def until_shares(self, shares: Mapping[str, int]) -> None:
        until(lambda: self.read().shares == shares, f"shares to be {shares}")


class LaterClock:
    """Moves the time of a supervisor that is started with `lines` first."""

    def __init__(self, folder: Path) -> None:
        self._file, self._ahead_s = folder / "ahead", 0.0
        self.advance(0)
        self.lines = (
            "import time; real = time.monotonic\n"
            f"time.monotonic = lambda: real() + float(open({str(self._file)!r}).read())"
        )

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds
        write_bytes_atomic(self._file, str(self._ahead_s).encode())


@contextmanager
def supervising(
    run_dir: RunDir,
    server: str = "user",
    backoff_s: str = "(0.1, 0.2)",
    first: str = "",
    **environment: str,
) -> Iterator[subprocess.Popen[str]]:
    """A supervisor with short times, in a process that runs the lines `first` before; killed at the
    end if it is still there."""
    code = (
        f"{first}\nimport sys; from emobench.serving.supervise import Timing, main; "
        "sys.exit(main(sys.argv[1:], Timing(heartbeat_s=0.2, probe_s=0.05, health_s=0.2, "
        f"health_timeout_s=5, backoff_s={backoff_s}, grace_s=2, "
        "queue_check_s=0.2, budget_check_s=0.2, settle_s=0.4)))"
    )
    command = [sys.executable, "-c", code, "--run-dir", str(run_dir.path), "--server", server]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_state(run_dir: RunDir, state: str, server: str = "user", other: str = "") -> Endpoint:
    """The endpoint once it is in `state` with another incarnation than `other`."""

    def found() -> bool:
        endpoint = read_endpoint(run_dir, server)
        return endpoint is not None and endpoint.state == state and endpoint.incarnation != other

    until(found, f"{server} to be {state}")
    endpoint = read_endpoint(run_dir, server)
    assert endpoint is not None
    return endpoint


def assert_stays(process: subprocess.Popen[str], run_dir: RunDir, server: str = "user") -> None:
    """Return once the supervisor has looked several times more whether to leave, and did not."""

    def heartbeat() -> str:
        endpoint = read_endpoint(run_dir, server)
        return endpoint.heartbeat if endpoint is not None else ""

    for _ in range(5):
        before = heartbeat()
        until(lambda b=before: process.poll() is not None or heartbeat() != b, "a heartbeat")  # type: ignore[misc]
        assert process.poll() is None, f"{server} left"
