"""python loaded_server.py FOLDER ...: the scripted server, as loaded as FOLDER says.

/metrics answers with the text of FOLDER/metrics. No conversation goes on while there is a
FOLDER/hold, and each call waits for the seconds in FOLDER/delay.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from emobench.scripted import server
from emobench.scripted.command import main

FOLDER = Path(sys.argv[1])
answer = server.ScriptedServer.chat


async def chat(self: server.ScriptedServer, request: web.Request) -> web.StreamResponse:
    while (FOLDER / "hold").exists():
        await asyncio.sleep(0.02)
    await asyncio.sleep(float((FOLDER / "delay").read_text()))
    return await answer(self, request)


async def expose_metrics(_: server.ScriptedServer, __: web.Request) -> web.Response:
    return web.Response(text=(FOLDER / "metrics").read_text())


if __name__ == "__main__":
    server.ScriptedServer.chat = chat  # type: ignore[method-assign, assignment]
    server.ScriptedServer.expose_metrics = expose_metrics  # type: ignore[method-assign, assignment]
    sys.exit(main(sys.argv[2:]))
