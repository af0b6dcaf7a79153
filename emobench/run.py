"""python -m emobench.run: one cell of a sweep, or one run by hand; and `run(config)` in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emobench.core.output import say


def __getattr__(name: str) -> Any:
    """Return `RunConfig`: tau_bench's, or its fork's where only that is installed."""
    if name == "RunConfig":
        from emobench.benchmarks.adapter import load_benchmark

        return load_benchmark().import_module("types").RunConfig
    raise AttributeError(f"module 'emobench.run' has no attribute {name!r}")


def run(
    config: Any,
    *,
    variant: str | Mapping[str, str] = "control",
    model_base_url: str | None = None,
    user_base_url: str | None = None,
    fidelity: str | dict[str, bool] | None = None,
    max_steps: int = 30,
    progress: Callable[[str], None] = say,
) -> list[Any]:
    """Run as `tau_bench.run.run` does, guarded: it takes its RunConfig and returns its results.

    `variant` is a built-in one's name, or one of your own: its name and the text that the user's
    system prompt ends with, as in a sweep file: `{"sarcasm": "How you come across: ..."}`.

    Results are kept in `config.log_dir`, one folder for each content, and a run that was broken
    off goes on there. `fidelity` is `stock` or repairs by name (docs/fidelity.md). Endpoints come
    from the arguments, or from where litellm looks (OPENAI_BASE_URL, OPENAI_API_BASE,
    HOSTED_VLLM_API_BASE); the user's also from USER_MODEL_API_BASE.

    Raises InvalidInput for values that make no run; EpisodesMissing, with the other results,
    where the infrastructure left tasks without one; ServersGone never: that is EpisodesMissing.
    """
    from emobench.runner.by_hand import run_config

    return run_config(
        config,
        variant=variant,
        model_base_url=model_base_url,
        user_base_url=user_base_url,
        fidelity={} if fidelity is None else fidelity,
        max_steps=max_steps,
        progress=progress,
    )


if __name__ == "__main__":
    import sys

    from emobench.cli.main import main

    sys.exit(main(command="run", prog="python -m emobench.run"))
