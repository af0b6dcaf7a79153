"""The shim: tau-bench's own user, of whatever strategy, with a variant's suffix in its prompt.

Four things were seen to fail in silence, and shape this module (docs/architecture.md):

- `envs/base.py` binds `load_user` at import, so that name is replaced and no other;
- a context variable set by the main thread is lost in a pool's threads, so the variant is bound
  to the user object: it travels inside the `user_strategy` argument, through the benchmark's own
  constructors, and one process can hold users of different variants side by side;
- a subclass of the llm user would turn react, verify and reflection users into llm users, so the
  suffix comes from a mixin over the strategy's own class;
- stock users converse in their constructor, before there is an instruction; that call is left
  out, as its answer is thrown away (unless stock's behaviour is asked for).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import signature
from threading import Lock
from typing import TYPE_CHECKING, Any

from emobench.benchmarks.adapter import AGENT_MODULES, Benchmark
from emobench.benchmarks.transcript import REACT_USER, STOP
from emobench.core.errors import InvalidInput
from emobench.core.sweep import Fidelity, Variant
from emobench.llm.transport import CallFailed
from emobench.runner.completion import get_current_log

SEPARATOR = "\n\n"
DEFAULT_FIDELITY = Fidelity()


class UserRequest(str):
    """A user strategy's name that carries the variant to where the user is built."""

    variant: Variant
    fidelity: Fidelity

    def __new__(
        cls, strategy: str, variant: Variant, fidelity: Fidelity = DEFAULT_FIDELITY
    ) -> UserRequest:
        if strategy == "human":
            raise InvalidInput(
                "user strategy 'human' cannot carry a variant: a person at the keyboard has no "
                "prompt; use llm, react, verify or reflection"
            )
        request = super().__new__(cls, strategy)
        request.variant = variant
        request.fidelity = fidelity
        return request


if TYPE_CHECKING:

    class _StockUser:
        """What the mixin calls of the strategy's own class."""

        def build_system_prompt(self, instruction: str | None) -> str: ...
        def reset(self, instruction: str | None = None) -> str | None: ...
        def step(self, content: str) -> str | None: ...
        def parse_response(self, response: str) -> str: ...
else:
    _StockUser = object


class VariantMixin(_StockUser):
    """Over a strategy's own class: the same user, its system prompt followed by the suffix."""

    variant: Variant
    messages: list[dict[str, Any]]

    def __init__(self, request: UserRequest, model: str, provider: str, max_attempts: int) -> None:
        # What the stock constructors set; the fork's want arguments that theirs do not pass on.
        self.variant = request.variant
        self.fidelity = request.fidelity
        self.messages = []
        self.model = model
        self.provider = provider
        self.max_attempts = max_attempts
        self.total_cost = 0.0
        self.trait_dict = None
        if not self.fidelity.skip_opening_call:
            # Stock's react user calls its base's constructor, which resets once already.
            for _ in range(2 if request == "react" else 1):
                self.reset()

    def build_system_prompt(self, instruction: str | None) -> str:
        prompt = super().build_system_prompt(instruction)
        return prompt + SEPARATOR + self.variant.text if self.variant.text else prompt

    def reset(self, instruction: str | None = None) -> str:
        return self._extract_heard(super().reset(instruction))

    def step(self, content: str) -> str:
        return self._extract_heard(super().step(content))

    def parse_response(self, response: str) -> str:
        """Return a react user's reply; stock's looks for the thought first, and passes it on."""
        _, marker, reply = response.rpartition(REACT_USER)
        if self.fidelity.react_user_reply and marker:
            return STOP if STOP in reply else reply.strip()
        return super().parse_response(response)

    def _extract_heard(self, text: str | None) -> str:
        """Return what the agent hears. Raises CallFailed for no text at all, at which Env.step
        fails."""
        if text is None:
            raise CallFailed("user", "no_reply", "the user's model sent no text")
        # Env.step ends the conversation wherever the marker stands, in a quoted rule as well.
        quoted = self.fidelity.standalone_stop and not text.rstrip(" .'\"`*").endswith(STOP)
        return text.replace(STOP, "STOP") if quoted and STOP in text else text


@cache
def _make_variant_class(base: type[Any]) -> Any:
    return type("Variant" + base.__name__, (VariantMixin, base), {})


def make_user(benchmark: Benchmark, request: UserRequest, model: str, provider: str) -> Any:
    """Return the benchmark's user of the requested strategy, with the variant bound to it."""
    base: Any = benchmark.find_user_class(str(request))
    attempts = signature(base.__init__).parameters.get("max_attempts")
    variant_class = _make_variant_class(base)
    return variant_class(request, model, provider, attempts.default if attempts else 1)


Completion = Callable[..., Any]
"""litellm.completion or what stands in for it: (role, stock, **arguments) -> response."""

_installed = 0
_lock = Lock()
_undo: list[tuple[Any, str, Any]] = []


@dataclass
class Seam:
    """One block's hold on the replaced names."""

    keep: bool = False
    """Hold them for good: threads that were abandoned must never reach the stock functions, which
    would send their conversations to a provider's own address."""


@contextmanager
def seams(benchmark: Benchmark, complete: Completion) -> Iterator[Seam]:
    """Put our user loader and completion into the benchmark, until the last such block ends.

    `complete(role, stock, **arguments)` gets every LLM call of the benchmark, with role 'user' or
    'assistant' and the stock function; it must pass on calls that are not its own.
    """
    global _installed
    with _lock:
        _installed += 1
        if _installed == 1:
            _install(benchmark, complete)
    seam = Seam()
    try:
        yield seam
    finally:
        with _lock:
            _installed -= not seam.keep
            if _installed == 0:
                while _undo:
                    module, name, stock = _undo.pop()
                    setattr(module, name, stock)


def _install(benchmark: Benchmark, complete: Completion) -> None:
    base = benchmark.import_module("envs.base")
    stock_load_user = base.load_user

    def load_user(
        user_strategy: Any, model: str | None = None, provider: str | None = None, **rest: Any
    ) -> Any:
        if isinstance(user_strategy, UserRequest):
            return make_user(benchmark, user_strategy, str(model), str(provider))
        return stock_load_user(user_strategy=user_strategy, model=model, provider=provider, **rest)

    _replace(base, "load_user", load_user)
    for module_name, role in [
        ("envs.user", "user"),
        *((f"agents.{name}", "assistant") for name in AGENT_MODULES),
    ]:
        module = benchmark.import_module(module_name)
        _replace(module, "completion", _bind(complete, role, module.completion))
    few_shot = benchmark.import_module("agents.few_shot_agent")
    _replace(few_shot, "random", EpisodeRandom())


class EpisodeRandom:
    """Stands in for `random` in the few-shot agent: examples are drawn by the episode's seed.

    The module's own generator is shared among threads, so that no draw could be repeated.
    """

    @staticmethod
    def sample(population: Sequence[Any], k: int) -> list[Any]:
        log = get_current_log()
        source = random if log is None else log.stock_draws or log.random
        return source.sample(population, k)


def _bind(complete: Completion, role: str, stock: Completion) -> Completion:
    def completion(*args: Any, **kwargs: Any) -> Any:
        return complete(role, stock, *args, **kwargs)

    return completion


def _replace(module: Any, name: str, value: Any) -> None:
    _undo.append((module, name, getattr(module, name)))
    setattr(module, name, value)
