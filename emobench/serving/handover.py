"""A server's role passes from job to job: a successor is submitted before the time limit, and takes
the endpoint file over once it has proved itself.

Until then the successor writes a file of its own beside it. An episode goes on with another
incarnation only where the endpoint's `follows` names the one that it talked to: each of those left
in order. A crash ends that chain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from emobench.core.errors import EmobenchError
from emobench.core.files import write_json
from emobench.core.job_id import get_queue_id
from emobench.core.output import say
from emobench.core.plan import Plan
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import URGENT
from emobench.core.times import now
from emobench.llm.engine_metrics import ask_load
from emobench.scheduler.interface import OwnJob, Scheduler
from emobench.scheduler.schedulers import find_scheduler
from emobench.serving.resubmission import count_never_ready, hold_submission
from emobench.store.endpoints import Endpoint, publish, read_endpoint
from emobench.store.jobs import JobRecord, add_jobs, read_jobs

CHAIN = 50
"""Earlier incarnations that an endpoint file names."""
MAX_CHECK_S = 10.0
"""An administrator may move a job's end; Slurm is asked for it this often at least."""
MAX_SUCCESSORS = 3
"""Jobs that are submitted to take over, one after the other, while none of them comes up: by one
job, and in a row, each by the one before it."""
ANSWER_S = 20.0
"""How long a job that ends waits for a submission under way, or for its own."""
RETRY_S = 5.0
WARNED_S = 300.0
"""Slurm warns of a time limit 2 minutes before it (the scripts' --signal), or up to a minute
earlier: a warning that comes sooner than this is of something else."""
DRAIN_S = 300.0
"""For requests under way, where Slurm does not say when the job ends."""


class EndpointClaim:
    """Who writes an instance's endpoint file: its job, and from the hand-over on the successor."""

    def __init__(self, run_dir: RunDir, instance: str, job_id: str, takes_over: str) -> None:
        self._run_dir, self._instance = run_dir, instance
        self._job_id, self._takes_over = job_id, takes_over
        self._claimed = False
        self._follows: tuple[str, ...] = ()
        self._follows_of = ""
        self.lost_to = ""
        """Job id of whoever has the file instead of this job; it is not written any more."""

    def publish(self, endpoint: Endpoint) -> None:
        """Write the endpoint to where it belongs now. Raises OSError."""
        present = read_endpoint(self._run_dir, self._instance)
        other = present if present is not None and present.job_id != self._job_id else None
        if self.lost_to or self._is_lost(other):
            return
        endpoint = replace(endpoint, takes_over=self._takes_over)
        waits = not self._claimed and self._takes_over and other is not None and other.is_serving
        if waits and endpoint.state != "ready":
            file = self._run_dir.successor(self._instance)
            write_json(file, asdict(endpoint) | {"heartbeat": now()})
            if endpoint.state == "left":
                file.unlink()
            return
        if not self._claimed:
            self._claimed = True
            self._follows_of, self._follows = endpoint.incarnation, self._list_followed(present)
        follows = self._follows if endpoint.incarnation == self._follows_of else ()
        publish(self._run_dir, replace(endpoint, follows=follows))
        if self._takes_over:
            self._run_dir.successor(self._instance).unlink(missing_ok=True)

    def _is_lost(self, other: Endpoint | None) -> bool:
        """Return whether another job serves the instance in this one's place."""
        if other is None or not other.is_serving:
            return False
        beaten = self._takes_over and other.job_id != self._takes_over
        if other.takes_over == self._job_id or (beaten and not self._claimed):
            self.lost_to = other.job_id
        return bool(self.lost_to)

    def _list_followed(self, present: Endpoint | None) -> tuple[str, ...]:
        if present is None:
            return ()
        handed_over = present.job_id == self._takes_over and present.is_serving
        if present.state != "left" and not handed_over:
            return ()
        return (present.incarnation, *present.follows)[:CHAIN]


class Succession:
    """Submits the job that takes over before this one's time limit, without holding anybody up."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        instance: str,
        job_id: str,
        scheduler: Scheduler,
    ) -> None:
        self._run_dir, self._instance, self._job_id = run_dir, instance, job_id
        self._scheduler = scheduler
        minutes = plan.profile.handover_lead_min or plan.profile.server_deadline_min
        self._lead_s = minutes * 60
        self._longest_s = 0.0
        self._said = ""
        self._submitted = 0
        self._ends = False
        """Whether this job ends now, whatever the lead."""
        self.successor: JobRecord | None = None
        """The newest, as soon as there is one."""
        every_s = min(max(self._lead_s / 10, 1.0), MAX_CHECK_S)
        self._poller = Poller("the hand-over", self._step, every_s)

    def poll(self, patience_s: float = 0.0) -> None:
        """Look after it, for `patience_s` at most; to be called while the server is needed."""
        self._poller.poll(patience_s)

    def submit_now(self) -> bool:
        """Submit a successor that is not there yet; return whether nothing is left to try."""
        self._poller.wait(ANSWER_S)
        self._ends = True
        self._poller.refresh_soon()
        return bool(self._poller.poll(ANSWER_S))

    def withdraw(self) -> None:
        """Take back a successor that nothing needs: it would stay in the queue."""
        self._poller.wait(ANSWER_S)
        if self.successor is not None:
            self._scheduler.withdraw(self.successor)

    def ask(self) -> OwnJob:
        """Return what Slurm says of this job now."""
        return self._scheduler.ask_own_job()

    def _step(self) -> bool:
        """Submit a successor where it is time; return whether none is to be submitted any more."""
        own = self.ask()
        if own.preempted or self._submitted >= MAX_SUCCESSORS:
            return True
        if not self._ends and not self._is_time(own):
            return False
        if self._ends and own.end is not None and own.end - time.time() > WARNED_S:
            return True  # preempted, which Slurm's records do not say yet
        jobs = read_jobs(self._run_dir)
        if self.successor is None:
            # A job that was requeued finds the successor that it had submitted before.
            self.successor = self._find_known(jobs)
        if self.successor is not None and self._scheduler.find_live([self.successor]):
            return True
        if (tried := count_never_ready(self._run_dir, self._instance)) > MAX_SUCCESSORS:
            self._say(
                f"no successor is submitted: {tried} jobs in a row were not ready before their "
                "time limit; give the server a longer `time` in the profile, or see above why it "
                "does not come up"
            )
            return True
        return self._submit(recorded=any(job.job_id == self._job_id for job in jobs))

    def _find_known(self, jobs: Sequence[JobRecord]) -> JobRecord | None:
        """Return the newest successor on record."""
        own = [job for job in jobs if job.name == self._instance]
        return next((job for job in reversed(own) if job.takes_over == self._job_id), None)

    def _is_time(self, own: OwnJob) -> bool:
        """Return whether no more than the lead is left of this job."""
        if own.end is None:
            return False
        # Where an administrator shortens a job, its lead stays that of the limit it was given.
        self._longest_s = max(self._longest_s, own.limit_s or 0.0)
        lead_s = min(self._lead_s, self._longest_s / 2) if self._longest_s else self._lead_s
        return time.time() >= own.end - lead_s

    def _submit(self, recorded: bool) -> bool:
        """Submit a successor; return whether that was done."""
        try:
            with hold_submission(self._run_dir):
                jobs = read_jobs(self._run_dir)
                # Servers that are one job have one successor, whichever of them submits it.
                number = get_queue_id(self._job_id)
                shared = number if number != self._job_id else ""
                if shared and (known := self._find_known(jobs)):
                    self.successor = known
                    return True
                taking_over = {self._instance: self._job_id}
                taking_over |= {
                    job.name: job.job_id
                    for job in jobs
                    if shared and get_queue_id(job.job_id) == shared
                }
                submitted = self._scheduler.submit_successors(self._run_dir, taking_over)
                if recorded:
                    # One that was submitted by hand has no record, and its arrays have none either.
                    add_jobs(self._run_dir, submitted)
        except EmobenchError as error:
            self._say(f"cannot submit a successor: {error}")
            return False
        self._submitted += 1
        self.successor = next(job for job in submitted if job.name == self._instance)
        self._say(f"job {self.successor.job_id} is to take over before this one's time limit")
        return True

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            say(f"emobench: {text}")


class Handover:
    """A server's claim to its endpoint file, and its succession, for its supervisor."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, instance: str, job_id: str, takes_over: str
    ) -> None:
        self._claim = EndpointClaim(run_dir, instance, job_id, takes_over)
        scheduler = find_scheduler(plan.profile)
        self._succession = (
            Succession(plan, run_dir, instance, job_id, scheduler)
            if scheduler.hands_over()
            else None
        )

    def publish(self, endpoint: Endpoint) -> None:
        """Write the endpoint's file, unless it is another job's by now. Raises OSError."""
        self._claim.publish(endpoint)

    def explain_leaving(self) -> str:
        """Return who serves in this job's place; empty as long as it serves itself."""
        return f"handed over to job {self._claim.lost_to}" if self._claim.lost_to else ""

    def poll(self) -> None:
        """Look after the successor; to be called while the server is needed."""
        if self._succession is not None:
            self._succession.poll()

    def submit_now(
        self, stop: Callable[[], str], sleep: Callable[[float], None], grace_s: float
    ) -> None:
        """Submit the successor of a server that was warned before the hand-over's lead began; try
        again, as far as there is time. `stop` and `grace_s` as below."""
        if self._succession is None or self._claim.lost_to:
            return
        until = self._compute_stop_time(self._succession, grace_s)
        while not self._succession.submit_now() and time.time() < until and stop() not in URGENT:
            sleep(RETRY_S)

    def drain_or_withdraw(
        self,
        url: str,
        stop: Callable[[], str],
        sleep: Callable[[float], None],
        grace_s: float,
        quiet_s: float,
    ) -> None:
        """Let requests end that are under way after the last word to the clients, as far as there
        is time; or take the successor back, where nobody needs a server any more.

        `stop` names the signal that was received, `grace_s` is what the engine needs to stop.
        """
        if not stop() and not self._claim.lost_to:
            if self._succession is not None:
                self._succession.withdraw()
            return
        if self._succession is None or stop() in URGENT:
            return
        until = self._compute_stop_time(self._succession, grace_s)
        drain(url, until, sleep, lambda: stop() in URGENT, quiet_s)

    @staticmethod
    def _compute_stop_time(succession: Succession, grace_s: float) -> float:
        """Return when the engine has to be told to stop, in seconds since the epoch."""
        end = succession.ask().end or time.time() + DRAIN_S
        # An engine ends sooner than it has to.
        return end - min(grace_s, max(end - time.time(), 0) / 4)


def drain(
    url: str,
    until: float,
    sleep: Callable[[float], None],
    stopped: Callable[[], bool],
    quiet_s: float,
) -> None:
    """Wait until the engine at `url` has had no request for `quiet_s` seconds, at the latest until
    `until` (seconds since the epoch), or until `stopped()`, or until it is gone."""
    quiet_since = time.time()
    while time.time() < until and not stopped():
        try:
            load = ask_load(url)
        except OSError:
            return
        if load.running is None or load.running + (load.waiting or 0) > 0:
            quiet_since = time.time()
        elif time.time() - quiet_since >= quiet_s:
            return
        sleep(0.25)
