"""`emobench probe`. Exit codes: 0 usable (also with warnings), 1 not usable, 2 wrong arguments,
3 not reachable."""

from __future__ import annotations

import argparse
from textwrap import wrap
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, make_number_type
from emobench.core.output import say, say_json, warn

if TYPE_CHECKING:
    from emobench.probe.report import ProbeReport

USABLE, NOT_USABLE, UNREACHABLE = 0, 1, 3
_NAME, _INDENT, _WIDTH = 22, 33, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from emobench.core.sweep import ENVS

    parser.description = "Ask an endpoint whether a sweep can use it."
    parser.epilog = (
        "exit codes: 0 usable (also with warnings), 1 not usable, 2 wrong arguments, "
        "3 not reachable"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--base-url", metavar="URL", help="e.g. http://host:8005/v1")
    where.add_argument(
        "--provider", metavar="NAME", help="litellm's name of a provider, at its own address"
    )
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
        help="name of the variable that holds the key (default: OPENAI_API_KEY if it is set; of a "
        "provider, where litellm looks for it)",
    )
    parser.add_argument(
        "--env",
        choices=ENVS,
        default="retail",
        help="whose policy and tools to send (default: retail)",
    )
    parser.add_argument(
        "--timeout",
        type=make_number_type(float, lambda s: 0 < s <= 86400, "a number of seconds above 0"),
        default=120.0,
        metavar="S",
        help="of each call (default: 120)",
    )
    add_json(parser, "everything, for machines")


def run(arguments: argparse.Namespace) -> int:
    from emobench.benchmarks.adapter import load_benchmark
    from emobench.llm.address import make_endpoint, make_provider_endpoint
    from emobench.llm.endpoint_limits import EndpointLimits
    from emobench.llm.transport import Role
    from emobench.probe.session import probe

    if arguments.provider is None:
        endpoint = make_endpoint(arguments.model, arguments.base_url, arguments.api_key_env)
    else:
        endpoint = make_provider_endpoint(
            arguments.model, arguments.provider, arguments.api_key_env
        )
    benchmark = load_benchmark()
    roles: tuple[Role, ...] = ("assistant", "user")
    limits = EndpointLimits(progress=warn)
    reports = [
        probe(
            endpoint,
            role,
            env=arguments.env,
            benchmark=benchmark,
            timeout_s=arguments.timeout,
            limits=limits,
        )
        for role in roles
        if arguments.role in (role, "both")
    ]
    if arguments.json:
        say_json([report.to_dict() for report in reports], indent=2)
    else:
        say(f"{endpoint!r}, with the policy and tools of {arguments.env}\n")
        say("\n\n".join(map(show, reports)))
    states = {report.state for report in reports}
    if "unreachable" in states:
        return UNREACHABLE
    return NOT_USABLE if "not_usable" in states else USABLE


def show(report: ProbeReport) -> str:
    """Return the verdict in words, then one line a check, with what to do about each problem."""
    lines = wrap(f"{report.role}: {report.verdict}", _WIDTH, subsequent_indent="  ")
    for check in report.checks:
        head = f"  {check.result:<8} {check.name:<{_NAME - 1}} "
        lines += wrap(head + check.seen, _WIDTH, subsequent_indent=" " * _INDENT)
        if check.result in ("warning", "fatal"):
            for text in filter(None, (check.meaning, check.advice)):
                indent = " " * (_INDENT + 2)
                lines += wrap(
                    f"- {text}", _WIDTH, initial_indent=indent[2:], subsequent_indent=indent
                )
    return "\n".join(lines)
