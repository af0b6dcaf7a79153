"""python -m emobench.runs.cleanup RUN_DIR: cancel servers of a run that outlived their last client.

Runs as a small job after the run's arrays. Servers leave by themselves; this is for those that
cannot: their node hangs, their supervisor is stopped, or they never got out of the queue. Nothing
is cancelled that is not in the jobs.json of this run, or of one whose servers it leased.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from emobench.core import output
from emobench.core.command_lock import Held
from emobench.core.errors import EmobenchError
from emobench.core.ownership import open_own_run_dir, require_own
from emobench.core.plan import list_instances, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import handle_stop_signals
from emobench.core.times import compute_age_s
from emobench.core.wording import pluralise
from emobench.runs.submission import submission_lock
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.demand import (
    ON_THEIR_WAY,
    RemainingCells,
    describe_lessees,
    describe_server_need,
)
from emobench.store.endpoints import locate_server
from emobench.store.jobs import JobKind, JobRecord, read_jobs

GRACE_S = 40.0
"""A server notices within 10 s that nobody is left, and gives its engine 20 s to end."""
FIRST_POLL_S, POLL_S = 1.0, 5.0
"""Most servers leave within seconds."""


@dataclass(frozen=True)
class Survey:
    """The live servers of a run at one moment."""

    free: Sequence[JobRecord]
    """Nobody needs them."""
    needed: Mapping[str, str]
    """By whom, by name."""
    awaited: bool
    """Whether one of them waits for arrays that are being submitted."""


def survey(run_dir: RunDir, schedulers: Schedulers = SCHEDULERS) -> Survey:
    """Find who of the run's servers is alive, and who needs it. Asks the queue. Raises
    InvalidInput.

    Of a server that was submitted by hand nobody knows whether more arrays will be: it is needed
    as long as a cell of it is not done.
    """
    plan = load_plan(run_dir)
    jobs = schedulers.find_all_jobs(plan, run_dir)
    recorded = {job.handle for job in read_jobs(run_dir)}
    servers = [
        job for job in jobs if job.kind is JobKind.SERVER and schedulers.find_owner(job).cleans_up
    ]
    free: list[JobRecord] = []
    kept: list[JobRecord] = []
    needed: dict[str, str] = {}
    for server in schedulers.find_live(servers):
        cells = RemainingCells(plan, run_dir, server.name)
        by_hand = server.handle not in recorded and cells.has_any_left()
        who = (
            describe_server_need(
                plan, run_dir, jobs, server, compute_age_s(server.submitted), cells, schedulers
            )
            or describe_lessees(run_dir, server.name, schedulers)
            or ("who submitted it by hand" if by_hand else "")
        )
        if who:
            needed[str(server)] = who
            kept.append(server)
        else:
            free.append(server)
    # Of servers that are one job the one that is needed keeps the other.
    return Survey(schedulers.find_free(free, kept), needed, ON_THEIR_WAY in needed.values())


def find_owners(run_dir: RunDir) -> list[RunDir]:
    """Return the runs whose servers this one leased: their own clean-up job may have ended
    before."""
    locations = [
        locate_server(run_dir, instance) for instance in list_instances(load_plan(run_dir).sweep)
    ]
    return list(dict.fromkeys(location.run_dir for location in locations if location.lease))


def clean_up(
    run_dir: RunDir,
    say: Callable[[str], None] = output.say,
    grace_s: float = GRACE_S,
    schedulers: Schedulers = SCHEDULERS,
) -> list[str]:
    """Wait until the servers that nobody needs have left, and cancel those that do not.

    Returns the names of the cancelled ones. They get `grace_s` seconds, and before that as long as
    the sweep keeps its servers (keep_servers_min). Raises EmobenchError where a job stays.
    """
    begun = time.monotonic()
    said: dict[str, str] = {}
    keeping = False
    while True:
        seen = survey(run_dir, schedulers)
        if not seen.free and not seen.awaited:
            for name, who in seen.needed.items():
                say(f"{name} stays: {who} needs it")
            say("nothing to clean up: every server that nobody needs has left")
            return []
        for name, who in seen.needed.items():
            if said.get(name) != who:
                said[name] = who
                say(f"{name} stays: {who}")
        keep_s = load_plan(run_dir).sweep.keep_servers_min * 60
        if keep_s and not keeping:
            keeping = True
            say(f"the servers are kept for {pluralise(keep_s / 60, 'minute')} (keep_servers_min)")
        waited = time.monotonic() - begun
        if seen.free and waited >= keep_s + grace_s:
            after = f"still there {waited:.0f} s after the last cell"
            try:
                with submission_lock(run_dir, say):
                    # A command may have submitted cells for them meanwhile.
                    free = survey(run_dir, schedulers).free
                    if free:
                        names = [str(job) for job in free]
                        say(f"{after}: cancelling {', '.join(names)}")
                        schedulers.cancel(free)
                        say("they are gone")
                        return names
            except Held as error:
                say(str(error))
        time.sleep(FIRST_POLL_S if waited < 3 * POLL_S else POLL_S)


def _leave(received: str) -> NoReturn:
    output.say(f"emobench cleanup: received {received}, leaving")
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0, whatever was found: there is nobody to act on another one."""
    parser = argparse.ArgumentParser(prog="python -m emobench.runs.cleanup")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    arguments = parser.parse_args(argv)
    handle_stop_signals(_leave)
    output.print_tracebacks_visibly()

    def say(text: str) -> None:
        output.say(f"{datetime.now():%H:%M:%S} emobench cleanup: {text}")

    try:
        run_dir = open_own_run_dir(arguments.run_dir)
        for each in (run_dir, *find_owners(run_dir)):
            if each != run_dir:
                require_own(each)
                say(f"servers of {each.path}, which were leased:")
            clean_up(each, say)
    except (EmobenchError, OSError) as error:
        say(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
