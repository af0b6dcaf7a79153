from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.report.chromium import Chromium, find_chromium


@pytest.fixture(scope="session")
def executable() -> str:
    """Chromium, or a loud skip; with CI=true its absence is a failure."""
    found = find_chromium()
    if found is None:
        message = "NO CHROMIUM: the report is not tested in a browser (apt-get install chromium)"
        print(message, file=sys.stderr)
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser(executable: str) -> Iterator[Chromium]:
    with Chromium(executable) as opened:
        yield opened
