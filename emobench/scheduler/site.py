"""What this site's Slurm says of itself, and whether a profile's jobs fit it. Submits nothing."""

from __future__ import annotations

import getpass
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.errors import suggest_nearest
from emobench.core.models import VllmModel
from emobench.core.plan import USER_SERVER, Plan, get_server_name, list_servers
from emobench.core.site_check import Check, failed, ok, skipped, warning
from emobench.scheduler.job_request import (
    JobRequest,
    list_needed_at_once,
    list_wanted_at_once,
    place_planned_servers,
    request_cell,
    request_servers,
    request_typical,
)
from emobench.scheduler.limits import (
    ASSOCIATION_COLUMNS,
    QOS_COLUMNS,
    RUNNING_COLUMNS,
    Accounting,
    Bound,
    RunningJob,
    check_limits,
    check_submission,
    find_bounds,
    parse_associations,
    parse_qos,
    parse_running,
)
from emobench.scheduler.render import parse_limit_s
from emobench.scheduler.reservations import Reservation, check_reservation, parse_reservations
from emobench.scheduler.slurm_commands import (
    COMMAND_TIMEOUT_S,
    WITH_EPOCH_TIMES,
    find_advice,
    run_command,
)

PLAN_PATIENCE_S = 20.0
"""How long a submission waits for what the site says of its limits."""
HOSTS_PATIENCE_S = 5.0
NEEDED = ("sbatch", "squeue", "scontrol", "scancel")
USEFUL = {
    "sacct": "states and accelerator-hours of ended jobs come from emobench's own records then",
    "sinfo": "partitions and GRES cannot be checked",
    "srun": "servers over several nodes need it",
}


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike."""

    gres: str
    cpus: int
    memory_mb: int
    count: int = 1


@dataclass
class Site:
    """What could be asked. Empty where a command is missing or failed."""

    config: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, list[Nodes]] = field(default_factory=dict)
    accounting: Accounting | None = None
    """None where nothing says."""
    reservations: Sequence[Reservation] = ()
    running: Sequence[RunningJob] = ()
    """Jobs of this user that run."""

    @property
    def enforces_limits(self) -> bool:
        """Whether jobs that go over a limit of accounting wait or are refused."""
        words = self.config.get("AccountingStorageEnforce", "").lower().split(",")
        return not {"limits", "safe", "all"}.isdisjoint(words)

    @property
    def is_filtered(self) -> bool:
        """Whether a plugin of the site may change what a job asks for."""
        plugins = (self.config.get(f"{name}Plugins", "") for name in ("JobSubmit", "CliFilter"))
        return any(plugin not in ("", "(null)") for plugin in plugins)

    def list_qos(self) -> list[str]:
        """Return the names of the QOS that this user may choose."""
        own = self.accounting.own if self.accounting else ()
        return sorted({qos for row in own for qos in row.qos})

    def find_bounds(self, resources: JobResources) -> list[Bound]:
        """Return the limits that hold for a job: of accounting, and of its partition's size. Of
        one that may run in several partitions nothing is said of them."""
        names = list_partition_names(resources, self)
        partition = names[0] if len(names) == 1 else ""
        bounds: list[Bound] = []
        if self.accounting is not None and self.enforces_limits:
            qos = self.partitions.get(partition, {}).get("QoS", "")
            bounds += find_bounds(self.accounting, resources, "" if qos == "N/A" else qos)
        groups = self.nodes.get(partition, [])
        totals: Counter[str] = Counter()
        nodes = 0
        for group in groups:
            nodes += group.count
            totals["cpu"] += group.cpus * group.count
            types = parse_gres_names(group.gres)
            for name in {*types, *(each.partition(":")[0] for each in types)}:
                totals[f"gres/{name}"] += count_cards(group.gres, name) * group.count
        source = f"partition {partition}"
        bounds += [Bound("job", source, "node", nodes)] if nodes else []
        return [*bounds, *(Bound("group", source, key, n) for key, n in totals.items() if n)]


def check_slurm(profile: ClusterProfile) -> Iterator[Check]:
    """Check commands, controller, array size, and each kind of job of a profile."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        yield failed(
            "commands",
            f"not found: {', '.join(lacking)}",
            "run this on a login node (perhaps after `module load slurm`), or use --cluster local",
        )
        yield skipped("slurm", "no Slurm here")
        return
    found = [*NEEDED, *(name for name in USEFUL if shutil.which(name))]
    yield ok("commands", ", ".join(found))
    for name, loss in USEFUL.items():
        if name not in found:
            yield warning("commands", f"no {name}", loss)
    output, error = run_command(["scontrol", "show", "config"])
    if output is None:
        said = (error.strip().splitlines() or ["no answer"])[-1]
        yield failed("controller", said, "is Slurm up? try `sinfo`; is SLURM_CONF right?")
        yield skipped("slurm", "the controller does not answer")
        return
    site = _ask(output, _Asker(float("inf")))
    version = site.config.get("SLURM_VERSION", "of unknown version")
    yield ok("controller", f"{site.config.get('ClusterName', '?')}, Slurm {version}")
    yield _check_array_size(profile, site)
    for kind in ("user_server", "assistant_server", "array"):
        yield from _check_job(kind, getattr(profile, kind), profile, site)
    yield from _check_site_limits(profile, site)


def check_plan(
    plan: Plan, servers: Sequence[str], missing: Mapping[str, Sequence[int]], own: Collection[str]
) -> Iterator[Check]:
    """Check what `Scheduler.check_plan` says; nothing where Slurm or its accounting is silent."""
    site = ask_site(PLAN_PATIENCE_S)
    if site is None:
        return
    profile, models = plan.profile, list_servers(plan.sweep)
    kinds = {_find_kind(name): name for name in models}
    for kind in (*kinds, "array"):
        job = getattr(profile, kind)
        loads = any(
            isinstance(model, VllmModel)
            for name, model in models.items()
            if _find_kind(name) == kind
        )
        checks = [*check_time(kind, job, site), *_check_reservations(kind, job, site)]
        yield from [*checks, *(check_load(kind, job, profile, site) if loads else ())]
    needed, wanted = list_needed_at_once(plan), list_wanted_at_once(plan)
    others = [job for job in site.running if job.job_id not in own]
    yield from _check_limits(site, needed, wanted, others)
    requests = request_servers(plan)
    submitted = Counter(get_server_name(name) for name in servers)
    arrays = [request_cell(profile.array, len(cells)) for cells in missing.values() if cells]
    yield from check_submission(
        place_planned_servers(plan, [replace(requests[n], count=k) for n, k in submitted.items()]),
        arrays,
        site.find_bounds,
    )


def _check_limits(
    site: Site,
    needed: Sequence[Sequence[JobRequest]],
    wanted: Sequence[JobRequest],
    running: Sequence[RunningJob],
) -> Iterator[Check]:
    filtered, others = site.is_filtered, site.list_qos()
    yield from check_limits(
        needed, wanted, site.find_bounds, running, is_filtered=filtered, other_qos=others
    )


def _find_kind(server: str) -> str:
    """Return the key of the profile that a server's job has its resources from."""
    return "user_server" if server == USER_SERVER else "assistant_server"


def ask_site(patience_s: float = float("inf")) -> Site | None:
    """Return what this machine's Slurm says of itself; None where there is none that answers. What
    it does not say within `patience_s` seconds is left out."""
    if any(shutil.which(name) is None for name in NEEDED):
        return None
    ask = _Asker(patience_s)
    output = ask("scontrol", "show", "config")
    return None if output is None else _ask(output, ask)


class _Asker:
    """Asks Slurm's commands, for so many seconds in all."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = time.monotonic() + patience_s

    def __call__(self, *command: str) -> str | None:
        """Return what a command prints; None where it fails, hangs or there is no time left."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0 or shutil.which(command[0]) is None:
            return None
        return run_command(command, min(left_s, COMMAND_TIMEOUT_S))[0]


def _ask(config: str, ask: _Asker) -> Site:
    site = Site(config=dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", config, re.MULTILINE)))
    output = ask("scontrol", "--oneliner", "--all", "show", "partition") or ""
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in output.splitlines()]
    site.partitions = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    output = ask("sinfo", "--noheader", "--all", "--exact", "-o", "%R|%c|%m|%G|%D") or ""
    nodes: dict[str, list[Nodes]] = {}
    for line in output.splitlines():
        partition, cpus, memory, gres, count = (*line.split("|", 4), "", "", "", "")[:5]
        group = Nodes(
            gres.strip(), _parse_whole(cpus), _parse_whole(memory), _parse_whole(count) or 1
        )
        nodes.setdefault(partition, []).append(group)
    site.nodes = nodes
    user = getpass.getuser()
    site.accounting = _ask_accounting(user, site.config.get("ClusterName", ""), ask)
    accounts = {row.account for row in site.accounting.own} if site.accounting else set()
    output = ask(*WITH_EPOCH_TIMES, "scontrol", "--oneliner", "show", "reservation") or ""
    site.reservations = parse_reservations(output, user, accounts)
    columns = ",".join(f"{name}:{width}" for name, width in RUNNING_COLUMNS.items())
    asked = ["--noheader", f"--user={user}", "--states=RUNNING", f"--Format={columns}"]
    site.running = parse_running(ask("squeue", *asked) or "")
    return site


def _ask_accounting(user: str, cluster: str, ask: _Asker) -> Accounting | None:
    """Return what sacctmgr says of a user; None where it does not say who may do what."""
    show = ["sacctmgr", "-nP", "show"]
    columns = f"format={','.join(ASSOCIATION_COLUMNS)}"
    there = [f"cluster={cluster}"] if cluster else []
    own = ask(*show, "assoc", f"user={user}", *there, columns)
    if own is None:
        return None
    accounts = parse_associations(ask(*show, "assoc", "user=", *there, columns) or "")
    qos = parse_qos(ask(*show, "qos", f"format={','.join(QOS_COLUMNS)}") or "")
    default = (ask(*show, "user", user, "format=defaultaccount") or "").strip()
    rows = parse_associations(own)
    return Accounting(rows, {row.account: row for row in accounts if not row.user}, qos, default)


def _check_array_size(profile: ClusterProfile, site: Site) -> Check:
    site_size, own = _parse_whole(site.config.get("MaxArraySize", "")), profile.max_array_size
    if site_size and own and own > site_size:
        hint = f"write max_array_size: {site_size}, or leave it out: it is asked then"
        return failed("max_array_size", f"{own}, but the site's is {site_size}", hint)
    if 0 < site_size < 2:
        return failed("max_array_size", "this site allows no job arrays", "ask its staff")
    if not site_size and not own:
        return failed("max_array_size", "Slurm does not say it", "set max_array_size")
    return ok("max_array_size", f"{own or site_size} cells in one array")


def _check_job(
    kind: str, job: JobResources, profile: ClusterProfile, site: Site
) -> Iterator[Check]:
    before: list[Check] = [
        *_check_partitions(kind, job, site),
        *check_time(kind, job, site),
        *_check_account(kind, job, site),
        *_check_gres(kind, job, profile, site),
    ]
    yield from before
    if isinstance(job, ServerResources) and profile.accelerator != "none":
        yield from check_load(kind, job, profile, site)
    yield from _check_reservations(kind, job, site)
    if any(check.state == "failed" for check in before):
        yield skipped(f"{kind}: sbatch", "see above")
    else:
        yield _test_submission(kind, job)


def _check_partitions(kind: str, job: JobResources, site: Site) -> Iterator[Check]:
    name = f"{kind}.partition"
    if not site.partitions:
        yield skipped(name, "scontrol lists no partition")
        return
    there = ", ".join(site.partitions)
    if job.partition is None:
        default = [n for n, p in site.partitions.items() if p.get("Default") == "YES"]
        if default:
            yield ok(name, f"none: the site's default, {default[0]}")
        else:
            yield failed(name, "none, and the site has no default", f"one of: {there}")
    for partition in list_partition_names(job, site):
        known = site.partitions.get(partition)
        if known is None:
            guess = suggest_nearest(partition, site.partitions)
            hint = f"{guess} There are: {there}".strip()
            yield failed(name, f"this site has no partition {partition}", hint)
            continue
        if known.get("State", "UP") != "UP":
            yield failed(name, f"{partition} is {known['State']}", "ask the site, or take another")
        elif job.partition is not None:
            yield ok(name, partition)


def check_time(kind: str, job: JobResources, site: Site) -> Iterator[Check]:
    """Check a time limit against the partitions': a job that may run in several needs one."""
    name, wanted = f"{kind}.time", parse_limit_s(job.time)
    partitions = {
        p: site.partitions[p] for p in list_partition_names(job, site) if p in site.partitions
    }
    if job.time is None:
        for known in partitions.values():
            yield ok(name, f"none: the site's, {known.get('DefaultTime', '?')}")
        return
    longest = {p: parse_limit_s(known.get("MaxTime")) for p, known in partitions.items()}
    short = {p for p, most in longest.items() if most is not None and (wanted or most + 1) > most}
    refused = short == set(longest) or site.config.get("EnforcePartLimits", "NO") in ("ALL", "YES")
    for partition, known in partitions.items():
        most = known.get("MaxTime", "?")
        if partition in short:
            said = f"{job.time}, but {partition} ends jobs after {most}"
            yield (failed if refused else warning)(name, said, f"write {most} or less")
        else:
            yield ok(name, f"{job.time} of {most} in {partition}")


def check_load(
    kind: str, job: JobResources, profile: ClusterProfile, site: Site
) -> Iterator[Check]:
    """Warn where a server's time limit is over before it has to answer."""
    deadline_s = profile.server_deadline_min * 60
    for partition in list_partition_names(job, site):
        known = site.partitions.get(partition, {})
        default = parse_limit_s(known.get("DefaultTime")) or parse_limit_s(known.get("MaxTime"))
        limit_s = parse_limit_s(job.time) if job.time is not None else default
        if limit_s is not None and limit_s <= deadline_s:
            said = f"{partition} ends a server after {limit_s / 60:g} minutes, and it may take "
            said += f"{profile.server_deadline_min:g} (server_deadline_min) to load its model"
            hint = f"give {kind} more time, or lower server_deadline_min if its model loads faster"
            yield warning(f"{kind}.time", said, hint)


def _check_reservations(kind: str, job: JobResources, site: Site) -> Iterator[Check]:
    if not site.reservations:
        return
    for partition in list_partition_names(job, site):
        nodes = _list_hosts(site.partitions.get(partition, {}).get("Nodes", ""))
        for reservation in site.reservations:
            if nodes and nodes <= _list_hosts(reservation.nodes):
                name = f"{kind}.partition"
                found = check_reservation(name, job, partition, reservation, time.time())
                yield from [found] if found else []


@cache
def _list_hosts(hosts: str) -> frozenset[str]:
    output, _ = run_command(["scontrol", "show", "hostnames", hosts], HOSTS_PATIENCE_S)
    return frozenset((output or "").split())


def _check_site_limits(profile: ClusterProfile, site: Site) -> Iterator[Check]:
    """Check whether the smallest sweep with two servers fits the limits of accounting."""
    needed = request_typical(profile)
    found = list(_check_limits(site, [needed], [], site.running))
    yield from found
    if found:
        return
    if site.accounting is None or not site.enforces_limits:
        why = "sacctmgr does not say them" if site.accounting is None else "the site enforces none"
        yield skipped("limits", why)
    else:
        yield ok("limits", "a user's server, an assistant's and a cell may run at once")


def list_partition_names(job: JobResources, site: Site) -> list[str]:
    """Return the partitions that a job may run in."""
    if job.partition is not None:
        return job.partition.split(",")
    return [n for n, p in site.partitions.items() if p.get("Default") == "YES"]


def _check_account(kind: str, job: JobResources, site: Site) -> Iterator[Check]:
    asked = [(word, value) for word in ("account", "qos") if (value := getattr(job, word))]
    enforced = site.config.get("AccountingStorageEnforce", "none") not in ("", "none", "(null)")
    if site.accounting is None:
        if asked:
            yield skipped(f"{kind}.account", "sacctmgr does not say which accounts you have")
        return
    rows = site.accounting.own
    accounts = sorted({row.account for row in rows})
    problem = failed if enforced else warning
    if not accounts:
        said = "you have no account in Slurm's accounting"
        yield problem(f"{kind}.account", said, "ask the site for one")
        return
    for word, value in asked:
        if word == "account":
            rows = [row for row in rows if row.account == value]
            allowed: Sequence[str] = accounts
        else:
            allowed = sorted({qos for row in rows for qos in row.qos})
        if value in allowed:
            yield ok(f"{kind}.{word}", value)
        else:
            there = ", ".join(allowed) or "none"
            said = f"{value} is none of yours" + ("" if enforced else " (the site does not check)")
            hint = f"{suggest_nearest(value, allowed)} You have: {there}".strip()
            yield problem(f"{kind}.{word}", said, hint)


def _check_gres(
    kind: str, job: JobResources, profile: ClusterProfile, site: Site
) -> Iterator[Check]:
    if not isinstance(job, ServerResources):
        return
    name = f"{kind}.gres"
    if job.gres is None:
        if profile.accelerator != "none":
            hint = "`sinfo -o '%P %G'` lists them; without one the job gets no card"
            yield warning(name, f"none, though the accelerator is {profile.accelerator}", hint)
        return
    groups = [
        group
        for partition in list_partition_names(job, site)
        for group in site.nodes.get(partition, [])
    ]
    if not groups:
        yield skipped(name, "sinfo lists no node of the partition")
        return
    counts = [count_cards(group.gres, job.gres) for group in groups]
    if any(counts):
        yield ok(name, f"{job.gres}, up to {max(counts)} on a node")
        return
    there = sorted({gres for group in groups for gres in parse_gres_names(group.gres)})
    hint = f"{suggest_nearest(job.gres, there)} They have: {', '.join(there) or 'none'}".strip()
    yield failed(name, f"no node of {job.partition or 'the partition'} has {job.gres}", hint)


def parse_gres_names(listed: str) -> list[str]:
    """Return the names, without counts, in sinfo's list: 'gpu:h100:2(S:0-1),hpu:8' -> gpu:h100,
    hpu."""
    plain = re.sub(r"\([^)]*\)", "", listed)
    return [re.sub(r":\d+[KMG]?$", "", item) for item in plain.split(",") if item]


def count_cards(listed: str, wanted: str) -> int:
    """Return how many of a GRES one node has; a name without a type counts every type."""
    total = 0
    for item in re.sub(r"\([^)]*\)", "", listed).split(","):
        match = re.fullmatch(r"(.+?)(?::(\d+))?", item)
        if match and (match[1] == wanted or match[1].startswith(f"{wanted}:")):
            total += int(match[2] or 1)
    return total


def _test_submission(kind: str, job: JobResources) -> Check:
    """Ask sbatch itself, which also knows the site's own rules; nothing is queued."""
    options = {
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "cpus-per-task": job.cpus,
        "mem": job.mem,
        "time": job.time,
        "gres": f"{job.gres}:1" if isinstance(job, ServerResources) and job.gres else None,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = ["sbatch", "--test-only", *given, *job.sbatch, "--wrap=true"]
    output, said = run_command(command)
    name = f"{kind}: sbatch"
    if output is not None:
        return ok(name, "would take the job" + (" (with one card)" if options["gres"] else ""))
    said = " ".join(said.split()) or "no reason given"
    return failed(name, said, find_advice(said) or f"try: {' '.join(command)}")


def _parse_whole(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
