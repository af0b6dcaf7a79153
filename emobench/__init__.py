"""emobench: does a customer-service agent still do its job when the user is upset?

The public names below come from their modules when they are asked for: nothing heavy is imported
here, as the command line has to answer at once. `from emobench.run import run` runs a tau_bench
RunConfig.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "EmobenchError": "core.errors",
    "InvalidInput": "core.errors",
    "Plan": "core.plan",
    "RunDir": "core.run_dir",
    "load_episodes": "tables.table",
    "load_plan": "core.plan",
    "load_turns": "tables.table",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emobench' has no attribute {name!r}")
    return getattr(import_module(f"emobench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
