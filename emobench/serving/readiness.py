"""When a started engine counts as ready: it is healthy, has proved itself, and has chatted."""

from __future__ import annotations

import time
from collections.abc import Callable

from emobench.serving.canary import Canary, Verdict
from emobench.serving.engine import Engine
from emobench.store.endpoints import OTHER_SERVER, Endpoint, get, what_is_wrong

PROBE_TIMEOUT_S = 5.0


class Readiness:
    """Looks at one start of an engine, step by step, until its first requests are answered."""

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        key: str,
        tools: bool,
        deadline: float,
        on_end: Callable[[], None],
    ) -> None:
        """`tools`: whether it has to call one. What is left until `deadline` (on the monotonic
        clock) is the first requests' time; `on_end` is called from another thread."""
        self._engine, self._endpoint, self._key = engine, endpoint, key
        self._tools, self._deadline, self._on_end = tools, deadline, on_end
        self._canary: Canary | None = None
        self.problem = "it was not asked yet"
        """Why it is not ready."""

    @property
    def port_taken(self) -> bool:
        """Whether another server answers in its place."""
        return OTHER_SERVER in self.problem

    def look(self) -> Verdict | None:
        """What the first requests showed; None as long as they are not answered."""
        if self._canary is None:
            self.problem = self._probe()
            if self.problem:
                return None
            self.problem = "its first requests were not answered"
            self._canary = Canary(
                self._endpoint,
                self._key,
                tools=self._tools,
                timeout_s=max(self._deadline - time.monotonic(), 1.0),
                on_end=self._on_end,
            )
        return self._canary.verdict()

    def _probe(self) -> str:
        url = self._engine.url
        try:
            status, _ = get(f"{url}/health", timeout_s=PROBE_TIMEOUT_S)
        except OSError as error:
            return f"{url} does not answer: {error}"
        if status != 200:
            return f"{url}/health answers HTTP {status}"
        return what_is_wrong(self._endpoint, self._key)


def is_healthy(engine: Engine, timeout_s: float) -> bool:
    """Whether a running engine answers for its health within `timeout_s` seconds."""
    try:
        return get(f"{engine.url}/health", timeout_s=timeout_s)[0] == 200
    except OSError:
        return False
