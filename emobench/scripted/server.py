"""The HTTP server. Run by `serve`; `build_app` is the application without a socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import Field, ValidationError

from emobench.config.variants import load_builtin
from emobench.core.errors import InvalidInput, Problem, suggest_nearest
from emobench.core.hardware import ModelSize
from emobench.core.models import ScriptedModel
from emobench.core.output import say
from emobench.core.sweep import BUILTIN_VARIANTS, EARLIER_VARIANTS
from emobench.llm import guard
from emobench.scripted import judge, protocol, user
from emobench.scripted.assistant import Assistant
from emobench.scripted.engine_clock import EngineClock
from emobench.scripted.faults import FaultDice, spoil
from emobench.scripted.lookup import Library
from emobench.scripted.messages import Reply
from emobench.scripted.protocol import ChatRequest, RequestRefused
from emobench.scripted.timing import BatchingEngine, build_time_model
from emobench.serving import canary

GRACE_SECONDS = 3.0
"""What requests under way get at SIGTERM; hanging ones are cut off then."""
MAX_BODY = 64 * 2**20

Role = Literal["user", "assistant", "both", "judge"]


def _load_shipped_variants() -> dict[str, str]:
    return {name: load_builtin(name).text for name in (*BUILTIN_VARIANTS, *EARLIER_VARIANTS)}


class ScriptedSettings(ScriptedModel):
    """The settings file: a scripted model's keys and `variants`."""

    variants: dict[str, str] = Field(default_factory=_load_shipped_variants)
    """Suffix of the user's system prompt by variant; conversations of others are refused."""


@dataclass(frozen=True)
class ServerSettings:
    """Everything `serve` needs."""

    role: Role = "both"
    model: str = "scripted"
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    seed: int = 0
    api_key: str | None = field(default=None, repr=False)
    """None: everybody is answered, which is for tests on one machine."""
    incarnation: str = ""
    server: str = ""
    """What it proves to be, with the key."""
    scripted: ScriptedSettings = field(default_factory=ScriptedSettings)


def load_settings(path: Path | None) -> ScriptedSettings:
    """Read the settings. Raises InvalidInput, naming each wrong key."""
    if path is None:
        return ScriptedSettings()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except ValueError as error:
        raise InvalidInput(Problem(f"is no JSON: {error}", str(path))) from None
    try:
        return ScriptedSettings.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(
            Problem(
                detail["msg"],
                str(path),
                key=".".join(map(str, detail["loc"])),
                hint=suggest_nearest(str(detail["loc"][-1]), ScriptedSettings.model_fields)
                if detail["type"] == "extra_forbidden"
                else "",
            )
            for detail in error.errors()
        ) from None


@dataclass
class Metrics:
    model: str
    running: int = 0
    request_s: float = 0.0
    """What answered requests took, added up."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Completions by finish reason."""
    responses: Counter[int] = field(default_factory=Counter)
    """HTTP responses of /v1 by status."""

    def format_text(self, engine: BatchingEngine | None = None) -> str:
        """Return Prometheus' text; `engine` is the one whose time the server takes."""
        # The label's value is quoted as the format prescribes.
        quoted = self.model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        label = f'model_name="{quoted}"'
        running = self.running if engine is None else engine.running
        waiting = 0 if engine is None else engine.waiting
        values: list[tuple[str, str, list[tuple[str, float]]]] = [
            ("vllm:num_requests_running", "gauge", [("", running)]),
            ("vllm:num_requests_waiting", "gauge", [("", waiting)]),
            ("vllm:prompt_tokens_total", "counter", [("", self.prompt_tokens)]),
            ("vllm:generation_tokens_total", "counter", [("", self.generation_tokens)]),
            ("vllm:e2e_request_latency_seconds_sum", "counter", [("", self.request_s)]),
            (
                "vllm:request_success_total",
                "counter",
                [(f',finished_reason="{why}"', n) for why, n in sorted(self.finished.items())],
            ),
            (
                "http_requests_total",
                "counter",
                [(f',status="{status}"', n) for status, n in sorted(self.responses.items())],
            ),
        ]
        if engine is not None:
            counted = engine.counters
            values += [
                ("vllm:kv_cache_usage_perc", "gauge", [("", engine.cache_use)]),
                ("vllm:num_preemptions_total", "counter", [("", counted.preemptions)]),
                ("vllm:prefix_cache_queries_total", "counter", [("", counted.prefix_queries)]),
                ("vllm:prefix_cache_hits_total", "counter", [("", counted.prefix_hits)]),
            ]
        lines: list[str] = []
        for name, kind, samples in values:
            lines.append(f"# TYPE {name} {kind}")
            lines += [f"{name}{{{label}{more}}} {value}" for more, value in samples]
        return "\n".join(lines) + "\n"


class ScriptedServer:
    """The routes and what they share. One event loop, no locks."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.scripted = settings.scripted
        self.metrics = Metrics(settings.model)
        self.dice = FaultDice(self.scripted.faults, settings.seed)
        known = frozenset({"control", *self.scripted.variants})
        self.assistant = Assistant(Library(), self.scripted.mistakes, settings.seed, known)
        self.clock: EngineClock | None = None
        """None: requests take no time but `latency_ms`."""
        if (hardware := self.scripted.hardware) is not None:
            size = ModelSize(self.scripted.model_size, self.scripted.model_size)
            cards = max(1, self.scripted.accelerators)
            self.clock = EngineClock(
                build_time_model(hardware, size, cards), self.scripted.time_scale
            )

    def reply(self, request: ChatRequest) -> Reply:
        """Reply without side effects: find who is asked, and what that one says. Raises
        UnknownVariant."""
        role = self.settings.role
        if role == "judge" or judge.is_judge_request(request.messages):
            rate = self.scripted.mistakes
            chance = rate if isinstance(rate, float | int) else 0.0
            return judge.reply(request.messages, chance, self.settings.seed)
        if role == "user" or (role == "both" and user.is_user_request(request.messages)):
            return user.reply(request.messages, self.scripted.variants)
        return self.assistant.reply(
            request.messages, request.tools, request.tool_choice, request.seed
        )

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def expose_metrics(self, _: web.Request) -> web.Response:
        engine = None
        if self.clock is not None:
            self.clock.look()
            engine = self.clock.engine
        return web.Response(text=self.metrics.format_text(engine), content_type="text/plain")

    async def prove(self, http: web.Request) -> web.Response:
        """Show that this server holds the key, without the key."""
        settings, challenge = self.settings, http.query.get("challenge", "")
        if settings.api_key is None:
            raise RequestRefused("This server has no key to prove.", 404)
        if not guard.is_challenge(challenge):
            raise RequestRefused("challenge: 16 to 64 bytes in lower-case hexadecimal.", 400)
        assert http.transport is not None
        host, port, *_ = http.transport.get_extra_info("sockname")
        answer = guard.compute_proof(
            settings.api_key, challenge, settings.incarnation, settings.server, (host, port)
        )
        return web.json_response({"proof": answer})

    async def models(self, _: web.Request) -> web.Response:
        card = {
            "id": self.settings.model,
            "object": "model",
            "created": 0,
            "owned_by": "emobench",
            "root": self.settings.model,
            "max_model_len": 1_000_000,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        begun = time.monotonic()
        self.metrics.running += 1
        try:
            return await self._chat(http)
        finally:
            self.metrics.running -= 1
            self.metrics.request_s += time.monotonic() - begun

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        body = await http.read()
        request = protocol.parse_request(body, self.settings.model)
        # Faults are for conversations: a canary must not take its throws of the dice from them.
        struck = frozenset() if request.user == canary.USER else self.dice.roll()
        if self.scripted.latency_ms:
            await asyncio.sleep(self.scripted.latency_ms / 1000)
        if "hang" in struck:
            await asyncio.sleep(self.scripted.faults.hang_seconds)
        if "http_500" in struck:
            raise RequestRefused("Injected fault: http_500.", 500)
        try:
            reply = spoil(self.reply(request), struck)
        except user.UnknownVariant as error:
            # Not the request's fault: another server would play it.
            raise RequestRefused(str(error), 503) from None
        reply_tokens = protocol.estimate_tokens(reply)
        if self.clock is not None:
            await self.clock.wait(request, reply, reply_tokens)
        name = "chatcmpl-" + blake2b(body, digest_size=16).hexdigest()
        if "disconnect" in struck:
            answer = protocol.build_completion_body(request, reply, self.settings.model, name)
            return await _cut_off(http, answer)
        self.metrics.finished[reply.finish_reason] += 1
        self.metrics.prompt_tokens += request.prompt_tokens
        self.metrics.generation_tokens += reply_tokens
        if request.stream:
            return await _stream(http, request, reply, self.settings.model, name)
        answer = protocol.build_completion_body(request, reply, self.settings.model, name)
        return web.Response(body=answer, content_type="application/json")

    def is_allowed(self, http: web.Request) -> bool:
        key = self.settings.api_key
        if key is None or guard.is_open(http.method, http.path):
            return True
        given = http.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return guard.has_key(given, key) or guard.is_proof(http.method, http.path)

    def build_application(self) -> web.Application:
        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await self._guard(request, handler)
            if request.path.startswith("/v1"):
                self.metrics.responses[response.status] += 1
            return response

        app = web.Application(middlewares=[answer], client_max_size=MAX_BODY)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.expose_metrics)
        app.router.add_get(guard.PROOF_PATH, self.prove)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def _guard(self, http: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request: key first, then the route; every failure in OpenAI's format."""
        if not self.is_allowed(http):
            return _build_error("Unauthorized", 401)
        try:
            return await handler(http)
        except RequestRefused as error:
            return _build_error(str(error), error.status, error.param)
        except web.HTTPException as error:
            return _build_error(
                error.reason or "refused", 404 if error.status == 405 else error.status
            )
        except OSError:
            raise  # the client went away: there is nobody to answer
        except Exception:
            say(traceback.format_exc(), file=sys.stderr)
            return _build_error("The server has a defect; its log says more.", 500)


def _build_error(message: str, status: int, param: str | None = None) -> web.Response:
    body = protocol.build_error_body(message, status, param)
    return web.Response(body=body, status=status, content_type="application/json")


async def _stream(
    http: web.Request, request: ChatRequest, reply: Reply, model: str, name: str
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(http)
    for event in protocol.stream_events(request, reply, model, name):
        await response.write(event)
    await response.write_eof()
    return response


async def _cut_off(http: web.Request, answer: bytes) -> web.StreamResponse:
    """Send half of the answer, then close the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(answer)
    await response.prepare(http)
    await response.write(answer[: len(answer) // 2])
    if http.transport is not None:
        http.transport.close()
    return response


def build_app(settings: ServerSettings) -> web.Application:
    return ScriptedServer(settings).build_application()


async def start(settings: ServerSettings) -> tuple[web.AppRunner, str]:
    """Start a server; return it and its URL. Raises OSError if the address cannot be bound."""
    runner = web.AppRunner(
        build_app(settings),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=GRACE_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
    except BaseException:
        await runner.cleanup()
        raise
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return runner, f"http://{host}:{runner.addresses[0][1]}"


async def _serve(settings: ServerSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    runner, url = await start(settings)
    say(f"listening on {url}")
    try:
        await stopped.wait()
    finally:
        await runner.cleanup()


def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises OSError if the address cannot be bound."""
    asyncio.run(_serve(settings))
