"""python ailing_server.py ANSWERS ...: the scripted server, which is healthy as ANSWERS says.

ANSWERS is a file with a letter for each request of /health to come, 'x' where it gets a 503; each
request takes one away. Without a letter the server is healthy, and leaves the file alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

from emobench.core.files import write_bytes_atomic
from emobench.scripted import server
from emobench.scripted.command import main

ANSWERS = Path(sys.argv[1])


async def health(_: server.ScriptedServer, request: web.Request) -> web.Response:
    if answers := ANSWERS.read_text():
        # By rename: a file that is being written is empty for a moment, as if all were taken.
        write_bytes_atomic(ANSWERS, answers[1:].encode())
    return web.Response(status=503 if answers.startswith("x") else 200)


if __name__ == "__main__":
    server.ScriptedServer.health = health  # type: ignore[method-assign, assignment]
    sys.exit(main(sys.argv[2:]))
