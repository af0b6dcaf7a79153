"""One way to tau-bench: `tau_bench` where it is installed, else its fork `tau_trait` from PyPI.

The benchmark's code is neither changed nor copied. What the fork does differently is bridged
here: its import wants a key and reads a stray .env file, it prints every prompt, it appends
tasks of its own, and some of its users are broken (see `_TraitUser`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

from emobench.benchmarks.state import make_shared_env_class, preload
from emobench.benchmarks.task_sets import PACKAGES, TASK_COUNTS
from emobench.core.errors import InvalidInput

_AGENTS = {
    "tool-calling": ("tool_calling_agent", "ToolCallingAgent", {}),
    "act": ("chat_react_agent", "ChatReActAgent", {"use_reasoning": False}),
    "react": ("chat_react_agent", "ChatReActAgent", {"use_reasoning": True}),
    "few-shot": ("few_shot_agent", "FewShotToolCallingAgent", {}),
}
AGENT_MODULES = tuple(sorted({module for module, _, _ in _AGENTS.values()}))

_USERS = {
    "llm": "LLMUserSimulationEnv",
    "react": "ReactUserSimulationEnv",
    "verify": "VerifyUserSimulationEnv",
    "reflection": "ReflectionUserSimulationEnv",
}


@dataclass(frozen=True)
class Benchmark:
    """An installed tau-bench, by whatever name. Imports happen on first use (seconds: litellm)."""

    package: str
    version: str
    """Version, with the commit where it was installed from git."""

    @property
    def label(self) -> str:
        return f"{self.package} {self.version}"

    def import_module(self, name: str) -> Any:
        """Return a module of the benchmark, e.g. 'envs.user'."""
        return _import(f"{self.package}.{name}")

    def load_tasks(self, env: str) -> list[Any]:
        """Return the original test tasks, in their order: 115 for retail, 50 for airline."""
        module = self.import_module(f"envs.{env}.tasks_test")
        tasks: list[Any] = getattr(module, "TASKS_TEST", None) or module.TASKS
        return tasks[: TASK_COUNTS[env]]

    def find_last_task_drawn(self, env: str) -> int:
        """Return the largest task that stock's `run` may draw for an environment that it throws
        away."""
        module = self.import_module(f"envs.{env}.tasks_test")
        count = len(getattr(module, "TASKS_TEST", None) or module.TASKS)
        return count - 1 if self.package == "tau_trait" else count  # the original's may be one off

    def read_wiki(self, env: str) -> str:
        """Return the policy that the agent works by."""
        return str(self.import_module(f"envs.{env}.wiki").WIKI)

    def read_tools_info(self, env: str) -> list[dict[str, Any]]:
        """Return the tools in OpenAI's format."""
        return [tool.get_info() for tool in self.import_module(f"envs.{env}.tools").ALL_TOOLS]

    def make_env(
        self, env: str, task: int, user_strategy: str, user_model: str, *, shared: bool = False
    ) -> Any:
        """Return a fresh stock environment for one task; its user comes from `envs.base.load_user`.

        With `shared` it works over data that the process reads once (see `state`), with stock's
        observations, rewards and hashes. A tool that this cannot follow, and stock has none, ends
        in `overlay.SharedStateChanged`: the episode has to be repeated without `shared`.
        """
        arguments = {
            "user_strategy": user_strategy,
            "user_model": user_model,
            "user_provider": "openai",
            "task_split": "test",
            "task_index": task,
        }
        if not shared:
            return self.import_module("envs").get_env(env, **arguments)
        stock_class = getattr(self.import_module(f"envs.{env}"), f"Mock{env.capitalize()}DomainEnv")
        return make_shared_env_class(stock_class, self.import_module("envs.base"))(**arguments)

    def preload(self, env: str) -> None:
        """Read the data that environments with `shared` work over (0.15 to 0.4 s, once a process).

        Best before the first episode: from then on the garbage collector leaves alone what exists.
        """
        preload(self.import_module(f"envs.{env}.env").load_data, self.import_module("envs.base"))

    def make_agent(
        self, strategy: str, env: str, model: str, temperature: float, displays: list[str]
    ) -> Any:
        """Return a stock agent. `displays` are the few-shot examples (only for few-shot)."""
        module, name, extra = _AGENTS[strategy]
        arguments: dict[str, Any] = dict(extra)
        if strategy == "few-shot":
            arguments["few_shot_displays"] = displays
        return getattr(self.import_module(f"agents.{module}"), name)(
            tools_info=self.read_tools_info(env),
            wiki=self.read_wiki(env),
            model=model,
            provider="openai",
            temperature=temperature,
            **arguments,
        )

    def find_user_class(self, strategy: str) -> type[Any]:
        """Return the simulated user of a strategy, with the fork's faults bridged."""
        module = self.import_module("envs.user")
        base: type[Any] = getattr(module, _USERS[strategy])
        if self.package == "tau_trait":
            return _bridge_trait_user(base, module.LLMUserSimulationEnv)  # type: ignore[arg-type]
        return base


@cache
def load_benchmark(package: str | None = None) -> Benchmark:
    """Return the installed benchmark, without importing it. Raises InvalidInput where there is
    none."""
    wanted = (package,) if package else PACKAGES
    for name in wanted:
        if importlib.util.find_spec(name) is not None:
            return Benchmark(name, _find_version(name))
    raise InvalidInput(
        f"no benchmark is installed: looked for {' and '.join(wanted)}\n"
        "  install one: pip install --no-deps tau-trait==0.1.1   (from PyPI)\n"
        "  or:          pip install 'emobench[tau-bench]'        (the original, from its git)"
    )


def _find_version(package: str) -> str:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return "unknown"
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id", "")
    return f"{distribution.version}+{commit[:10]}" if commit else distribution.version


@cache
def _import(name: str) -> Any:
    # Compute nodes often have no way out, and litellm would wait for its price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with _environment_kept(), _libraries_later():
        # The fork builds a client at import, which wants a key, and reads ../../.env.
        os.environ.setdefault("OPENAI_API_KEY", "unused")
        module = importlib.import_module(name)
    user_module = sys.modules.get("tau_trait.envs.user")
    if user_module is not None:
        # The fork prints each prompt and message; a module-level name shadows the built-in.
        user_module.print = _do_nothing  # type: ignore[attr-defined]
    return module


class _Later(ModuleType):
    """Stands in for a library while the benchmark is imported, since the library's own import takes
    a second or more of the processor, and a run against OpenAI-compatible URLs never uses it. Any
    use brings in the real one."""


class _LitellmLater(_Later):
    @staticmethod
    def completion(*args: Any, **kwargs: Any) -> Any:
        return _import_real("litellm").completion(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_import_real("litellm"), name)


class _OpenAILater(_Later):
    class OpenAI:
        """The fork makes two clients as it is imported, and uses none."""

        def __init__(self, **options: Any) -> None:
            self._options = options

        def __getattr__(self, name: str) -> Any:
            return getattr(_import_real("openai").OpenAI(**self._options), name)


def _import_real(library: str) -> Any:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Later)]:
        del sys.modules[name]
    module = importlib.import_module(library)
    if library == "litellm":  # at each error it prints advice, in colour, into JSON too
        setattr(module, "suppress_debug_info", True)  # noqa: B010
    return module


@contextmanager
def _libraries_later() -> Iterator[None]:
    later = {"litellm": _LitellmLater("litellm"), "openai": _OpenAILater("openai")}
    for name, stand_in in later.items():
        sys.modules.setdefault(name, stand_in)
    try:
        yield
    finally:
        for name, stand_in in later.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _do_nothing(*_: object, **__: object) -> None:
    return None


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@cache
def _bridge_trait_user(base: type[Any], llm_user: type[Any]) -> type[Any]:
    """Return `base` of the fork with the original's behaviour under its `super()` calls.

    The fork's llm user stores message objects instead of dicts, stores them in a list that its
    reflection user throws away, keeps no cost, and ends its prompt with an extra line break.
    """

    class _TraitUser(llm_user):  # type: ignore[misc]
        def generate_next_message(self, messages: list[dict[str, Any]]) -> str:
            response = _import("tau_trait.envs.user").completion(
                model=self.model, custom_llm_provider=self.provider, messages=messages
            )
            message = response.choices[0].message
            self.messages.append(message.model_dump())
            self.total_cost = response._hidden_params["response_cost"]
            return message.content  # type: ignore[no-any-return]

        def build_system_prompt(self, instruction: str | None) -> str:
            return str(super().build_system_prompt(instruction)).rstrip("\n")

    if base is llm_user:
        return _TraitUser
    # Bases in this order put _TraitUser between the strategy and the fork's llm user.
    return type(base.__name__, (base, _TraitUser), {})
