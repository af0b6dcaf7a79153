"""`emobench probe`. Exit codes: 0 usable (also with warnings), 1 not usable, 2 wrong arguments,
3 not reachable."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from emobench.core.errors import InvalidInput
from emobench.llm.transport import Role

USABLE, NOT_USABLE, UNREACHABLE = 0, 1, 3
DEFAULT_KEY = "OPENAI_API_KEY"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emobench probe",
        description="Ask an OpenAI-compatible endpoint whether a sweep can use it.",
        epilog="exit codes: 0 usable (also with warnings), 1 not usable, 2 wrong arguments, "
        "3 not reachable",
    )
    parser.add_argument("--base-url", required=True, metavar="URL", help="e.g. http://host:8005/v1")
    parser.add_argument("--model", required=True, metavar="M", help="the model's id there")
    parser.add_argument(
        "--role",
        choices=("assistant", "user", "both"),
        default="both",
        help="what it is to play (default: both)",
    )
    parser.add_argument(
        "--api-key-env",
        metavar="NAME",
        help=f"name of the variable that holds the key (default: {DEFAULT_KEY}, if it is set)",
    )
    parser.add_argument(
        "--env",
        choices=("retail", "airline"),
        default="retail",
        help="whose policy and tools to send (default: retail)",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=120.0, metavar="S", help="of each call (default: 120)"
    )
    parser.add_argument("--json", action="store_true", help="everything, for machines")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Probe and print. Raises InvalidInput for arguments that make no endpoint."""
    arguments = _parser().parse_args(argv)
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.cli.probe_text import show
    from emobench.llm.transport import ModelEndpoint
    from emobench.probe.session import can_probe, probe

    url = arguments.base_url.rstrip("/")
    endpoint = ModelEndpoint(arguments.model, _checked(url), _key(arguments.api_key_env))
    if not can_probe(endpoint):
        raise InvalidInput(
            f"this machine reaches {url} through a proxy, which the probe does not speak; add its "
            "host to the variable no_proxy if it is reached without"
        )
    benchmark = load_benchmark()
    roles: tuple[Role, ...] = ("assistant", "user")
    reports = [
        probe(endpoint, role, env=arguments.env, benchmark=benchmark, timeout_s=arguments.timeout)
        for role in roles
        if arguments.role in (role, "both")
    ]
    if arguments.json:
        print(json.dumps([report.as_dict() for report in reports], indent=2, ensure_ascii=False))
    else:
        print(f"{arguments.model} at {url}, with the policy and tools of {arguments.env}\n")
        print("\n\n".join(map(show, reports)))
    states = {report.state for report in reports}
    if "unreachable" in states:
        return UNREACHABLE
    return NOT_USABLE if "not_usable" in states else USABLE


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or any(c.isspace() for c in url):
        raise InvalidInput(f"--base-url: {url!r} is no address; e.g. http://host:8005/v1")
    return url


def _key(variable: str | None) -> str:
    key = os.environ.get(variable or DEFAULT_KEY, "")
    if variable is not None and not key:
        raise InvalidInput(f"the variable {variable} is not set; export the endpoint's key in it")
    if not key.isascii() or any(c.isspace() for c in key):
        raise InvalidInput(f"the variable {variable or DEFAULT_KEY} holds no usable key")
    return key or "none"
