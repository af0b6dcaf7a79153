from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from emobench.scripted.lookup import Library
from emobench.scripted.server import ScriptedSettings, ServerSettings, start


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> dict[str, Any]:
        assert self.status == 200, self.body
        message: dict[str, Any] = self.json["choices"][0]["message"]
        return message


@dataclass(frozen=True)
class Client:
    """Plain HTTP against a server on the loopback."""

    url: str
    key: str | None = None

    def request(self, path: str, body: bytes | None = None, timeout: float = 60) -> Answer:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))

    def chat(self, messages: Any, timeout: float = 60, **more: Any) -> Answer:
        body = json.dumps({"model": "scripted", "messages": messages, **more}).encode()
        return self.request("/v1/chat/completions", body, timeout)


class Servers:
    """Servers in one event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.runners: list[Any] = []

    def __call__(self, settings: ServerSettings) -> str:
        runner, url = asyncio.run_coroutine_threadsafe(start(settings), self.loop).result(240)
        self.runners.append(runner)
        return url

    def close(self) -> None:
        for runner in self.runners:
            # Hanging requests are part of the tests; nobody waits for them.
            runner._shutdown_timeout = 0.01
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self.loop).result(240)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(240)
        self.loop.close()


Launch = Callable[..., Client]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """launch(faults=..., mistakes=..., variants=...; role=, api_key=, seed=) -> Client."""
    servers = Servers()

    def run(**options: Any) -> Client:
        own = {name: options.pop(name) for name in ("role", "api_key", "seed") if name in options}
        settings = ServerSettings(scripted=ScriptedSettings.model_validate(options), **own)
        return Client(servers(settings), own.get("api_key"))

    yield run
    servers.close()


@pytest.fixture(scope="session")
def library() -> Library:
    return Library()
