"""The lines of a shell that submit what is missing of a run, in order. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from emobench.core.job_id import get_queue_id
from emobench.core.output import quote_words
from emobench.core.plan import Plan, get_server_name, list_needed_servers
from emobench.scheduler.interface import JobState, Phase, is_live
from emobench.scheduler.render import (
    CLEANUP_SCRIPT,
    build_server_arguments,
    find_first_pair,
    format_array_option,
    has_cleanup,
    name_array_script,
    name_pair_script,
    name_server_script,
)
from emobench.store.hosted_keys import list_key_variables
from emobench.store.jobs import JobKind, JobRecord


def find_waiting_servers(
    jobs: Sequence[JobRecord], states: Mapping[str, JobState]
) -> dict[str, str]:
    """Return the job id by server of which no replica has started yet: of the first in the queue.

    An array can begin with one replica, and Slurm cannot be told to wait for any one of several.
    """
    started = _find_started_servers(jobs, states)
    waiting: dict[str, str] = {}
    for job in jobs:
        server, state = get_server_name(job.name), states.get(job.job_id)
        if job.kind is JobKind.SERVER and is_live(state) and server not in started:
            waiting.setdefault(server, get_queue_id(job.job_id))
    return waiting


def _find_started_servers(jobs: Sequence[JobRecord], states: Mapping[str, JobState]) -> set[str]:
    return {
        get_server_name(job.name)
        for job in jobs
        if job.kind is JobKind.SERVER
        and (state := states.get(job.job_id)) is not None
        and state.phase is Phase.STARTED
    }


def format_sbatch_lines(
    plan: Plan,
    scripts: Path,
    missing: Mapping[str, Sequence[int]],
    servers: Sequence[str],
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
) -> Iterator[str]:
    """Yield the lines for `servers` (instances) and the cells `missing` by block.

    `scripts` is the scripts' folder as a person would type it; `jobs` are the run's, for whose
    servers the arrays wait too, and `states` what the queue says of them.
    """
    names = _Names()
    # sbatch hands on the whole environment, and Slurm keeps it: the jobs read keys from a file.
    withheld = "".join(f" -u {name}" for name in list_key_variables(plan.sweep))
    sbatch = f"env{withheld} sbatch " if withheld else "sbatch "
    dependencies = find_waiting_servers(jobs, states)
    started = _find_started_servers(jobs, states)
    if pair := find_first_pair(plan, servers):
        variable = names.choose("servers")
        script = quote_words([scripts / name_pair_script(pair[1])])
        yield f"{variable}=$({sbatch}--parsable {script})"
        # Both parts begin with the first.
        dependencies |= {name: f"${variable}" for name in pair if name not in started}
    for instance in servers:
        if instance in pair:
            continue
        variable = names.choose(instance)
        command = ["--parsable", str(scripts / name_server_script(get_server_name(instance)))]
        yield f"{variable}=$({sbatch}{quote_words([*command, *build_server_arguments(instance)])})"
        if get_server_name(instance) not in started:
            dependencies.setdefault(get_server_name(instance), f"${variable}")
    arrays = []
    for block in plan.blocks:
        if not (cells := missing.get(block.name)):
            continue
        needed = list_needed_servers(block.assistant)
        after = dict.fromkeys(dependencies[name] for name in needed if name in dependencies)
        options = f"--dependency=after:{':'.join(after)} " if after else ""
        command = [
            format_array_option(plan, block, cells),
            str(scripts / name_array_script(block.name)),
        ]
        arrays.append(names.choose(f"run_{block.name}"))
        yield f"{arrays[-1]}=$({sbatch}--parsable {options}{quote_words(command)})"
    if arrays and has_cleanup(plan):
        ids = ":".join(f"${variable}" for variable in arrays)
        yield f"{sbatch}--dependency=afterany:{ids} {quote_words([scripts / CLEANUP_SCRIPT])}"


class _Names:
    """Variables of the shell: a name's safe characters, numbered where two are alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def choose(self, name: str) -> str:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        number = next(n for n in range(1, 10_000) if self._format_name(plain, n) not in self._taken)
        self._taken.add(self._format_name(plain, number))
        return self._format_name(plain, number)

    @staticmethod
    def _format_name(plain: str, number: int) -> str:
        return plain if number == 1 else f"{plain}_{number}"
