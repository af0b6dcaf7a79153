"""`reuse: true`: find the running server of another sweep, have it prove itself, and lease it.

The lease is a file in the owner's run directory. The owner's supervisor names its id in the
endpoint file with the next heartbeat, as long as it is ready and has not decided to leave; only
then does the lease count. Whoever gets no such answer takes the file back and starts a server.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from emobench.core.errors import InvalidInput
from emobench.core.models import RoleModel, Sampling, ScriptedModel, VllmModel
from emobench.core.ownership import require_own
from emobench.core.plan import (
    USER_SERVER,
    Plan,
    get_server_name,
    list_instances,
    list_servers,
    load_plan,
)
from emobench.core.run_dir import RunDir
from emobench.serving.waiting import find_problem
from emobench.store.endpoints import (
    Endpoint,
    ServerLocation,
    load_api_key,
    locate_server,
    point_to_leased,
)
from emobench.store.leases import add_lease, give_back_lease

ANSWER_S = 45.0
"""A supervisor looks every second, but another node may see a new file half a minute late."""
POLL_S = 0.2
_NOT_THE_SERVERS = {*Sampling.model_fields, "replicas", "reuse"}
"""Keys of a model that its clients send, or that say nothing of one server."""


@dataclass(frozen=True)
class Offer:
    """A running server that fits."""

    location: ServerLocation
    endpoint: Endpoint

    def __str__(self) -> str:
        return (
            f"{self.location.run_dir.path} ({self.location.instance}, job {self.endpoint.job_id})"
        )


def describe_service(plan: Plan, server: str) -> dict[str, object]:
    """Return all that changes what a server answers or can take: equal for servers that can be
    shared."""
    sweep, profile = plan.sweep, plan.profile
    model: RoleModel = list_servers(sweep)[server]
    served: dict[str, object] = {
        "emobench": plan.emobench,
        "role": "user" if server == USER_SERVER else "assistant",
        "scheduler": profile.scheduler,
        "model": model.model_dump(mode="json", exclude=_NOT_THE_SERVERS),
    }
    if isinstance(model, VllmModel):
        served["chat_template"] = sweep.chat_template_sha256.get(model.chat_template or "", "")
        site = {"accelerator", "container", "server_setup", "server_env"}
        served["site"] = profile.model_dump(mode="json", include=site)
    if isinstance(model, ScriptedModel):
        served["variants"] = {name: variant.text for name, variant in sweep.variants.items()}
        served["benchmark"] = plan.benchmark
    return served


def find_offers(plan: Plan, run_dir: RunDir, server: str) -> list[Offer]:
    """Find servers of the sweeps beside `run_dir` that could serve `server`: ready by their own
    word, with a fresh heartbeat, a key and a run directory of this user's. Those with the fewest
    leases come first."""
    wanted = describe_service(plan, server)
    found = []
    for other in _list_siblings(run_dir):
        try:
            require_own(other)  # before anything is believed
            load_api_key(other)
            live = _list_live_servers(other)
            theirs = load_plan(other)
        except (OSError, InvalidInput):
            continue
        # Without Slurm a server listens on its own machine only.
        local = plan.profile.one_machine
        found += [
            offer
            for offer in live
            if (not local or offer.endpoint.host == socket.gethostname())
            and (name := get_server_name(offer.location.instance)) in list_servers(theirs.sweep)
            and describe_service(theirs, name) == wanted
        ]
    return sorted(found, key=lambda offer: len(offer.endpoint.leases))


def lease_servers(
    plan: Plan, run_dir: RunDir, instances: Collection[str], say: Callable[[str], None]
) -> dict[str, ServerLocation]:
    """Lease what can be had of `instances`; the others have to be started.

    Earlier leases of all of them are given back. `say` is told what was done and why.
    """
    before = {instance: locate_server(run_dir, instance) for instance in instances}
    leased: dict[str, ServerLocation] = {}
    models = list_instances(plan.sweep)
    for instance in instances:
        if not models[instance].reuse:
            continue
        # Two replicas must not turn out to be one server.
        replicas = [
            p for name, p in leased.items() if get_server_name(name) == get_server_name(instance)
        ]
        taken = {(location.run_dir, location.instance) for location in replicas}
        for offer in find_offers(plan, run_dir, get_server_name(instance)):
            if (offer.location.run_dir, offer.location.instance) in taken:
                continue
            location, problem = lease_server(offer, run_dir, instance)
            if location is not None:
                say(f"server {instance}: leased from {offer}")
                leased[instance] = location
                break
            say(f"server {instance}: not leased from {offer}: {problem}")
        else:
            say(f"server {instance}: no running server can be shared (reuse), so one is started")
    for location in before.values():
        give_back_lease(location, run_dir)
    return leased


def lease_server(
    offer: Offer, run_dir: RunDir, instance: str, answer_s: float = ANSWER_S
) -> tuple[ServerLocation | None, str]:
    """Lease an offered server for `instance` of `run_dir`: its place, or why not."""
    if problem := find_problem(offer.location, offer.endpoint):
        return None, problem
    location = offer.location
    try:
        location = add_lease(location, run_dir, instance)
        problem = _wait_for_answer(location, offer.endpoint.incarnation, answer_s)
        if not problem:
            point_to_leased(run_dir, instance, location)
            return location, ""
    except OSError as error:
        problem = f"{error.filename or location.run_dir.path}: {error.strerror}"
    except BaseException:
        give_back_lease(location, run_dir)
        raise
    give_back_lease(location, run_dir)
    return None, problem


def holds_lease(run_dir: RunDir, instance: str) -> bool:
    """Return whether the instance has a lease of a server that is there."""
    location = locate_server(run_dir, instance)
    endpoint = location.read() if location.lease else None
    return endpoint is not None and endpoint.is_ready and location.lease in endpoint.leases


def _wait_for_answer(location: ServerLocation, incarnation: str, answer_s: float) -> str:
    """Wait until the owner takes the lease into account; else why not."""
    deadline = time.monotonic() + answer_s
    while True:
        endpoint = location.read()
        if endpoint is None or not endpoint.is_ready or endpoint.incarnation != incarnation:
            return "it is leaving, or starts again"
        if location.lease in endpoint.leases:
            return ""
        if time.monotonic() >= deadline:
            return f"it did not take the lease within {answer_s:g} s"
        time.sleep(POLL_S)


def _list_siblings(run_dir: RunDir) -> Iterator[RunDir]:
    for plan in sorted(run_dir.path.parent.glob("*/plan.json")):
        folder = plan.parent.resolve()
        if folder != run_dir.path:
            yield RunDir(folder)


def _list_live_servers(run_dir: RunDir) -> list[Offer]:
    """Return the run's own servers that say that they are ready. Raises OSError."""
    found = []
    for file in sorted(run_dir.endpoints.glob("*.json")):
        location = ServerLocation(run_dir, file.stem)
        endpoint = location.read()
        # A successor that waits has a file of its own, with its instance's name in it.
        if endpoint is not None and endpoint.server == location.instance and endpoint.is_ready:
            found.append(Offer(location, endpoint))
    return found
