"""`emobench serve-scripted`, and `python -m emobench.scripted`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.output import warn

KEY_VARIABLES = ("EMOBENCH_API_KEY", "VLLM_API_KEY")
"""A key is never taken from the command line: other users of a node can read that."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Play tau-bench's user and assistant from the ground truth, without a model."
    )
    parser.epilog = (
        f"Requests must carry the key in {' or '.join(KEY_VARIABLES)}, "
        "all but those for /health and /metrics."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=_parse_port, default=0, help="0 (default): a free one")
    parser.add_argument(
        "--role",
        choices=("user", "assistant", "both", "judge"),
        default="both",
        help="what it plays (default: both)",
    )
    parser.add_argument("--model", help="model id to serve; default: that of the settings")
    parser.add_argument("--settings", type=Path, help="JSON: a scripted model's keys, variants")
    parser.add_argument("--seed", type=int, default=0, help="moves the mistakes and the faults")
    parser.add_argument(
        "--without-key",
        action="store_true",
        help="answer everybody on this machine; only with a --host that no other machine reaches",
    )


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def _read_key(arguments: argparse.Namespace) -> str | None:
    """Return the key to ask for; None: none is. Raises InvalidInput where everybody would be
    answered."""
    if not arguments.without_key:
        keys = (os.environ.get(name, "").strip() for name in KEY_VARIABLES)
        if key := next(filter(None, keys), ""):
            return key
        hint = f"set {KEY_VARIABLES[0]}, or give --without-key for tests on this machine alone"
        raise InvalidInput(Problem("without a key this server would answer everybody", hint=hint))
    try:
        own = arguments.host == "localhost" or ip_address(arguments.host).is_loopback
    except ValueError:
        own = False
    if not own:
        hint = f"set {KEY_VARIABLES[0]}, or leave --host out"
        message = f"--without-key: other machines reach {arguments.host}"
        raise InvalidInput(Problem(message, hint=hint))
    return None


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
        api_key = _read_key(arguments)
        serve(
            ServerSettings(
                role=arguments.role,
                model=arguments.model or scripted.model,
                host=arguments.host,
                port=arguments.port,
                seed=arguments.seed,
                api_key=api_key,
                incarnation=os.environ.get("EMOBENCH_INCARNATION", ""),
                server=os.environ.get("EMOBENCH_SERVER", ""),
                scripted=scripted,
            )
        )
    except EmobenchError as error:
        warn(error)
        return error.exit_code
    except OSError as error:
        where = f"{arguments.host}:{arguments.port}"
        warn(f"cannot listen on {where}: {error.strerror or error}")
        return 1
    return 0
