"""What every test gets: no process may outlive the test that started it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.cluster.lab import missing
from tests.support import processes
from tests.support.scripted import launch, library

__all__ = ["launch", "library"]

TAG = "EMOBENCH_TEST"
GRACE_SECONDS = 120.0
_numbers = itertools.count()

# How long an example takes depends on the machine.
hypothesis.settings.register_profile(
    "emobench", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("emobench")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs the real Slurm cluster of tests/cluster")
    config.addinivalue_line("markers", "leaves_jobs: the test may leave jobs in the queue")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lacking = missing()
    if lacking and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line(
            f"CLUSTER TESTS SKIPPED: no {', '.join(lacking)} on this machine. "
            "On Debian or Ubuntu run `make test` as root, or `sudo tools/system-packages.sh`.",
            red=True,
            bold=True,
        )


@pytest.fixture(autouse=True)
def no_process_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process behind, and end that process.

    Found by a variable that children inherit, however often they detached, or as direct children.
    """
    tag = f"{os.getpid()}.{next(_numbers)}"
    monkeypatch.setenv(TAG, tag)
    before = set(processes.pids())

    def left() -> dict[int, str]:
        return {
            pid: name
            for pid in processes.pids()
            if pid not in before
            and (
                processes.has_environment(pid, f"{TAG}={tag}")
                or processes.parent(pid) == os.getpid()
            )
            and (name := processes.comm(pid))
            # Python's own helper of multiprocessing lives as long as the interpreter.
            and "multiprocessing.resource_tracker" not in processes.command_line(pid)
        }

    yield
    try:
        processes.until(lambda: not left(), "the test's processes to end", GRACE_SECONDS)
    except TimeoutError:
        found = left()
        lines = [f"{pid} {processes.command_line(pid)[:200]}" for pid in found]
        processes.end(found)
        pytest.fail("the test left processes behind:\n" + "\n".join(lines))
