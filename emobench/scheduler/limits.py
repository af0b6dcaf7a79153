"""What a site allows one user, and whether what a sweep needs at once fits it. Pure.

Which limit holds is Slurm's rule (https://slurm.schedmd.com/resource_limits.html): the first that
the partition's QOS, the job's QOS or the association sets; but a Grp limit of each account above
holds as well, unless a QOS sets one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from emobench.core.cluster import JobResources
from emobench.core.site_check import Check, failed, warning
from emobench.core.wording import pluralise
from emobench.scheduler.job_request import (
    CELL,
    Amounts,
    JobRequest,
    format_amount,
    parse_memory_mb,
    sum_up,
)
from emobench.scheduler.render import parse_limit_s

Kind = Literal["group", "user", "account", "job"]
"""Whose jobs count together: all of a QOS or account, one user's, one account's; or each alone."""
Limits = Mapping[tuple[Kind, str], int]
"""By kind and what is counted."""

_SHARED: dict[str, tuple[Kind, str]] = {
    "grptres": ("group", ""),
    "grpjobs": ("group", "jobs"),
    "grpsubmit": ("group", "submit"),
    "maxtres": ("job", ""),
    "maxwall": ("job", "wall"),
}
ASSOCIATION_LIMITS: dict[str, tuple[Kind, str]] = {
    **_SHARED,
    "maxjobs": ("user", "jobs"),
    "maxsubmit": ("user", "submit"),
}
"""By column of sacctmgr: kind and what is counted, or '' where a list of TRES stands there."""
QOS_LIMITS: dict[str, tuple[Kind, str]] = {
    **_SHARED,
    "maxtrespu": ("user", ""),
    "maxjobspu": ("user", "jobs"),
    "maxsubmitpu": ("user", "submit"),
    "maxtrespa": ("account", ""),
    "maxjobspa": ("account", "jobs"),
    "maxsubmitpa": ("account", "submit"),
}
ASSOCIATION_COLUMNS = (
    *("user", "account", "partition", "parentname", "qos", "defaultqos"),
    *ASSOCIATION_LIMITS,
)
QOS_COLUMNS = ("name", "flags", *QOS_LIMITS)
NOT_ADDED = ("submit", "node")
"""What jobs that run at once do not add up to: the queue's length has a check of its own, and jobs
share nodes."""
RUNNING_COLUMNS = {"arrayjobid": 20, "account": 80, "qos": 80, "tres-alloc": 400}
"""Of squeue, with their widths."""


@dataclass(frozen=True)
class Association:
    """One row of `sacctmgr show assoc`: a user's with an account, or an account's own."""

    account: str
    user: str = ""
    """Empty: the account's own row."""
    partition: str = ""
    """It holds for this one only; empty: for all."""
    parent: str = ""
    """Of an account's own row; empty for the root."""
    qos: frozenset[str] = frozenset()
    default_qos: str = ""
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True)
class Qos:
    """One row of `sacctmgr show qos`."""

    name: str
    over_partition: bool = False
    """Its limits come before those of the partition's QOS (OverPartQOS)."""
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True)
class RunningJob:
    """A job of this user that runs."""

    job_id: str
    """Of an array's task: the array's."""
    account: str
    qos: str
    amounts: Amounts


@dataclass(frozen=True)
class Accounting:
    """What accounting says of one user on one cluster."""

    own: Sequence[Association]
    accounts: Mapping[str, Association] = field(default_factory=dict)
    qos: Mapping[str, Qos] = field(default_factory=dict)
    default_account: str = ""

    def find_association(self, resources: JobResources) -> Association | None:
        """Return the association that a job runs under; None where the user has none."""
        account = resources.account or self.default_account
        rows = [row for row in self.own if row.account == account]
        special = [row for row in rows if row.partition and row.partition == resources.partition]
        return next(iter(special or [row for row in rows if not row.partition]), None)

    def find_qos(self, resources: JobResources) -> str:
        """Return the name of the QOS that a job gets: its own, its association's default or only
        one, or `normal`, as Slurm does."""
        association = self.find_association(resources)
        if resources.qos or association is None:
            return resources.qos or "normal"
        names = association.qos
        return association.default_qos or (next(iter(names)) if len(names) == 1 else "normal")

    def list_below(self, account: str) -> frozenset[str]:
        """Return an account and those below it."""
        found = {account}
        while more := {a.account for a in self.accounts.values() if a.parent in found} - found:
            found |= more
        return frozenset(found)


@dataclass(frozen=True)
class Bound:
    """A limit on what some jobs have together, or (kind job) on each of them."""

    kind: Kind
    source: str
    """Who sets it, in words: `QOS long`, `account physics`."""
    key: str
    limit: int
    qos: str = ""
    """Jobs of this QOS count; empty: of any."""
    accounts: frozenset[str] = frozenset()
    """Jobs of these accounts count; empty: of any."""
    is_default: bool = field(default=False, compare=False)
    """Whether the profile does not name what the limit belongs to: a site's filter may choose
    another than Slurm does."""

    def __str__(self) -> str:
        amount = format_amount(self.key, self.limit)
        if self.source.startswith("partition"):
            return f"the {amount} that {self.source} has"
        what = {"jobs": "Jobs", "submit": "SubmitJobs", "wall": "Wall"}.get(self.key, "TRES")
        whose = {"user": "PerUser", "account": "PerAccount", "job": "PerJob"}.get(self.kind, "")
        # The limits of associations, and of time, have no such ending.
        ending = whose if self.qos and self.key != "wall" else ""
        setting = f"Grp{what}" if self.kind == "group" else f"Max{what}{ending}"
        unit = "M" if self.key == "mem" else ""
        value = f"{self.key}={self.limit}{unit}" if what == "TRES" else ""
        words = "the limit for one job," if self.kind == "job" else "your limit of"
        words = "the limit of" if self.kind in ("group", "account") else words
        return f"{words} {amount} ({self.source}, {' '.join(filter(None, (setting, value)))})"

    def count(self, running: Iterable[RunningJob]) -> int:
        """Return how much of it these jobs have."""
        if self.kind == "job" or self.key in NOT_ADDED or not (self.qos or self.accounts):
            return 0
        return sum(
            job.amounts.get(self.key, 0)
            for job in running
            if self.qos in ("", job.qos) and (not self.accounts or job.account in self.accounts)
        )


def parse_associations(output: str) -> list[Association]:
    """Parse `sacctmgr -nP show assoc` with ASSOCIATION_COLUMNS."""
    return [
        Association(
            account=row["account"],
            user=row["user"],
            partition=row["partition"],
            parent=row["parentname"],
            qos=frozenset(filter(None, row["qos"].split(","))),
            default_qos=row["defaultqos"],
            limits=_parse_limits(row, ASSOCIATION_LIMITS),
        )
        for row in _parse_rows(output, ASSOCIATION_COLUMNS)
    ]


def parse_qos(output: str) -> dict[str, Qos]:
    """Parse `sacctmgr -nP show qos` with QOS_COLUMNS, by name."""
    return {
        row["name"]: Qos(
            row["name"], "overpartqos" in row["flags"].lower(), _parse_limits(row, QOS_LIMITS)
        )
        for row in _parse_rows(output, QOS_COLUMNS)
    }


def parse_running(output: str) -> list[RunningJob]:
    """Parse squeue's RUNNING_COLUMNS."""
    jobs = []
    for line in output.splitlines():
        parts, rest = [], line
        for width in RUNNING_COLUMNS.values():
            parts.append(rest[:width].strip())
            rest = rest[width:]
        amounts = {**_parse_tres(parts[3]), "jobs": 1}
        jobs.append(RunningJob(parts[0], parts[1], parts[2], amounts))
    return jobs


def _parse_rows(output: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of sacctmgr's parsable output; what has another form is passed over."""
    for line in output.splitlines():
        values = line.split("|")
        if len(values) == len(columns):
            yield dict(zip(columns, values, strict=True))


def _parse_limits(
    row: Mapping[str, str], columns: Mapping[str, tuple[Kind, str]]
) -> dict[tuple[Kind, str], int]:
    limits: dict[tuple[Kind, str], int] = {}
    for column, (kind, key) in columns.items():
        text = row[column].strip()
        if not key:
            limits |= {(kind, name): amount for name, amount in _parse_tres(text).items()}
        elif key == "wall":
            if (seconds := parse_limit_s(text)) is not None:
                limits[kind, key] = seconds
        elif text.isdigit():
            limits[kind, key] = int(text)
    return limits


def _parse_tres(text: str) -> dict[str, int]:
    """Return amounts by TRES: 'cpu=64,gres/gpu:h100=2,mem=100G'."""
    found = {}
    for name, value in re.findall(r"(?:^|,)([^=,]+)=([^=,]+)", text):
        amount = parse_memory_mb(value) if name == "mem" else _parse_whole(value)
        if amount is not None:
            found[name] = amount
    return found


def _parse_whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def find_bounds(
    accounting: Accounting, resources: JobResources, partition_qos: str = ""
) -> list[Bound]:
    """Return the limits of accounting that hold for a job."""
    association = accounting.find_association(resources)
    account = association.account if association else ""
    name = accounting.find_qos(resources)
    own = accounting.qos.get(name)
    ordered = [accounting.qos.get(partition_qos), own]
    if own and own.over_partition:
        ordered.reverse()
    first: dict[tuple[Kind, str], Bound] = {}
    for qos in filter(None, ordered):
        is_default = qos.name == name and not resources.qos
        for (kind, key), limit in qos.limits.items():
            accounts = frozenset([account] if kind == "account" else [])
            bound = Bound(kind, f"QOS {qos.name}", key, limit, qos.name, accounts, is_default)
            first.setdefault((kind, key), bound)
    if association is None:
        return list(first.values())
    bounds = dict(first)
    is_default = not resources.account
    for (kind, key), limit in association.limits.items():
        # Of jobs, a QOS's limit for each account comes before the association's.
        overridden = kind == "user" and ("account", key) in first
        if kind != "group" and not overridden:
            accounts = frozenset([account] if kind == "user" else [])
            source = f"account {account}"
            bound = Bound(kind, source, key, limit, "", accounts, is_default)
            bounds.setdefault((kind, key), bound)
    found = list(bounds.values())
    levels = [(f"your association with account {account}", association, frozenset([account]))]
    above = accounting.accounts.get(account)
    while above is not None and len(levels) <= len(accounting.accounts):
        below = accounting.list_below(above.account)
        levels.append((f"account {above.account}", above, below))
        above = accounting.accounts.get(above.parent)
    for source, row, accounts in levels:
        for (kind, key), limit in row.limits.items():
            if kind == "group" and (kind, key) not in first:
                found.append(Bound(kind, source, key, limit, "", accounts, is_default))
    return found


FindBounds = Callable[[JobResources], Sequence[Bound]]
"""What finds the limits that hold for a job."""


@dataclass(frozen=True)
class Excess:
    """A limit that some jobs go over."""

    bound: Bound
    requests: tuple[JobRequest, ...]
    """Those that it counts."""

    @property
    def total(self) -> int:
        return sum_up(self.requests, self.bound.key)

    def __str__(self) -> str:
        key = self.bound.key
        if key == "jobs":
            jobs = " + ".join(map(str, self.requests))
            return f"{jobs}: {format_amount(key, self.total)} > {self.bound}"
        parts = [f"{each} {format_amount(key, sum_up([each], key))}" for each in self.requests]
        return f"{' + '.join(parts)} > {self.bound}"


def group_by_bound(
    requests: Sequence[JobRequest], find_bounds: FindBounds
) -> dict[Bound, list[JobRequest]]:
    """Return the jobs that count against each limit."""
    counted: dict[Bound, list[JobRequest]] = {}
    for request in requests:
        for bound in find_bounds(request.resources):
            if request.amounts.get(bound.key):
                counted.setdefault(bound, []).append(request)
    return counted


def find_excesses(requests: Sequence[JobRequest], find_bounds: FindBounds) -> list[Excess]:
    """Return the limits that these jobs go over, each alone or all at once."""
    found = []
    for bound, counted in group_by_bound(requests, find_bounds).items():
        if bound.kind == "job":
            alone = (Excess(bound, (replace(each, count=1),)) for each in counted)
            found += [excess for excess in alone if excess.total > bound.limit]
        elif bound.key not in NOT_ADDED and sum_up(counted, bound.key) > bound.limit:
            found.append(Excess(bound, tuple(counted)))
    return found


def check_limits(
    needed: Sequence[Sequence[JobRequest]],
    wanted: Sequence[JobRequest],
    find_bounds: FindBounds,
    running: Sequence[RunningJob] = (),
    *,
    is_filtered: bool = False,
    other_qos: Sequence[str] = (),
) -> Iterator[Check]:
    """Check whether each group of jobs that `needed` each other can run at once, and all that are
    `wanted` at once.

    `running` are this user's other jobs; `is_filtered` says that the site's own filter may choose
    another account or QOS than the default; `other_qos` are the names to choose from.
    """
    excesses: dict[Bound, tuple[Excess, Sequence[JobRequest]]] = {}
    waits: dict[Bound, int] = {}
    for requests in needed:
        for excess in find_excesses(requests, find_bounds):
            known = excesses.get(excess.bound)
            if known is None or known[0].total < excess.total:
                excesses[excess.bound] = excess, requests
        for bound, counted in group_by_bound(requests, find_bounds).items():
            used = bound.count(running)
            if bound.limit - used < sum_up(counted, bound.key) <= bound.limit:
                waits[bound] = used
    said = {}
    for excess, requests in excesses.values():
        hint = describe_remedy(excess, requests, find_bounds, other_qos)
        doubt = " (unless the site's submit filter chooses another account or QOS)"
        doubtful = is_filtered and excess.bound.is_default
        make = warning if doubtful else failed
        said[str(excess)] = make("limits", f"{excess}{doubt if doubtful else ''}", hint)
    yield from said.values()
    for bound, used in waits.items():
        text = f"of {bound} other jobs of yours have {format_amount(bound.key, used)} now"
        yield warning("limits", text, "the sweep waits until enough of them have ended")
    if not excesses:
        tightest: dict[str, Excess] = {}
        for excess in find_excesses(wanted, find_bounds):
            key = excess.bound.key.partition(":")[0]
            if key not in tightest or excess.bound.limit < tightest[key].bound.limit:
                tightest[key] = excess
        for excess in tightest.values():
            yield warning(
                "limits", f"all at once, {excess}", "fewer run at a time: it takes longer"
            )


def check_submission(
    servers: Sequence[JobRequest],
    arrays: Sequence[JobRequest],
    find_bounds: FindBounds,
) -> Iterator[Check]:
    """Check whether the queue takes the jobs: each task of an array counts as one. Servers are
    submitted first, then one array after the other."""
    for bound, counted in group_by_bound([*servers, *arrays], find_bounds).items():
        if bound.key != "submit":
            continue
        own = sum(each.count for each in counted if each in servers)
        largest = max((each.count for each in counted if each in arrays), default=0)
        total = sum(each.count for each in counted)
        jobs = f"{pluralise(own, 'server')} and " if own else ""
        if own + largest > bound.limit:
            room = bound.limit - own
            hint = "ask the site for more"
            if largest and room >= 2:
                hint = f"write max_array_size: {room} in the profile; the same command then "
                hint += "submits one array after the other, whenever one has ended"
            array = f"an array of {pluralise(largest, 'cell')}"
            yield failed("limits", f"{jobs}{array} > {bound}", hint)
        elif total > bound.limit:
            hint = "what is refused is submitted by the same command when jobs have ended"
            cells = pluralise(total - own, "cell")
            yield warning("limits", f"{jobs}{cells}, each a job, > {bound}", hint)


def describe_remedy(
    excess: Excess,
    requests: Sequence[JobRequest],
    find_bounds: FindBounds,
    other_qos: Sequence[str] = (),
) -> str:
    """Return what would make the jobs fit."""
    bound, ways = excess.bound, []
    servers = [each for each in excess.requests if each.who != CELL]
    if bound.key.startswith("gres/"):
        if len(servers) <= bound.limit:
            fewer = _share_out(bound.limit, servers)
            ways.append(f"give them fewer cards (tensor_parallel): {fewer}")
        elif len(servers) > 1:
            ways.append(
                "use placement: together with tensor_parallel: 1 and gpu_memory_utilization: 0.45 "
                "of both (both models on one card)"
            )
    elif bound.key == "jobs" and len(servers) > 1 and bound.limit > 1:
        ways.append("use placement: together, by which both servers are one job")
    elif bound.key == "wall":
        ways.append(f"write time: {bound.limit // 60} or less in the profile")
    elif bound.key in ("cpu", "mem"):
        ways.append(f"lower {bound.key.replace('cpu', 'cpus')} in the profile")
    fitting = [
        name for name in other_qos if not find_excesses(_set_qos(requests, name), find_bounds)
    ]
    if fitting and bound.qos:
        ways.append(f"set qos: {' or '.join(fitting)} in the profile")
    return ", or ".join(ways) or "ask the site for more"


def _share_out(cards: int, servers: Sequence[JobRequest]) -> str:
    """Return cards that the servers may have, in powers of two: models are split evenly."""
    shares = {server.who: 1 for server in servers}
    key = next(key for key in servers[0].amounts if key.startswith("gres/"))
    grown = True
    while grown:
        grown = False
        for server in servers:
            share = shares[server.who]
            if sum(shares.values()) + share <= cards and 2 * share <= server.amounts[key]:
                shares[server.who], grown = 2 * share, True
    return ", ".join(f"{who} {share}" for who, share in shares.items())


def _set_qos(requests: Sequence[JobRequest], qos: str) -> list[JobRequest]:
    return [
        replace(each, resources=each.resources.model_copy(update={"qos": qos})) for each in requests
    ]
