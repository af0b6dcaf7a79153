"""Which judge a run is labelled by, and where it answers now."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from emobench.config.load import load_sweep
from emobench.core.errors import InvalidInput, Problem, ServersGone
from emobench.core.gates import JudgeSettings
from emobench.core.models import OpenAIModel
from emobench.core.ownership import is_own_file
from emobench.core.plan import USER_SERVER, Plan, list_replicas, name_assistant_server
from emobench.core.redaction import redact_urls
from emobench.core.run_dir import RunDir
from emobench.llm.address import make_endpoint
from emobench.llm.transport import ModelEndpoint

ENDPOINT_KEYS = ("server", "model", "base_url", "api_key_env")


def merge_settings(declared: JudgeSettings | None, **given: str | int | None) -> JudgeSettings:
    """Return the sweep file's judge, with what the command line gives in its place.

    Raises InvalidInput where that makes no judge; the message names the option.
    """
    given = {key: value for key, value in given.items() if value is not None}
    named = [key for key in ENDPOINT_KEYS if key in given]
    if "server" in named and len(named) > 1:
        raise InvalidInput("--server names a server of the sweep; leave the other three out")
    values = declared.model_dump() if declared is not None else {}
    if named:
        # Another judge than the declared one takes nothing of its address.
        values = {key: value for key, value in values.items() if key not in ENDPOINT_KEYS}
    try:
        settings = JudgeSettings.model_validate(values | given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise InvalidInput(f"{option}: {first['msg']}") from None
    if settings.server is None and not (settings.model and settings.base_url):
        raise InvalidInput(
            "which judge? Give --base-url and --model, or --server, or declare `judge` in the "
            "sweep file"
        )
    return settings


def find_endpoint(
    settings: JudgeSettings, plan: Plan, run_dir: RunDir, *, given: bool
) -> ModelEndpoint:
    """Return where the judge answers; `given` says that the command line names its address.

    Raises InvalidInput, also where only the run directory, which somebody may have sent, names an
    address and a key's variable; ServersGone if the judge is not there.
    """
    timeout = plan.sweep.timeout_s
    if settings.server is None:
        assert settings.model is not None and settings.base_url is not None
        if not given:
            _require_own_word(plan, run_dir, settings.base_url, settings.api_key_env)
        return make_endpoint(settings.model, settings.base_url, settings.api_key_env, timeout)
    roles = {"user": plan.sweep.user, **plan.sweep.assistants}
    role = roles.get(settings.server)
    if role is None:
        known = ", ".join(roles)
        raise InvalidInput(f"--server: no server '{settings.server}' in this sweep; it has {known}")
    if isinstance(role, OpenAIModel):
        if role.base_url is None:
            raise InvalidInput(f"'{settings.server}' has no base_url; give --base-url and --model")
        _require_own_word(plan, run_dir, role.base_url, role.api_key_env)
        endpoint = make_endpoint(role.model, role.base_url, role.api_key_env, timeout)
        return replace(endpoint, rate_limit_wait_s=role.rate_limit_wait_min * 60)
    from emobench.serving.waiting import find_server

    name = USER_SERVER if settings.server == "user" else name_assistant_server(settings.server)
    problems = []
    for instance in list_replicas(name, role):
        found, problem = find_server(run_dir, instance)
        if found is not None:
            at = found.endpoint
            return ModelEndpoint(
                at.model,
                at.url,
                found.location.read_key(),
                incarnation=at.incarnation,
                server=found.location.instance,
                timeout_s=timeout,
            )
        problems.append(problem)
    raise ServersGone(
        f"server '{settings.server}' of this sweep is not there: {'; '.join(problems)}\n"
        "  servers leave when no cell needs them: keep them with `emobench sweep --keep-servers "
        "MIN`, or use an endpoint: emobench judge RUN_DIR --base-url URL --model M"
    )


def _require_own_word(plan: Plan, run_dir: RunDir, url: str, key_env: str) -> None:
    """Raise InvalidInput unless the run's sweep file, which is this user's own and lies outside the
    run directory, names the address with the variable of its key."""
    file = Path(plan.sweep_file)
    outside = file.is_absolute() and not file.resolve().is_relative_to(run_dir.path)
    if outside and is_own_file(file):
        with suppress(InvalidInput, OSError):
            sweep = load_sweep(file, cluster=plan.sweep.cluster)
            models = (sweep.user, *sweep.assistants.values())
            named = [
                (each.base_url, each.api_key_env)
                for each in models
                if isinstance(each, OpenAIModel)
            ]
            if sweep.judge is not None:
                named.append((sweep.judge.base_url, sweep.judge.api_key_env))
            if (url, key_env) in named:
                return
    shown = redact_urls(str(url))
    raise InvalidInput(
        Problem(
            f"only this run directory names {shown}, to which the key in {key_env} would be sent",
            file=str(run_dir.plan),
            hint="a run that somebody sent may name any; if it is right, name it yourself: "
            f"--base-url {shown} --model M --api-key-env {key_env}",
        )
    )
