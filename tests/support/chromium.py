"""A headless Chromium, driven over the DevTools protocol by the aiohttp that emobench needs anyway.

Everything the page asks for, logs or throws is kept, so that a test can say there was nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
PATIENCE_S = 60.0


def find_chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page. Use as a context manager; raises TimeoutError where it hangs."""

    def __init__(self, executable: str) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        """Console errors, uncaught exceptions, dialogs and policy violations."""
        self._executable = executable
        self._runner = asyncio.Runner()
        self._profile = tempfile.mkdtemp(prefix="emobench-chromium-")
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded: asyncio.Event
        self._session = ""

    def __enter__(self) -> Chromium:
        try:
            self._run(self._start())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._stop())
        self._runner.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str) -> None:
        """Load `url` anew and wait for its load event."""
        self._run(self._open(url))

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command of the page."""
        return self._run(self._send(method, params))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited. RuntimeError if it throws."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once the JavaScript expression is true, looking again at each frame."""
        self.evaluate(
            "new Promise((done) => { const look = () => "
            f"({condition}) ? done(true) : setTimeout(look, 10); look(); }})"
        )

    def press(self, key: str) -> None:
        """One key stroke, as from a keyboard."""
        # Enter acts on a control only with the character and the number that a keyboard sends.
        text: dict[str, Any] = {"text": key} if len(key) == 1 else {}
        if key == "Enter":
            text = {"text": "\r", "windowsVirtualKeyCode": 13}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """The page, or a part of it, as PNG."""
        part = {"clip": {**clip, "scale": 1}} if clip else {}
        answer = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, **part
        )
        return base64.b64decode(answer["data"])

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(asyncio.wait_for(work, PATIENCE_S))

    async def _start(self) -> None:
        self._loaded = asyncio.Event()
        self._process = await asyncio.create_subprocess_exec(
            self._executable,
            *FLAGS,
            f"--user-data-dir={self._profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        stderr = self._process.stderr
        assert stderr is not None
        said = b""
        while b"DevTools listening on " not in said:
            said = await stderr.readline()
            if not said:
                raise RuntimeError(f"{self._executable} ended before it listened")
        self._drain = asyncio.create_task(_drained(stderr))
        self._http = aiohttp.ClientSession()
        address = said.decode().split("DevTools listening on ")[1].strip()
        self._socket = await self._http.ws_connect(address, max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        target = await self._send("Target.createTarget", {"url": "about:blank"})
        attached = await self._send(
            "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self._send(f"{domain}.enable", {})

    async def _stop(self) -> None:
        if getattr(self, "_socket", None):
            self._session = ""
            with_close = self._send("Browser.close", {})
            await asyncio.wait([asyncio.ensure_future(with_close)], timeout=240)
            await self._socket.close()
            self._reader.cancel()
            await self._http.close()
        if getattr(self, "_process", None):
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            if getattr(self, "_drain", None):
                await self._drain

    async def _open(self, url: str) -> None:
        # A change of the fragment alone would load nothing.
        for address in ("about:blank", url):
            self._loaded.clear()
            answer = await self._send("Page.navigate", {"url": address})
            if answer.get("errorText"):
                raise RuntimeError(f"{address}: {answer['errorText']}")
            await self._loaded.wait()

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        await self._socket.send_json(message)
        return dict(await answer)

    async def _read(self) -> None:
        async for packet in self._socket:
            message = json.loads(packet.data)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(RuntimeError(str(message["error"])))
                else:
                    answer.set_result(message["result"])
            else:
                await self._note(message["method"], message["params"])

    async def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {params['message']}")
            # Not awaited: the answer comes through this very reader.
            self._number += 1
            await self._socket.send_json(
                {
                    "id": self._number,
                    "method": "Page.handleJavaScriptDialog",
                    "params": {"accept": False},
                    "sessionId": self._session,
                }
            )
            self._answers[self._number] = asyncio.get_running_loop().create_future()


async def _drained(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def file_url(path: Path, fragment: str = "") -> str:
    return path.resolve().as_uri() + (f"#{fragment}" if fragment else "")
