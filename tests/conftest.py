"""What every test gets: no process may outlive the test that started it."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

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
    # Started in the background of a script, pytest and all that it starts would ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
def benchmark_given_back() -> Iterator[None]:
    """Undo what a cell that abandoned conversations holds of the benchmark for good.

    Of any cell that is right; the next test would converse by this one's completion.
    """

    def count_held() -> int:
        injection: Any = sys.modules.get("emobench.runner.injection")
        return 0 if injection is None else int(injection._installed)

    before = count_held()
    yield
    if (kept := count_held() - before) > 0:
        processes.until(
            lambda: not any(t.name.startswith("episode-") for t in threading.enumerate()),
            "abandoned conversations to end",
        )
        injection: Any = sys.modules["emobench.runner.injection"]
        with injection._lock:
            injection._installed -= kept
            while injection._undo and not injection._installed:
                setattr(*injection._undo.pop())


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
