"""One server of a run as `emobench status` and `watch` show it: its own, or one that it leases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from emobench.config.capacity import crowded
from emobench.core.files import read_json
from emobench.core.plan import Plan, instances_of, server_of
from emobench.core.run_dir import RunDir
from emobench.scheduler.queue import JobState, is_live
from emobench.store.places import Place, place_of

HEARTBEAT_LIMIT_S = 60.0


def server_state(
    plan: Plan,
    run_dir: RunDir,
    name: str,
    jobs: list[dict[str, Any]],
    states: Mapping[str, JobState],
) -> dict[str, Any]:
    """What the endpoint file and the queue say of an instance, as plain data."""
    place = place_of(run_dir, name)
    endpoint = read_json(place.file) or {}
    if place.lease:
        state, reason = _leased(place, endpoint)
        return _row(plan, name, endpoint, state, reason) | {
            "job_id": endpoint.get("job_id"),
            "leased_from": str(place.run_dir.path),
        }
    own = [job for job in jobs if job["kind"] == "server" and job["name"] == name]
    serving = [
        job
        for job in own
        if job["job_id"] == endpoint.get("job_id") and is_live(states.get(job["job_id"]))
    ]
    job = next(reversed(serving or own), None)
    queued = states.get(job["job_id"]) if job else None
    state, reason = endpoint.get("state", ""), endpoint.get("reason", "")
    if job and endpoint.get("job_id") != job["job_id"]:
        endpoint, state, reason = {}, "", ""  # the file is of an earlier job
    if job is not None and not is_live(queued):
        if state in ("ready", "starting", ""):
            state = "gone"
            reason = f"job ended: {queued.state}" if queued else "job is gone from the queue"
    elif queued is not None and queued.state.startswith("PENDING"):
        state, reason = "pending", queued.reason
    elif state == "ready" and _age_s(endpoint.get("heartbeat")) > HEARTBEAT_LIMIT_S:
        state, reason = "silent", f"no heartbeat for {_age_s(endpoint['heartbeat']):.0f} s"
    elif state == "ready" and endpoint.get("kept_until"):
        reason = f"nothing needs it; kept until {endpoint['kept_until']} (keep_servers_min)"
    for successor in own:
        its = states.get(successor["job_id"])
        if job is not None and successor.get("takes_over") == job["job_id"] and is_live(its):
            takes_over = f"job {successor['job_id']} is to take over ({its})"
            reason = f"{reason}\n{takes_over}" if reason else takes_over
    row = _row(plan, name, endpoint, state or ("starting" if job else "none"), reason)
    row["node"] = row["node"] or (queued.node if queued else "")
    return row | {"job_id": job["job_id"] if job else None}


def _leased(place: Place, endpoint: Mapping[str, Any]) -> tuple[str, str]:
    """State and reason of a server whose job is another sweep's."""
    state, age_s = endpoint.get("state", "gone"), _age_s(endpoint.get("heartbeat"))
    if state in ("ready", "starting") and age_s > HEARTBEAT_LIMIT_S:
        return "silent", f"no heartbeat for {age_s:.0f} s"
    if state == "ready" and place.lease not in endpoint.get("leases", ()):
        return "left", "the lease has ended"
    return state, endpoint.get("reason", "")


def _row(
    plan: Plan, name: str, endpoint: Mapping[str, Any], state: str, reason: str
) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "reason": reason,
        "job_id": None,
        "node": endpoint.get("host", ""),
        "url": endpoint.get("url", ""),
        "model": instances_of(plan.sweep)[name].model,
        "incarnation": endpoint.get("incarnation", ""),
        "heartbeat": endpoint.get("heartbeat", ""),
        "cause": endpoint.get("cause", ""),
        "warnings": list(endpoint.get("warnings", ())),
        "kept_until": endpoint.get("kept_until", "") if state == "ready" else "",
        "warning": crowded(plan, server_of(name), endpoint.get("max_concurrency")),
        "leased_from": "",
    }


def _age_s(iso: str | None) -> float:
    if not iso:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds()
