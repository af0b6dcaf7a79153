"""What would go wrong with the servers of a plan, found before anything is queued."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from emobench.config.vllm_arguments import (
    SET_BY_KEY,
    TEMPLATE_KWARGS,
    Role,
    build_serve_arguments,
    build_template_kwargs,
    find_family,
    find_option,
    is_optional,
    thinks_aloud,
)
from emobench.core.errors import InvalidInput, Problem, suggest_nearest
from emobench.core.models import VllmModel
from emobench.core.plan import USER_SERVER, Plan, list_servers
from emobench.core.run_dir import RunDir
from emobench.serving import vllm_flags as flags

Warn = Callable[[str], None]


def check_servers(plan: Plan, run_dir: RunDir, warn: Warn) -> Plan:
    """Warn of what is odd about the vLLM servers of a plan; return it with what their vLLM lacks.

    Raises InvalidInput for what cannot work. May ask the `vllm` that the profile's set-up lines
    make reachable, which takes up to `flags.ASK_TIMEOUT_S` seconds, once a day.
    """
    models = {
        server: model
        for server, model in list_servers(plan.sweep).items()
        if isinstance(model, VllmModel)
    }
    if not models:
        return plan
    known = flags.find_known_flags(plan.profile, run_dir.installed_vllm)
    lacking: list[str] = []
    problems: list[Problem] = []
    one_machine = plan.profile.one_machine
    for server, model in models.items():
        role: Role = "user" if server == USER_SERVER else "assistant"
        key = "user" if role == "user" else f"assistants.{server.removeprefix('assistant_')}"
        if model.nodes > 1 and one_machine:
            hint = "choose a cluster with --cluster, or remove nodes"
            message = f"{model.nodes} nodes, but profile {plan.profile.name} has no Slurm"
            problems.append(Problem(message, plan.sweep_file, key=f"{key}.nodes", hint=hint))
        if model.model.startswith("/") and not Path(model.model).is_dir():
            # Only where the server's job runs on this machine is that the last word.
            if one_machine:
                message = f"there is no folder {model.model}"
                hint = "give the folder of a model, or a Hugging Face id"
                problems.append(Problem(message, plan.sweep_file, key=f"{key}.model", hint=hint))
            elif plan.profile.container is None:
                warn(f"{key}.model: there is no folder {model.model} on this machine")
        for flag in dict.fromkeys(flags.list_flags(model.extra_args)):
            if hint := flags.describe_removed(flag, known):
                message = f"vLLM no longer takes {flag}"
                where = f"{key}.extra_args"
                problems.append(Problem(message, plan.sweep_file, key=where, hint=hint))
            elif odd := flags.describe_unknown(flag, known):
                warn(f"{key}.extra_args: {odd}")
        own = build_serve_arguments(model.model_copy(update={"extra_args": ()}), role)
        for flag in flags.list_flags(own):
            if not flags.is_known(flag, known.flags):
                lacking.append(flag)
                if text := _describe_lack(flag, model, role, known.source):
                    warn(f"{key}: {text}")
        for text in list_parser_warnings(model, role):
            warn(f"{key}: {text}")
    if problems:
        raise InvalidInput(problems)
    return plan.model_copy(update={"vllm_lacks": tuple(sorted(set(lacking)))})


def _find_key(flag: str) -> str | None:
    """Return the key of the sweep file that a flag comes from; None where no key sets it."""
    odd = {TEMPLATE_KWARGS: "chat_template_kwargs", "--served-model-name": "served_name"}
    name = flag.removeprefix("--").replace("-", "_")
    alike = name if name in VllmModel.model_fields else None
    return odd.get(flag) or SET_BY_KEY.get(flag) or alike


def _describe_lack(flag: str, model: VllmModel, role: Role, source: str) -> str:
    """Return what it means that the site's vLLM does not take a flag, and what can be changed;
    empty where nothing is lost."""
    since = f" (vLLM {flags.SINCE[flag]} was the first)" if flag in flags.SINCE else ""
    text = f"{source} does not take {flag}{since}"
    if not is_optional(flag, model):
        key = _find_key(flag)
        change = f"leave out {key}, or " if key else ""
        return f"{text}, and this server cannot start: {change}use a newer vLLM in server_setup"
    family = find_family(model.model)
    if flag == TEMPLATE_KWARGS and (family is None or thinks_aloud(family, {})):
        parser = family.reasoning_parser if family else "..."
        found = "will think before it answers" if family else "may think before it answers"
        ways = [] if model.reasoning_parser else [f"set reasoning_parser: {parser}"]
        ways += ["choose a model that does not", "use a newer vLLM in server_setup"]
        return f"{text}, so {model.model} {found}: {', '.join(ways[:-1])}, or {ways[-1]}"
    return ""


def list_parser_warnings(model: VllmModel, role: Role) -> Iterator[str]:
    """Yield what is odd about the parsers of a model, by its family and by vLLM's names."""
    tools = model.tool_call_parser or find_option(model, "--tool-call-parser")
    reasoning = model.reasoning_parser or find_option(model, "--reasoning-parser")
    given: tuple[tuple[Literal["tool", "reasoning"], str, str | None], ...] = (
        ("tool", "tool_call_parser", tools),
        ("reasoning", "reasoning_parser", reasoning),
    )
    for kind, key, name in given:
        names = flags.list_shipped_parsers(kind)
        if name and name not in names and find_option(model, f"--{kind}-parser-plugin") is None:
            guess = suggest_nearest(name, names)
            yield f"vLLM {flags.VERSION} has no {key} {name}" + (f"; {guess}" if guess else "")
    family = find_family(model.model)
    if family is None:
        return
    if role == "assistant" and tools and tools not in family.tool_parsers:
        usual = " or ".join(family.tool_parsers) or "none: vLLM parses no tool calls of it"
        yield (
            f"tool_call_parser {tools} is unusual for {model.model}; its family's is {usual}. "
            "Where it does not fit, tool calls arrive as text and every task fails"
        )
    if not reasoning and thinks_aloud(family, build_template_kwargs(model, role)):
        other = "assistant" if role == "user" else "user"
        yield (
            f"{model.model} thinks aloud and has no reasoning_parser: the {other} would read its "
            f"reasoning, as far as emobench does not recognise and remove it; add "
            f"'reasoning_parser: {family.reasoning_parser}'"
        )
