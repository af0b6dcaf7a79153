"""`emobench judge` and `emobench check`.

Exit codes of check: 0 no gate failed (passed or not checked), 1 a gate failed, 2 wrong arguments.
Of judge: 0 every turn has an answer, 1 some have none, 2 wrong arguments, 3 no such server now.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from pydantic import ValidationError

from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.gates import JudgeSettings
from emobench.core.models import OpenAIModel
from emobench.core.plan import (
    USER_SERVER,
    Plan,
    assistant_server,
    find_run_dir,
    load_plan,
    replicas_of,
)
from emobench.core.run_dir import RunDir
from emobench.llm.transport import ModelEndpoint

PASSED, FAILED = 0, 1
_SPENT = "emobench judge RUN_DIR --base-url URL --model M"


def _judge_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emobench judge",
        description="Ask a model which emotion each user turn of a run shows, blind to the "
        "variant. Answers are kept in the run directory; stopped or repeated, it goes on.",
        epilog="exit codes: 0 every turn has an answer, 1 some have none (repeat the command), "
        "2 wrong arguments, 3 the server is not there",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--base-url", metavar="URL", help="e.g. http://host:8005/v1")
    parser.add_argument("--model", metavar="M", help="the model's id there")
    parser.add_argument(
        "--key-env", metavar="NAME", help="name of the variable that holds the endpoint's key"
    )
    parser.add_argument(
        "--server", metavar="NAME", help="a running server of the sweep: user, or an assistant"
    )
    parser.add_argument("--concurrency", type=_count, metavar="N", help="requests at a time")
    parser.add_argument(
        "--sample", type=_count, metavar="N", help="conversations of each variant (default: all)"
    )
    parser.add_argument(
        "--max-tokens", type=_count, metavar="N", help="most tokens of an answer (default: 1024)"
    )
    parser.add_argument("--json", action="store_true", help="print the checks for machines")
    return parser


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emobench check",
        description="Evaluate the gates of a run: coverage, power, manipulation, fidelity.",
        epilog="exit codes: 0 no gate failed, 1 a gate failed, 2 wrong arguments",
    )
    parser.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="default: the newest")
    parser.add_argument(
        "--sample",
        type=_count,
        metavar="N",
        help="read so many conversations of each variant, the same tasks in all (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="what checks.json holds")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def check_main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, write checks.json and print."""
    arguments = _check_parser().parse_args(argv)
    return _check(find_run_dir(arguments.run_dir), arguments.sample, arguments.json)


def _check(run_dir: RunDir, sample: int | None, as_json: bool) -> int:
    from emobench.analysis.assessment import as_data, assess, write_checks
    from emobench.cli.checks_text import show

    checks = assess(run_dir, sample=sample).checks
    try:
        write_checks(run_dir, checks)
    except OSError as error:
        print(f"{run_dir.checks} is not written: {error.strerror}", file=sys.stderr)
    print(json.dumps(as_data(checks), indent=2) if as_json else show(checks))
    return FAILED if checks.verdict == "failed" else PASSED


def judge_main(argv: Sequence[str] | None = None) -> int:
    """Ask the judge about every turn without an answer, then evaluate the gates."""
    arguments = _judge_parser().parse_args(argv)
    from emobench.analysis.assessment import turns_of
    from emobench.analysis.judge.asking import Judge, ask_all
    from emobench.analysis.transcript.dialogue import read
    from emobench.cli.checks_text import show_asked
    from emobench.store.labels import AnswerStore

    run_dir = find_run_dir(arguments.run_dir)
    plan = load_plan(run_dir)
    settings = _settings(arguments, plan)
    endpoint = endpoint_of(settings, plan, run_dir)
    turns = turns_of(read(run_dir, settings.sample))
    if not turns:
        raise InvalidInput(f"{run_dir.path} has no conversation with a result yet")
    with AnswerStore(run_dir.judge_answers) as store:
        asked = ask_all(
            turns,
            Judge(endpoint, settings.max_tokens),
            endpoint.model,
            store,
            concurrency=settings.concurrency,
            seed=plan.sweep.seed,
            progress=_progress(),
        )
    print(show_asked(asked, endpoint.model), file=sys.stderr if arguments.json else sys.stdout)
    _check(run_dir, None, arguments.json)
    return FAILED if asked.failed else PASSED


def _settings(arguments: argparse.Namespace, plan: Plan) -> JudgeSettings:
    """The sweep file's judge, with what the command line says in its place."""
    given = plan.sweep.judge
    endpoint = {
        "server": arguments.server,
        "model": arguments.model,
        "base_url": arguments.base_url,
        "api_key_env": arguments.key_env,
    }
    course = {
        "concurrency": arguments.concurrency,
        "sample": arguments.sample,
        "max_tokens": arguments.max_tokens,
    }
    if arguments.server and any(endpoint[key] for key in ("model", "base_url", "api_key_env")):
        raise InvalidInput("--server names a server of the sweep; leave the other three out")
    values = given.model_dump() if given is not None else {}
    if any(endpoint.values()):
        # Another judge than the declared one takes nothing of its address.
        values = {key: values[key] for key in course if key in values}
        values |= {key: value for key, value in endpoint.items() if value is not None}
    values |= {key: value for key, value in course.items() if value is not None}
    try:
        settings = JudgeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise InvalidInput(f"{option.replace('api-', '')}: {first['msg']}") from None
    if settings.server is None and not (settings.model and settings.base_url):
        raise InvalidInput(
            "which judge? Give --base-url and --model, or --server, or declare `judge` in the "
            "sweep file"
        )
    return settings


def endpoint_of(settings: JudgeSettings, plan: Plan, run_dir: RunDir) -> ModelEndpoint:
    """Where the judge answers now. Raises InvalidInput, or ServersGone where it is not there."""
    timeout = plan.sweep.timeout_s
    if settings.server is None:
        assert settings.model is not None and settings.base_url is not None
        return _endpoint(settings.model, settings.base_url, settings.api_key_env, timeout)
    role = (
        plan.sweep.user if settings.server == "user" else plan.sweep.assistants.get(settings.server)
    )
    if role is None:
        known = ", ".join(("user", *plan.sweep.assistants))
        raise InvalidInput(f"--server: no server '{settings.server}' in this sweep; it has {known}")
    if isinstance(role, OpenAIModel):
        if role.base_url is None:
            raise InvalidInput(f"'{settings.server}' has no base_url; give --base-url and --model")
        return _endpoint(role.model, role.base_url, role.api_key_env, timeout)
    from emobench.serving.waiting import look_for

    name = USER_SERVER if settings.server == "user" else assistant_server(settings.server)
    problems = []
    for instance in replicas_of(name, role):
        found, problem = look_for(run_dir, instance)
        if found is not None:
            at = found.endpoint
            return ModelEndpoint(
                at.model,
                at.url,
                found.place.key(),
                incarnation=at.incarnation,
                server=found.place.instance,
                timeout_s=timeout,
            )
        problems.append(problem)
    raise ServersGone(
        f"server '{settings.server}' of this sweep is not there: {'; '.join(problems)}\n"
        "  servers leave when no cell needs them: keep them with `emobench sweep --keep-servers "
        f"MIN`, or use an endpoint: {_SPENT}"
    )


def _endpoint(model: str, url: str, key_env: str, timeout_s: float) -> ModelEndpoint:
    from emobench.llm.client import needs_proxy

    url = url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, url)):
        raise InvalidInput(f"--base-url: {url!r} is no address; e.g. http://host:8005/v1")
    if needs_proxy(url):
        raise InvalidInput(
            f"this machine reaches {url} through a proxy, which the judge does not speak; add its "
            "host to the variable no_proxy if it is reached without"
        )
    key = os.environ.get(key_env, "")
    if not key and key_env != "OPENAI_API_KEY":
        raise InvalidInput(f"the variable {key_env} is not set; export the endpoint's key in it")
    return ModelEndpoint(model, url, key or "none", timeout_s=timeout_s)


def _progress() -> Callable[[int, int], None]:
    """Prints to a terminal how far it is; says nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, of: None
    return lambda done, of: print(f"\r{done} of {of} turns", end="", file=sys.stderr, flush=True)
