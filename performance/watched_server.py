"""The scripted server, noting when each request reached it and when its answer was ready.

`python -m performance.watched_server SPANS ...`: the arguments after SPANS are the server's own.
At its end it writes SPANS, a JSON list of [reached, answered] in seconds of the machine's
monotonic clock, which the clients' spans are counted in too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from aiohttp import web

from emobench.scripted.command import main as serve
from emobench.scripted.server import ScriptedServer


def main() -> int:
    spans: list[tuple[float, float]] = []
    chat = ScriptedServer.chat

    async def noted(self: ScriptedServer, http: web.Request) -> web.StreamResponse:
        reached = time.perf_counter()
        try:
            return await chat(self, http)
        finally:
            spans.append((reached, time.perf_counter()))

    ScriptedServer.chat = noted  # type: ignore[method-assign]
    try:
        return serve(sys.argv[2:])
    finally:
        Path(sys.argv[1]).write_text(json.dumps(spans))


if __name__ == "__main__":
    sys.exit(main())
