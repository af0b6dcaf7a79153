from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.probe.endpoint import Endpoint
from tests.support.listening import answering


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server that answers well until a test says otherwise."""
    with answering(Endpoint()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0, 0.0))
