"""A run directory with rendered scripts, and supervisors started on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile
from emobench.core.files import write_bytes_atomic
from emobench.core.models import RoleModel
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.scheduler.render import render
from emobench.store.endpoints import Endpoint, read_endpoint
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
    folder: Path, profile: ClusterProfile = LOCAL, user: RoleModel | None = None, trials: int = 1
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
        tasks=2,
        trials=trials,
    )
    run_dir.scripts.mkdir()
    for name, text in render(load_plan(run_dir), run_dir, [find_shipped_templates()]).items():
        (run_dir.scripts / name).write_text(text)
    return run_dir


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
        "queue_check_s=0.2, budget_check_s=0.2)))"
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
