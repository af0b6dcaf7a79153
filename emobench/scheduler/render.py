"""Plan -> scripts, byte for byte what is submitted. Pure: nothing is written here."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.config.capacity import get_throttle
from emobench.config.vllm_arguments import Role, build_serve_arguments
from emobench.core.cluster import JobResources
from emobench.core.errors import InvalidInput, Problem
from emobench.core.models import RoleModel, ScriptedModel, VllmModel
from emobench.core.plan import (
    USER_SERVER,
    CellBlock,
    Plan,
    get_placement,
    get_replica_number,
    list_servers,
)
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.llm import guard
from emobench.scheduler.job_comment import SEPARATOR, JobComment
from emobench.store.jobs import JobKind

if TYPE_CHECKING:
    import jinja2

WARNING_S = 120
"""How long before its time limit a job is told to end by itself."""
CONTAINER_RC = "container_rc.sh"
"""Name of the script that starts a command in a container: the image has its own PYTHONPATH."""
GUARD = "emobench_guard"
"""Module that asks for the key inside vLLM: a copy of llm/guard.py beside the scripts."""


CLEANUP_SCRIPT = "cleanup.sbatch"
"""Name of the script that runs after the arrays."""
_SCRIPTS = re.compile(
    r"(user_vllm|assistant_vllm_.+|servers_.+|tau_array_.+|cleanup)\.sbatch|serve_.+\.sh|settings_.+\.json|"
    rf"{re.escape(CONTAINER_RC)}|{GUARD}\.py"
)
CLEANUP_S = 20 * 60
"""Longer than servers wait for arrays that are being submitted (15 minutes)."""


def name_server_script(server: str) -> str:
    """Name of the script that is submitted for a server."""
    if server == USER_SERVER:
        return "user_vllm.sbatch"
    return f"assistant_vllm_{server.removeprefix('assistant_')}.sbatch"


def name_pair_script(assistant: str) -> str:
    """Return the name of the script that starts the user's server and this one together."""
    return f"servers_{assistant.removeprefix('assistant_')}.sbatch"


def list_pairs(plan: Plan) -> list[tuple[str, str]]:
    """Return the pairs of servers that one job can start, the user's first; none where the plan
    places them apart."""
    servers = list_servers(plan.sweep)
    # A server across several nodes starts a step of its own job on each of them.
    small = [name for name, model in servers.items() if model.nodes == 1]
    if get_placement(plan) == "apart" or USER_SERVER not in small:
        return []
    return [(USER_SERVER, name) for name in small if name != USER_SERVER]


def find_first_pair(plan: Plan, instances: Collection[str]) -> tuple[str, ...]:
    """Return the first pair of servers of which both are among `instances`; empty if there is none.

    One pair is enough for the cells of one assistant to begin; with all assistants in the job it
    would wait for all their cards.
    """
    return next((pair for pair in list_pairs(plan) if set(pair).issubset(instances)), ())


def build_server_arguments(instance: str, takes_over: str = "") -> tuple[str, ...]:
    """Return what the script of a server is given: which replica it is, and whose successor (a job
    id)."""
    replica = get_replica_number(instance)
    arguments = ("--replica", str(replica)) if replica > 1 else ()
    return (*arguments, "--takes-over", takes_over) if takes_over else arguments


def name_server_log(server: str) -> str:
    """Return a server's log name without '_<jobid>.out'."""
    return "user_vllm" if server == USER_SERVER else "assistant_vllm"


def name_array_script(block: str) -> str:
    """Name of the script that is submitted for a block of cells."""
    return f"tau_array_{block}.sbatch"


def is_script(name: str) -> bool:
    """Return whether a file of the scripts' folder is, by its name, one that `render` makes."""
    return _SCRIPTS.fullmatch(name) is not None


def format_array_option(plan: Plan, block: CellBlock, cells: Iterable[int]) -> str:
    """Return the option of sbatch by which a block's script runs these cells of it."""
    indices = format_ranges((cell - block.first_cell for cell in sorted(cells)), comma=",")
    return f"--array={indices}%{get_throttle(plan)}"


def has_cleanup(plan: Plan) -> bool:
    """Return whether a job runs after the arrays that ends servers which did not leave.

    Without Slurm there is none: nothing could start it, and nothing is held in a queue.
    """
    return not plan.profile.one_machine and bool(list_servers(plan.sweep))


def name_serve_script(server: str) -> str:
    """Name of the script that a server's supervisor starts."""
    return f"serve_{server}.sh"


def render(plan: Plan, run_dir: RunDir, template_dirs: Sequence[Path]) -> dict[str, str]:
    """Return text by script name, for all servers and blocks of the plan.

    Templates are taken from the first of `template_dirs` that has them. Raises InvalidInput
    where a template is missing or wrong, or where a path or value cannot stand in a script.
    """
    import jinja2

    for path in (str(run_dir.path), plan.logs):
        _check_path(path)
    environment = make_template_environment(template_dirs)
    environment.filters.update(sh=_quote_sh, sbatch=_quote_sbatch)
    try:
        return _render(plan, run_dir, environment)
    except jinja2.TemplateNotFound as error:
        searched = ", ".join(str(folder) for folder in template_dirs)
        raise InvalidInput(
            Problem(f"no template named {error.name}", hint=f"looked in {searched}")
        ) from error
    except jinja2.TemplateSyntaxError as error:
        raise InvalidInput(
            Problem(str(error.message), file=error.filename or "", line=error.lineno)
        ) from error
    except jinja2.UndefinedError as error:
        raise InvalidInput(Problem(f"a template uses an unknown name: {error.message}")) from error


def make_template_environment(template_dirs: Sequence[Path]) -> jinja2.Environment:
    """Return what renders the templates of these folders: the first that has one wins."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in template_dirs]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _render(plan: Plan, run_dir: RunDir, environment: jinja2.Environment) -> dict[str, str]:
    shared: dict[str, Any] = {
        "plan": plan,
        "sweep": plan.sweep,
        "profile": plan.profile,
        "run_dir": str(run_dir.path),
        "scripts": str(run_dir.scripts),
        "guard": f"{GUARD}.Guard",
        "logs": plan.logs,
        "python": plan.profile.python or sys.executable,
        "seed": plan.sweep.seed,
    }
    texts: dict[str, str] = {}

    def comment(kind: JobKind, name: str, text: str) -> dict[str, str]:
        return {"comment": JobComment(kind, name).write(run_dir, f"{plan.sweep.name}, {text}")}

    if any(isinstance(model, VllmModel) for model in list_servers(plan.sweep).values()):
        _check_import_path(str(run_dir.scripts))
        if plan.profile.container is not None:
            before = '"${PYTHONPATH:+:$PYTHONPATH}"'
            path = f"export PYTHONPATH={_quote_sh(run_dir.scripts)}{before}"
            texts[CONTAINER_RC] = f'{path}\nexport VLLM_USE_RUST_FRONTEND=0\nexec "$@"\n'
        texts[f"{GUARD}.py"] = Path(guard.__file__).read_text(encoding="utf-8")
    parts: dict[str, dict[str, Any]] = {}
    for server, model in list_servers(plan.sweep).items():
        values = shared | _build_server_values(plan, run_dir, server, model)
        values |= comment(JobKind.SERVER, server, model.model)
        parts[server] = values
        kind = name_server_log(server)
        texts[name_server_script(server)] = environment.get_template(f"{kind}.sbatch.j2").render(
            values
        )
        engine = environment.get_template(f"serve_{model.engine}.sh.j2")
        texts[name_serve_script(server)] = engine.render(values)
        if isinstance(model, ScriptedModel):
            texts[Path(values["settings"]).name] = _dump_settings(plan, model)
    together = get_placement(plan) == "together"
    servers = environment.get_template(f"servers{'_together' if together else ''}.sbatch.j2")
    for pair in list_pairs(plan):
        values = shared | {"parts": _build_parts([parts[name] for name in pair])}
        values |= {"output": _format_output(plan, "servers_%j.out")}
        if together:
            values |= _join_parts(plan, pair, values["parts"])
            values |= comment(JobKind.SERVER, SEPARATOR.join(pair), "both servers")
        texts[name_pair_script(pair[1])] = servers.render(values)
    array = environment.get_template("tau_array.sbatch.j2")
    for block in plan.blocks:
        cells = f"cells {block.first_cell}-{block.cells[-1]}"
        values = (
            shared | _build_array_values(plan, block) | comment(JobKind.ARRAY, block.name, cells)
        )
        by_hand = comment(JobKind.CELL, block.name, "one cell by hand")
        values["comment_by_hand"] = by_hand["comment"]
        texts[name_array_script(block.name)] = array.render(values)
    if has_cleanup(plan):
        cleanup = environment.get_template("cleanup.sbatch.j2")
        values = (
            shared | _build_cleanup_values(plan) | comment(JobKind.CLEANUP, "cleanup", "clean-up")
        )
        texts[CLEANUP_SCRIPT] = cleanup.render(values)
    return texts


def _build_server_values(
    plan: Plan, run_dir: RunDir, server: str, model: RoleModel
) -> dict[str, Any]:
    role: Role = "user" if server == USER_SERVER else "assistant"
    resources = plan.profile.user_server if role == "user" else plan.profile.assistant_server
    # A site gives CPUs, memory and cards by node.
    cards = model.accelerators // max(model.nodes, 1)
    # squeue shows ten letters of a name: whose job it is comes first.
    own_name = server.removeprefix("assistant_")
    return {
        "server": server,
        "role": role,
        "model": model,
        "settings": str(run_dir.scripts / f"settings_{server}.json"),
        "job_name": f"{own_name}-{plan.sweep.name}",
        "resources": resources,
        "nodes": model.nodes,
        "cards": cards,
        "cpus": resources.cpus * max(cards, 1),
        "mem": _multiply_memory(resources.mem, max(cards, 1)),
        "gres": f"{resources.gres}:{cards}" if resources.gres and cards else None,
        "arguments": _format_lines(build_serve_arguments(model, role, plan.vllm_lacks))
        if isinstance(model, VllmModel)
        else [],
        "container_rc": str(run_dir.scripts / CONTAINER_RC),
        "output": _format_output(plan, f"{name_server_log(server)}_%j.out"),
        "script": str(run_dir.scripts / name_server_script(server)),
        "log": _format_output(plan, name_server_log(server)),
        "warning_s": _choose_warning_s(resources),
    }


def _build_parts(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the values of a heterogeneous job's parts: they end together, so that the shorter time
    limit is that of both."""
    limits = [part["resources"].time for part in parts]
    if all(map(parse_limit_s, limits)):
        shorter = {"time": min(limits, key=lambda limit: parse_limit_s(limit) or 0)}
    else:
        shorter = {}
    resources = [part["resources"].model_copy(update=shorter) for part in parts]
    return [
        part | {"resources": each, "warning_s": _choose_warning_s(each)}
        for part, each in zip(parts, resources, strict=True)
    ]


def shares_cards(plan: Plan, pair: Sequence[str]) -> bool:
    """Return whether two servers that are one job have the same cards: where both say how much of a
    card's memory they take, and that fits."""
    models = [list_servers(plan.sweep)[name] for name in pair]
    parts = [
        model.gpu_memory_utilization or 1.0 for model in models if isinstance(model, VllmModel)
    ]
    same = len({model.accelerators for model in models}) == 1
    return get_placement(plan) == "together" and len(parts) == 2 and sum(parts) <= 1 and same


def _join_parts(
    plan: Plan, pair: Sequence[str], parts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the values of one job on one node that starts both servers, as the assistant's asks
    for them. Raises InvalidInput where no node can have both."""
    user, assistant = plan.profile.user_server, plan.profile.assistant_server
    differing = [
        key
        for key in ("partition", "account", "qos", "constraint", "gres")
        if getattr(user, key) != getattr(assistant, key)
    ]
    if differing:
        raise InvalidInput(
            Problem(
                "placement: together makes both servers one job on one node, and user_server and "
                f"assistant_server differ in {', '.join(differing)}",
                file=plan.profile.name,
                key="placement",
                hint="give both the same, or use placement: hetjob",
            )
        )
    shared = shares_cards(plan, pair)
    counts = [part["cards"] for part in parts]
    cards = max(counts) if shared else sum(counts)
    # The user's server is first; with cards of its own the other has those behind.
    places = [(0, counts[0]), (0 if shared else counts[0], counts[1])]
    memory = [part["mem"] for part in parts]
    return {
        "job_name": f"servers-{plan.sweep.name}",
        "resources": parts[1]["resources"],
        "nodes": 1,
        "cpus": sum(part["cpus"] for part in parts),
        "mem": _add_memory(memory),
        "gres": f"{assistant.gres}:{cards}" if assistant.gres and cards else None,
        "warning_s": parts[1]["warning_s"],
        "shared": shared,
        "parts": [
            dict(part) | {"first_card": first, "own_cards": count}
            for part, (first, count) in zip(parts, places, strict=True)
        ],
    }


def _add_memory(amounts: Sequence[str | None]) -> str | None:
    """Return the sum of Slurm's amounts of memory: '64G' and '500M' are '66036M'; None where one is
    left to the site."""
    units = {"K": 1, "": 1024, "M": 1024, "G": 1024**2, "T": 1024**3}
    total = 0
    for amount in amounts:
        match = re.fullmatch(r"(\d+)([KMGT]?)", (amount or "").upper())
        if match is None:
            return None
        total += int(match[1]) * units[match[2]]
    for unit in ("G", "M"):
        if total % units[unit] == 0:
            return f"{total // units[unit]}{unit}"
    return f"{total}K"


def _build_array_values(plan: Plan, block: CellBlock) -> dict[str, Any]:
    resources = plan.profile.array
    return {
        "script": name_array_script(block.name),
        "first_cell": block.first_cell,
        "size": block.size,
        "throttle": get_throttle(plan),
        "job_name": f"run-{block.name}-{plan.sweep.name}",
        "resources": resources,
        "nodes": 1,
        "cpus": resources.cpus,
        "mem": resources.mem,
        "gres": None,
        "output": _format_output(plan, "run_%A_%a.log"),
        "warning_s": _choose_warning_s(resources),
    }


def _build_cleanup_values(plan: Plan) -> dict[str, Any]:
    array = plan.profile.array
    # As long as servers are kept, where the array's limit leaves room for that.
    seconds = CLEANUP_S + int(plan.sweep.keep_servers_min * 60)
    minutes = -(-min(seconds, parse_limit_s(array.time) or seconds) // 60)
    resources = array.model_copy(update={"time": str(minutes)})
    return {
        "job_name": f"cleanup-{plan.sweep.name}",
        "resources": resources,
        "nodes": 1,
        "cpus": 1,
        "mem": "500M" if array.mem is not None else None,
        "gres": None,
        "output": _format_output(plan, "cleanup_%j.log"),
        "warning_s": _choose_warning_s(resources),
    }


def _dump_settings(plan: Plan, model: ScriptedModel) -> str:
    """Return what the scripted server reads; the variants' texts tell it whom it plays."""
    keys = {"mistakes", "latency_ms", "faults"}
    if model.hardware is not None:
        keys |= {"hardware", "model_size", "time_scale", "accelerators"}
    settings = model.model_dump(mode="json", include=keys)
    settings["variants"] = {name: variant.text for name, variant in plan.sweep.variants.items()}
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


def _format_lines(arguments: Sequence[str]) -> list[str]:
    """Return arguments as words of the shell, each flag on a line with its values."""
    lines: list[str] = []
    for argument in arguments:
        if lines and not argument.startswith("-"):
            lines[-1] += f" {_quote_sh(argument)}"
        else:
            lines.append(_quote_sh(argument))
    return lines


def _multiply_memory(mem: str | None, count: int) -> str | None:
    """Return the memory of one accelerator, for all: '64G' twice is '128G'."""
    match = re.fullmatch(r"(\d+)([KMGTkmgt]?)", mem or "")
    return f"{int(match[1]) * count}{match[2]}" if match else mem


def parse_limit_s(limit: str | None) -> int | None:
    """Return the seconds of one of Slurm's time limits; None where it sets no limit or is none."""
    days, _, clock = (limit or "").rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (days or "0", *parts)) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    if days:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:  # MM[:SS]
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds or None


def _choose_warning_s(resources: JobResources) -> int:
    """Return the seconds of the early warning, at most a quarter of the time limit: a short job
    would be told to end at its start."""
    limit = parse_limit_s(resources.time)
    return min(WARNING_S, max(limit // 4, 1)) if limit else WARNING_S


def _format_output(plan: Plan, name: str) -> str:
    # In a file name Slurm replaces % and a letter; a doubled one stands for itself.
    return f"{plan.logs.replace('%', '%%')}/{name}"


def _check_path(path: str) -> None:
    """Refuse what sbatch or submitit would silently turn into another path."""
    if re.search(r"[\x00-\x1f\x7f\\]", path):
        wrong = "a control character or a backslash"
    elif re.search(r"%[jtAa]", path):
        wrong = "%j, %t, %A or %a, which submitit replaces"
    else:
        return
    raise InvalidInput(
        Problem(
            f"this path contains {wrong}",
            file=repr(path),
            hint="give another folder with --run-dir",
        )
    )


def _check_import_path(path: str) -> None:
    """Refuse what PYTHONPATH and a container's --bind would take for several folders."""
    if ":" in path or "," in path:
        hint = "give another folder with --run-dir"
        message = "vLLM loads its guard from this folder, and a colon or comma would part the path"
        raise InvalidInput(Problem(message, file=repr(path), hint=hint))


def _quote_sh(value: object) -> str:
    """Return one word of the shell, verbatim."""
    text = str(value)
    if "\0" in text:
        raise InvalidInput(Problem("a value contains a NUL byte", file=repr(text)))
    return shlex.quote(text)


def _quote_sbatch(value: object) -> str:
    """Return one value of an #SBATCH line: sbatch knows quotes and backslashes, but no
    expansions."""
    text = str(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise InvalidInput(
            Problem("a value for sbatch contains a control character", file=repr(text))
        )
    if re.fullmatch(r"[\w./:,=%@+-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
