"""What this site's Slurm says of itself, and whether a profile's jobs fit it. Submits nothing."""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.errors import suggest_nearest
from emobench.core.site_check import Check, failed, ok, skipped, warning
from emobench.scheduler.render import parse_limit_s
from emobench.scheduler.slurm_commands import find_advice, run_command

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


@dataclass
class Site:
    """What could be asked. Empty where a command is missing or failed."""

    config: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, list[Nodes]] = field(default_factory=dict)
    associations: list[tuple[str, str, frozenset[str]]] | None = None
    """(account, partition or '', QOS) of this user; None where nothing says."""


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
    site = _ask(output)
    version = site.config.get("SLURM_VERSION", "of unknown version")
    yield ok("controller", f"{site.config.get('ClusterName', '?')}, Slurm {version}")
    yield _check_array_size(profile, site)
    for kind in ("user_server", "assistant_server", "array"):
        yield from _check_job(kind, getattr(profile, kind), profile, site)


def ask_site() -> Site | None:
    """Return what this machine's Slurm says of itself; None where there is none that answers."""
    if any(shutil.which(name) is None for name in NEEDED):
        return None
    output, _ = run_command(["scontrol", "show", "config"])
    return None if output is None else _ask(output)


def _ask(config: str) -> Site:
    site = Site(config=dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", config, re.MULTILINE)))
    output, _ = run_command(["scontrol", "--oneliner", "--all", "show", "partition"])
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in (output or "").splitlines()]
    site.partitions = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    output, _ = run_command(["sinfo", "--noheader", "--all", "--exact", "-o", "%R|%c|%m|%G"])
    nodes: dict[str, list[Nodes]] = {}
    for line in (output or "").splitlines():
        partition, cpus, memory, gres = (*line.split("|", 3), "", "", "")[:4]
        group = Nodes(gres.strip(), _parse_whole(cpus), _parse_whole(memory))
        nodes.setdefault(partition, []).append(group)
    site.nodes = nodes
    format_ = "format=account,partition,qos"
    user = f"user={getpass.getuser()}"
    if shutil.which("sacctmgr"):
        output, _ = run_command(["sacctmgr", "-nP", "show", "assoc", user, format_])
        if output is not None:
            fields = [(*line.split("|"), "", "")[:3] for line in output.splitlines() if line]
            site.associations = [(a, p, frozenset(q.split(","))) for a, p, q in fields]
    return site


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
        *_check_account(kind, job, site),
        *_check_gres(kind, job, profile, site),
    ]
    yield from before
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
        longest = parse_limit_s(known.get("MaxTime"))
        wanted = parse_limit_s(job.time)
        if job.time is None:
            yield ok(f"{kind}.time", f"none: the site's, {known.get('DefaultTime', '?')}")
        elif longest is not None and (wanted is None or wanted > longest):
            hint = f"write {known['MaxTime']} or less"
            said = f"{job.time}, but {partition} ends jobs after {known['MaxTime']}"
            yield failed(f"{kind}.time", said, hint)
        else:
            yield ok(f"{kind}.time", f"{job.time} of {known.get('MaxTime', '?')} in {partition}")


def list_partition_names(job: JobResources, site: Site) -> list[str]:
    """Return the partitions that a job may run in."""
    if job.partition is not None:
        return job.partition.split(",")
    return [n for n, p in site.partitions.items() if p.get("Default") == "YES"]


def _check_account(kind: str, job: JobResources, site: Site) -> Iterator[Check]:
    asked = [(word, value) for word in ("account", "qos") if (value := getattr(job, word))]
    enforced = site.config.get("AccountingStorageEnforce", "none") not in ("", "none", "(null)")
    if site.associations is None:
        if asked:
            yield skipped(f"{kind}.account", "sacctmgr does not say which accounts you have")
        return
    accounts = sorted({account for account, _, _ in site.associations})
    problem = failed if enforced else warning
    if not accounts:
        said = "you have no account in Slurm's accounting"
        yield problem(f"{kind}.account", said, "ask the site for one")
        return
    rows = site.associations
    for word, value in asked:
        if word == "account":
            rows = [row for row in rows if row[0] == value]
            allowed: Sequence[str] = accounts
        else:
            allowed = sorted({qos for row in rows for qos in row[2] if qos})
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
