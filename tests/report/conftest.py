from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.chromium import Chromium, find_chromium

ABSENT = "REPORT NOT TESTED IN A BROWSER: no Chromium on this machine (apt-get install chromium)."


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if find_chromium() is None and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line(ABSENT, red=True, bold=True)


@pytest.fixture(scope="session")
def executable() -> str:
    """Chromium; without it the tests are skipped, or fail where CI=true."""
    found = find_chromium()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(ABSENT)
        pytest.skip(ABSENT)
    return found


@pytest.fixture(scope="module")
def browser(executable: str) -> Iterator[Chromium]:
    with Chromium(executable) as opened:
        yield opened
