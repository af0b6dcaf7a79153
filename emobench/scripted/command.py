"""`emobench serve-scripted`, and `python -m emobench.scripted`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from emobench.core.errors import EmobenchError

KEY_VARIABLES = ("EMOBENCH_API_KEY", "VLLM_API_KEY")
"""A key is never taken from the command line: other users of a node can read that."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Play tau-bench's user and assistant from the ground truth, without a model."
    )
    parser.epilog = (
        f"If {' or '.join(KEY_VARIABLES)} is set, requests must carry that key, "
        "all but those for /health and /metrics."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=0, help="0 (default): a free one")
    parser.add_argument("--role", choices=("user", "assistant", "both", "judge"), default="both")
    parser.add_argument("--model", help="model id to serve; default: that of the settings")
    parser.add_argument("--settings", type=Path, help="JSON: a scripted model's keys, variants")
    parser.add_argument("--seed", type=int, default=0, help="moves the mistakes and the faults")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as the command line says; see `run`."""
    parser = argparse.ArgumentParser(prog="python -m emobench.scripted")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Serve; return 0 after a stop by signal, 1 if the address is taken, 2 for wrong settings."""
    from emobench.scripted.server import ServerSettings, load_settings, serve

    try:
        scripted = load_settings(arguments.settings)
        serve(
            ServerSettings(
                role=arguments.role,
                model=arguments.model or scripted.model,
                host=arguments.host,
                port=arguments.port,
                seed=arguments.seed,
                api_key=next(
                    (os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None
                ),
                incarnation=os.environ.get("EMOBENCH_INCARNATION", ""),
                server=os.environ.get("EMOBENCH_SERVER", ""),
                scripted=scripted,
            )
        )
    except EmobenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        where = f"{arguments.host}:{arguments.port}"
        print(f"cannot listen on {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
