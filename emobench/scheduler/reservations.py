"""Reservations that keep whole partitions from starting jobs. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from emobench.core.cluster import JobResources
from emobench.core.site_check import Check, warning
from emobench.scheduler.render import parse_limit_s


@dataclass(frozen=True)
class Reservation:
    """A reservation that this user has no part in; times in seconds since the epoch."""

    name: str
    start: float
    end: float
    nodes: str
    """As Slurm writes a list of hosts."""


def parse_reservations(output: str, user: str, accounts: Collection[str]) -> list[Reservation]:
    """Parse `scontrol --oneliner show reservation`, with times as seconds since the epoch; those
    that the user, or one of the accounts, may use are left out."""
    found = []
    for line in output.splitlines():
        row = dict(re.findall(r"(\w+)=(\S*)", line))
        start, end = row.get("StartTime", ""), row.get("EndTime", "")
        own = user in row.get("Users", "").split(",")
        own = own or not set(accounts).isdisjoint(row.get("Accounts", "").split(","))
        if not own and start.isdigit() and end.isdigit() and row.get("Nodes", "(null)") != "(null)":
            name = row.get("ReservationName", "")
            found.append(Reservation(name, float(start), float(end), row["Nodes"]))
    return found


def check_reservation(
    name: str, job: JobResources, partition: str, reservation: Reservation, now: float
) -> Check | None:
    """Return a warning where a reservation of all nodes of a partition keeps a job from starting
    before it ends; None where the job can end before it."""
    if any(option.startswith("--reservation") for option in job.sbatch) or reservation.end <= now:
        return None
    limit_s, room_s = parse_limit_s(job.time), reservation.start - now
    if limit_s is not None and limit_s < room_s:
        return None
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(reservation.end))
    begin = time.strftime("%Y-%m-%d %H:%M", time.localtime(reservation.start))
    said = f"reservation {reservation.name} has all nodes of {partition} from {begin} to {until}"
    if room_s < 120:
        return warning(name, said, "no job starts there before it ends")
    minutes = int(room_s // 60) - 1
    hint = f"jobs of this time limit start after it; with time: {minutes} or less they may before"
    return warning(name, said, hint)
