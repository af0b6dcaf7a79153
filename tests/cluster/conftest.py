"""One cluster for all tests of this folder, and an empty queue between them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import Lab, missing
from tests.support.processes import until

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def require_slurm() -> None:
    """Skip the test where Slurm is missing; fail it in CI, which has to provide the cluster."""
    lacking = missing()
    if not lacking:
        return
    message = f"needs a Slurm cluster, and this machine has no {', '.join(lacking)}"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{message} (CI is set, so this is no skip)", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The running cluster."""
    require_slurm()
    with Lab() as running:
        yield running


def _only_cleanups(lab: Lab) -> bool:
    """Whether clean-up jobs are left, which end by themselves soon after a sweep, and no others."""
    names = lab.ask("squeue", "--all", "--noheader", "-o", "%j").split()
    return bool(names) and all(name.endswith("-cleanup") for name in names)


@pytest.fixture(autouse=True)
def clean_lab(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cancel what a test left in the queue, and fail it unless it is marked `leaves_jobs`."""
    yield
    if "lab" not in request.fixturenames:
        return
    running: Lab = request.getfixturevalue("lab")
    with contextlib.suppress(TimeoutError):
        until(lambda: not _only_cleanups(running), "clean-up jobs to end", poll=0.2)
    left = {job: state for job, state in running.queue().items() if state != "COMPLETING"}
    if left:
        running.run("scancel", "--me")
    running.resume_nodes()
    running.wait_idle()
    if left and not request.node.get_closest_marker("leaves_jobs"):
        pytest.fail(f"the test left jobs in the queue: {left}")
