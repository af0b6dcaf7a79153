"""When a started engine counts as ready: it is healthy, has proved itself, and has chatted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emobench.llm.client import Identity, OtherServer, Unreachable, check_health, verify_server
from emobench.serving.canary import Verdict, send_canaries
from emobench.serving.failure_diagnosis import Cause
from emobench.store.endpoints import Endpoint

PROBE_TIMEOUT_S = 5.0


class Readiness:
    """Looks at one start of an engine, step by step, until its first requests are answered."""

    def __init__(
        self,
        endpoint: Endpoint,
        key: str,
        *,
        tools: bool,
        deadline: float,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`tools`: whether it has to call one. What is left until `deadline` (on the monotonic
        clock) is the first requests' time; `on_end` is called from another thread."""
        self._endpoint, self._key = endpoint, key
        self._tools, self._deadline, self._on_end = tools, deadline, on_end
        self._verdict: Verdict | None = None
        self._thread: threading.Thread | None = None
        self.problem = "it was not asked yet"
        """Why it is not ready."""
        self.port_taken = False
        """Whether another server answers in its place."""

    def look(self) -> Verdict | None:
        """Return what the first requests showed; None as long as they are not answered."""
        if self._thread is None and self._is_up():
            self.problem = "its first requests were not answered"
            # A first request may compile for minutes. A daemon, so that one which hangs does not
            # keep a supervisor that is told to leave.
            self._thread = threading.Thread(target=self._ask, daemon=True, name="canary")
            self._thread.start()
        return self._verdict

    def _is_up(self) -> bool:
        url = self._endpoint.url
        identity = Identity(self._endpoint.server, self._endpoint.incarnation)
        try:
            check_health(url, PROBE_TIMEOUT_S)
            verify_server(url, self._endpoint.model, self._key, identity)
        except Unreachable as error:
            self.problem = str(error)
            self.port_taken = isinstance(error, OtherServer)
            return False
        return True

    def _ask(self) -> None:
        left_s = max(self._deadline - time.monotonic(), 1.0)
        try:
            verdict = send_canaries(self._endpoint, self._key, tools=self._tools, timeout_s=left_s)
        except Exception as error:  # nobody would see it in this thread, and wait for ever
            said = f"the canary broke: {error!r}".replace(self._key, "[key]")
            verdict = Verdict(Cause("chat", said, "this is a defect of emobench: report it"))
        self._verdict = verdict
        self._on_end()
