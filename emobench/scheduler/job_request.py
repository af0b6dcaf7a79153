"""How much each job of a plan asks Slurm for, counted as its accounting counts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from emobench.config.capacity import get_throttle
from emobench.core.cluster import ClusterProfile, JobResources, Placement, ServerResources
from emobench.core.plan import (
    USER_SERVER,
    Plan,
    get_placement,
    list_needed_servers,
    list_servers,
)
from emobench.core.wording import pluralise
from emobench.scheduler.render import list_pairs, parse_limit_s, shares_cards

Amounts = Mapping[str, int]
"""By what is counted: a TRES as sacctmgr names it (`cpu`, `mem` in MB, `node`, `gres/gpu`), `jobs`
that run, `submit` (jobs in the queue), `wall` (seconds of one job)."""
CELL = "cell"
"""Who an array's task is."""
_OPTIONS = {
    "--partition": "partition",
    "-p": "partition",
    "--account": "account",
    "-A": "account",
    "--qos": "qos",
    "-q": "qos",
    "--time": "time",
    "-t": "time",
}


@dataclass(frozen=True)
class JobRequest:
    """One job, or several that are alike."""

    who: str
    resources: JobResources
    """Its partition, account, QOS and time; the profile's further options of sbatch applied."""
    amounts: Amounts
    """Of one such job."""
    count: int = 1

    def __str__(self) -> str:
        return self.who if self.count == 1 else f"{self.count} {self.who}s"


def request_server(
    who: str, resources: ServerResources, cards: int, nodes: int = 1, count: int = 1
) -> JobRequest:
    """Return what a server asks for that has `cards` on all its nodes together."""
    amounts = _count_job(resources, nodes, max(cards, nodes))
    if resources.gres and cards:
        # One of a type counts as one of its kind, too.
        for name in (resources.gres.partition(":")[0], resources.gres):
            amounts[f"gres/{name}"] = cards
    return JobRequest(who, apply_options(resources), amounts, count)


def request_cell(resources: JobResources, count: int = 1) -> JobRequest:
    """Return what a cell asks for."""
    return JobRequest(CELL, apply_options(resources), _count_job(resources, 1, 1), count)


def _count_job(resources: JobResources, nodes: int, units: int) -> dict[str, int]:
    """Return what a job asks for besides cards; CPUs and memory are those of one unit."""
    amounts = {"jobs": 1, "submit": 1, "node": nodes, "cpu": resources.cpus * units}
    if (memory := parse_memory_mb(resources.mem or "")) is not None:
        amounts["mem"] = memory * units
    if (seconds := parse_limit_s(apply_options(resources).time)) is not None:
        amounts["wall"] = seconds
    return amounts


def request_typical(profile: ClusterProfile) -> list[JobRequest]:
    """Return the least that a sweep with two servers needs at once: one card each, and a cell."""
    user, assistant = profile.user_server, profile.assistant_server
    servers = [
        request_server("user", user, int(user.gres is not None)),
        request_server("assistant", assistant, int(assistant.gres is not None)),
    ]
    return [*place_servers(profile.placement, servers, share=True), request_cell(profile.array)]


def place_servers(
    placement: Placement, servers: Sequence[JobRequest], share: bool = False
) -> list[JobRequest]:
    """Return the jobs that the servers are: where they are placed together the first two are one,
    with the cards of one of them if they `share` them. The parts of a heterogeneous job count each
    by itself."""
    if placement != "together" or len(servers) < 2:
        return list(servers)
    pair, others = servers[:2], servers[2:]
    keys = dict.fromkeys(key for each in pair for key in each.amounts)
    amounts = {
        key: (max if share and "gres/" in key else sum)(each.amounts.get(key, 0) for each in pair)
        for key in keys
    }
    amounts |= {"jobs": 1, "submit": 1, "node": 1}
    if walls := [each.amounts["wall"] for each in pair if "wall" in each.amounts]:
        amounts["wall"] = min(walls)
    who = " and ".join(each.who for each in pair)
    return [JobRequest(who, pair[0].resources, amounts), *others]


def place_planned_servers(plan: Plan, servers: Sequence[JobRequest]) -> list[JobRequest]:
    """Return the jobs that servers of the plan are."""
    share = any(shares_cards(plan, pair) for pair in list_pairs(plan)[:1])
    return place_servers(get_placement(plan), servers, share)


def request_servers(plan: Plan) -> dict[str, JobRequest]:
    """Return what one replica of each server asks for, with the number of replicas."""
    profile = plan.profile
    return {
        name: request_server(
            name.replace("_", " ", 1),
            profile.user_server if name == USER_SERVER else profile.assistant_server,
            model.accelerators,
            model.nodes,
            model.replicas,
        )
        for name, model in list_servers(plan.sweep).items()
    }


def list_needed_at_once(plan: Plan) -> list[list[JobRequest]]:
    """Return, for each assistant, the jobs of which none can do anything without the others: one
    replica of each server and one cell. Servers that may be another sweep's (`reuse`) are left out.
    """
    models = list_servers(plan.sweep)
    servers = request_servers(plan)
    needed = []
    for assistant in plan.sweep.assistants:
        names = [name for name in list_needed_servers(assistant) if name in servers]
        own = [replace(servers[name], count=1) for name in names if not models[name].reuse]
        needed.append([*place_planned_servers(plan, own), request_cell(plan.profile.array)])
    return needed


def list_wanted_at_once(plan: Plan) -> list[JobRequest]:
    """Return all jobs that would run at once if nothing were in the way."""
    cells = sum(min(get_throttle(plan), block.size) for block in plan.blocks)
    servers = place_planned_servers(plan, list(request_servers(plan).values()))
    return [*servers, request_cell(plan.profile.array, cells)]


def apply_options(resources: JobResources) -> JobResources:
    """Return the resources with what the profile's further options of sbatch say of them."""
    changes = {}
    for option in resources.sbatch:
        found = re.fullmatch(r"(--[a-z]+|-[a-zA-Z])(?:[= ]\s*|(?<=^-\w))(\S+)", option.strip())
        if found and found[1] in _OPTIONS:
            changes[_OPTIONS[found[1]]] = found[2]
    return resources.model_copy(update=changes)


def parse_memory_mb(text: str) -> int | None:
    """Return MB of Slurm's memory: 64G, 4000M, 2T; a number alone is MB. None where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", text.strip().upper())
    if found is None:
        return None
    return int(float(found[1]) * 1024.0 ** ("KMGTP".index(found[2] or "M") - 1))


def format_amount(key: str, amount: int) -> str:
    """Return such as '2 cards', '16 CPUs', '64 GB', '3 jobs'."""
    if key == "mem":
        return f"{amount / 1024:g} GB" if amount >= 1024 else f"{amount} MB"
    if key == "wall":
        return pluralise(amount / 60, "minute")
    nouns = {"cpu": "CPU", "jobs": "job", "submit": "queued job"}
    return pluralise(amount, nouns.get(key, "card" if key.startswith("gres/") else key))


def sum_up(requests: Sequence[JobRequest], key: str) -> int:
    """Return how much of one thing these jobs ask for together."""
    return sum(request.amounts.get(key, 0) * request.count for request in requests)
