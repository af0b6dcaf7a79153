"""python -m emobench.serving.supervise: start one server, announce it, watch it, and leave.

Runs as the server's job, in the environment of emobench; the engine runs in its own, below this
process. Exit codes: 0 left in order, 1 failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emobench.config.capacity import count_partners
from emobench.core.errors import EmobenchError, InvalidInput
from emobench.core.files import write_bytes_atomic
from emobench.core.job_id import get_queue_id
from emobench.core.output import print_tracebacks_visibly, say, warn
from emobench.core.ownership import open_own_run_dir
from emobench.core.plan import USER_SERVER, Plan, list_servers, load_plan, name_instance
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import WARNING, handle_stop_signals
from emobench.core.times import now
from emobench.core.wording import pluralise
from emobench.llm import guard
from emobench.llm.client import Unreachable, check_health
from emobench.llm.concurrency import SETTLE_S
from emobench.scheduler.render import GUARD, name_serve_script
from emobench.scheduler.schedulers import find_scheduler
from emobench.serving.admission import Admission
from emobench.serving.canary import calls_tools
from emobench.serving.demand import QUEUE_CHECK_S, LeaseDemand, OwnDemand
from emobench.serving.engine import Engine, find_own_address
from emobench.serving.failure_diagnosis import Cause, diagnose, diagnose_slow_start, may_recover
from emobench.serving.handover import Handover
from emobench.serving.partners import look_at_partners
from emobench.serving.readiness import Readiness
from emobench.serving.resubmission import go_back_into_queue
from emobench.serving.shutdown_policy import BUDGET_CHECK_S, ShutdownPolicy
from emobench.store.endpoints import HEARTBEAT_S, Endpoint, State, load_api_key, read_endpoint
from emobench.store.events import EventLog
from emobench.store.hosted_keys import find_hosted_key, hide_keys, list_key_variables

GO_BACK_RETRY_S = 30.0
HUB_TOKEN = "HF_TOKEN"
"""The key of an endpoint at Hugging Face, and what vLLM downloads models with."""


@dataclass(frozen=True)
class Timing:
    """Seconds and counts; the tests' are shorter."""

    heartbeat_s: float = HEARTBEAT_S
    probe_s: float = 1.0
    health_s: float = 15.0
    health_timeout_s: float = 20.0
    strikes: int = 3
    """Failed health probes in a row after which a running engine counts as dead."""
    restarts: int = 3
    backoff_s: Sequence[float] = (2.0, 8.0, 30.0)
    """Before each restart; the last one counts for any further."""
    grace_s: float = 20.0
    """From SIGTERM to SIGKILL of the engine."""
    quiet_s: float = 5.0
    """Without a request for so long an engine whose work others have taken over is not needed."""
    settle_s: float = SETTLE_S
    """Between two changes of how many conversations fit."""
    queue_check_s: float = QUEUE_CHECK_S
    budget_check_s: float = BUDGET_CHECK_S


class Failed(Exception):
    """The engine cannot be brought up; the message is the endpoint's reason."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Wakeable:
    """Sleeps that end early with a signal; remembers which one asked to stop."""

    def __init__(self) -> None:
        self.stop = ""
        self._read, self._write = os.pipe()
        for descriptor in (self._read, self._write):
            os.set_blocking(descriptor, False)
        handle_stop_signals(self._note_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def sleep(self, seconds: float) -> None:
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)

    def wake(self) -> None:
        """End the sleep now; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def _note_stop(self, received: str) -> None:
        self.stop = received


class Announcer:
    """Keeps the endpoint, and writes it where its clients look."""

    def __init__(
        self,
        endpoint: Endpoint,
        handover: Handover,
        policy: ShutdownPolicy,
        leases: LeaseDemand,
        admission: Admission,
        heartbeat_s: float,
    ) -> None:
        self.endpoint = endpoint
        self._handover, self._policy, self._leases = handover, policy, leases
        self.admission = admission
        self._heartbeat_s = heartbeat_s
        self._engine: Engine | None = None
        self._beat = float("-inf")

    def set_engine(self, engine: Engine) -> None:
        """Take note of a new start of the engine, which has another address and incarnation."""
        self._engine = engine
        self.endpoint = replace(
            self.endpoint, url=f"{engine.url}/v1", incarnation=engine.incarnation, warnings=()
        )

    def begin_serving(self, warnings: Sequence[str]) -> None:
        """Keep what the first requests showed, for the next announcement, and look who comes."""
        assert self._engine is not None
        self.endpoint = replace(self.endpoint, warnings=tuple(warnings))
        self.admission.begin(self.endpoint.url, self._engine.max_concurrency)

    def publish(self, state: State, reason: str = "", cause: str = "") -> None:
        """Write the endpoint file now."""
        # Only a server that may go on takes another sweep's lease into account.
        leases = self._leases.ids if state == "ready" and not self._policy.closing else ()
        self.endpoint = replace(
            self.endpoint,
            state=state,
            reason=reason,
            cause=cause,
            final=self._policy.final,
            kept_until=self._policy.kept_until,
            leases=leases,
            max_concurrency=self._engine.max_concurrency if self._engine else None,
            limit=self.admission.limit,
            in_use=self.admission.in_use,
            shares=self.admission.shares,
        )
        try:
            self._handover.publish(self.endpoint)
        except OSError as error:
            # A full disk must not end a server that works; the next beat tries again.
            say(f"emobench: cannot write the endpoint file: {error}")
        self._beat = time.monotonic()

    def publish_if_due(self, state: State, reason: str = "") -> None:
        """Write it where the heartbeat is due, or where another sweep or a cell waits for an
        answer."""
        asked = self._leases.refresh()
        if state == "ready":
            asked = self.admission.refresh() or asked
        if asked or time.monotonic() - self._beat >= self._heartbeat_s:
            self.publish(state, reason)

    def print_banner(self) -> None:
        """Tell the job's log where the server is."""
        assert self._engine is not None
        seconds = time.monotonic() - self._engine.started
        say("=" * 72)
        say(f"emobench: server {self.endpoint.server} is ready after {seconds:.0f} s")
        say(f"  Node:  {self.endpoint.host}")
        say(f"  Model: {self.endpoint.model}")
        say(f"  URL:   {self.endpoint.url}")
        for warning in self.endpoint.warnings:
            say(f"  Warning: {warning}")
        say("=" * 72)


class Supervisor:
    """Serves one role of a run until nothing needs it."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        server: str,
        timing: Timing,
        replica: int = 1,
        takes_over: str = "",
        after: str = "",
    ) -> None:
        model = list_servers(plan.sweep).get(server)
        if model is None:
            names = ", ".join(list_servers(plan.sweep))
            raise InvalidInput(f"this run starts no server '{server}'; it starts: {names}")
        if not 1 <= replica <= model.replicas:
            raise InvalidInput(f"server '{server}' has the replicas 1 to {model.replicas}")
        instance = name_instance(server, replica)
        self._plan, self._run_dir, self._timing = plan, run_dir, timing
        self._wakeable = Wakeable()
        self._key = load_api_key(run_dir, create=True)
        self._hub_token = _withhold_keys(plan, run_dir)
        scheduler = find_scheduler(plan.profile)
        self._host = "127.0.0.1" if plan.profile.one_machine else find_own_address()
        self._engine: Engine | None = None
        self._was_ready = False
        self._limit_s = plan.profile.server_deadline_min * 60
        self._deadline = time.monotonic() - scheduler.compute_own_job_age_s() + self._limit_s
        endpoint = Endpoint(
            server=instance,
            role="user" if server == USER_SERVER else "assistant",
            url="",
            model=model.served,
            incarnation="",
            engine=model.engine,
            host=socket.gethostname(),
            job_id=scheduler.read_own_job_id(),
            pid=os.getpid(),
            started=now(),
        )
        started, job_id = endpoint.started, endpoint.job_id
        self._server, self._instance = server, instance
        self._events = EventLog(run_dir, instance, job_id)
        self._handover = Handover(plan, run_dir, instance, job_id, takes_over)
        need = OwnDemand(plan, run_dir, instance, job_id, started, timing.queue_check_s)
        leases = LeaseDemand(run_dir, instance, timing.queue_check_s)
        self._scheduler, self._job_id = scheduler, job_id
        self._is_back, self._next_try = False, 0.0
        self._after = after
        self._policy = ShutdownPolicy(
            run_dir,
            need,
            leases,
            timing.budget_check_s,
            lambda plan: look_at_partners(plan, run_dir, instance, job_id),
        )
        partners = count_partners(plan.sweep, server)
        admission = Admission(
            run_dir, instance, model, timing.heartbeat_s, timing.settle_s, partners
        )
        self._announcer = Announcer(
            endpoint, self._handover, self._policy, leases, admission, timing.heartbeat_s
        )

    def run(self) -> int:
        """Serve until the end; the exit code."""
        state: State = "failed"
        reason, cause = "the supervisor ended unexpectedly", ""
        try:
            reason = self._serve()
            state = "left"
        except Failed as error:
            reason, cause = str(error), error.cause
        finally:
            # The clients learn first: what they ask from now on would be cut off.
            self._announcer.publish(state, reason, cause)
            say(f"emobench: server {self._instance} {state}: {reason}")
            if state == "left":
                self._pass_on()
            self._events.note("left" if state == "left" else "failed", reason=reason, cause=cause)
            if self._engine is not None:
                self._engine.stop(self._timing.grace_s)
            if self._wakeable.stop == WARNING:
                find_scheduler(self._plan.profile).requeue_if_preempted()
        return 0 if state == "left" else 1

    def _pass_on(self) -> None:
        """Leave the clients to a successor, or see to it that none is left in the queue."""
        grace_s, sleep = self._timing.grace_s, self._wakeable.sleep

        def stop() -> str:
            return self._wakeable.stop

        # One that was never ready has a time limit too short to load in: so has its successor.
        if stop() == WARNING and self._was_ready and self._is_needed():
            self._handover.submit_now(stop, sleep, grace_s)
        if self._is_back:
            return
        url, quiet_s = self._announcer.endpoint.url, self._timing.quiet_s
        self._handover.drain_or_withdraw(url, stop, sleep, grace_s, quiet_s)

    def _is_needed(self) -> bool:
        """Return whether the server would stay if its job did not end."""
        return not self._policy.explain_leaving() and self._policy.outlasts_job

    def _serve(self) -> str:
        """Serve; return why the server left. Raises Failed."""
        restarts = 0
        if self._after and not self._wait_for_neighbour(self._after):
            return self._reason
        while True:
            problem = self._start()
            if not problem:
                self._was_ready = True
                problem = self._watch()
            if problem == "leave":
                return self._reason
            assert self._engine is not None
            cause = self._cause or diagnose(
                self._engine.list_last_lines(), self._engine.poll_exit_code()
            )
            problem = "\n".join(
                (problem, cause.format_text(), f"its last lines: {self._engine.format_tail()}")
            )
            self._engine.stop(self._timing.grace_s)
            if restarts >= self._timing.restarts or not may_recover(cause, self._was_ready):
                raise Failed(problem, cause.kind)
            pause_s = self._timing.backoff_s[min(restarts, len(self._timing.backoff_s) - 1)]
            restarts += 1
            again = f"restart {restarts} of {self._timing.restarts} after {pause_s:g} s"
            say(f"emobench: {problem}\nemobench: {again}")
            self._events.note("restarted", reason=problem, cause=cause.kind)
            if not self._pause(pause_s, f"{again}: {problem}"):
                return self._reason
            if self._was_ready:
                self._deadline = time.monotonic() + self._limit_s

    def _wait_for_neighbour(self, server: str) -> bool:
        """Wait until a server that shares this one's cards has loaded: vLLM measures what is free
        of a card while it loads, and ends where that changes. Return whether to go on."""
        words = f"waits until {server}, with which it shares cards, has loaded"
        self._announcer.publish("starting", words)
        while not self._should_leave():
            other = read_endpoint(self._run_dir, server)
            job = get_queue_id(other.job_id) if other is not None else ""
            if other is not None and job == get_queue_id(self._job_id) and other.is_loaded:
                self._deadline = time.monotonic() + self._limit_s
                return True
            self._announcer.publish_if_due("starting", words)
            self._wakeable.sleep(self._timing.probe_s)
        return False

    def _pause(self, seconds: float, why: str) -> bool:
        """Wait before another start; whether it is still wanted then."""
        end = time.monotonic() + seconds
        self._announcer.publish("starting", why)
        while not self._should_leave():
            if (left := end - time.monotonic()) <= 0:
                return True
            self._announcer.publish_if_due("starting", why)
            self._wakeable.sleep(min(left, self._timing.probe_s))
        return False

    def _start(self) -> str:
        """Start the engine and wait until it answers: '' or 'leave' or what is wrong."""
        script = self._run_dir.scripts / name_serve_script(self._server)
        with contextlib.suppress(OSError):  # an engine with another one is told apart by its proof
            self._renew_guard()
        environment = {
            "VLLM_API_KEY": self._key,
            "EMOBENCH_API_KEY": self._key,
            "EMOBENCH_SERVER": self._instance,
            **self._hub_token,
        }
        self._engine = engine = Engine(script, self._host, environment)
        self._announcer.set_engine(engine)
        self._cause: Cause | None = None
        readiness = Readiness(
            self._announcer.endpoint,
            self._key,
            tools=calls_tools(self._plan, self._server),
            deadline=self._deadline,
            on_end=self._wakeable.wake,
        )
        self._policy.observe(None)
        self._announcer.publish("starting")
        self._events.note("starting", engine.incarnation)
        while True:
            if self._should_leave():
                return "leave"
            if died := self._describe_death():
                return died
            if (verdict := readiness.look()) is not None:
                self._cause = verdict.failure
                return (
                    "it is up and cannot serve"
                    if self._cause
                    else self._announce_ready(verdict.warnings)
                )
            problem = readiness.problem
            if readiness.port_taken:
                self._cause = Cause("port", problem, "nothing: the next start takes another port")
                return "its port was taken"
            if time.monotonic() > self._deadline:
                found = diagnose(engine.list_last_lines())
                self._cause = diagnose_slow_start() if found.kind == "unknown" else found
                limit = pluralise(self._limit_s / 60, "minute")
                return f"not ready {limit} (server_deadline_min): {problem}"
            self._announcer.publish_if_due("starting")
            self._wakeable.sleep(self._timing.probe_s)

    def _renew_guard(self) -> None:
        """Have vLLM load this release's guard: another one may have rendered the scripts, and the
        two ends of a proof have to agree."""
        copy, text = self._run_dir.scripts / f"{GUARD}.py", Path(guard.__file__).read_bytes()
        if copy.exists() and copy.read_bytes() != text:
            write_bytes_atomic(copy, text)

    def _announce_ready(self, warnings: Sequence[str]) -> str:
        """Announce the server; ''."""
        self._announcer.begin_serving(warnings)
        self._announcer.publish("ready")
        self._events.note("ready")
        self._announcer.print_banner()
        return ""

    def _watch(self) -> str:
        """Serve until something happens: 'leave' or what went wrong with the engine."""
        assert self._engine is not None
        strikes = silent = 0
        next_probe = time.monotonic() + self._timing.health_s
        while True:
            if self._should_leave():
                return "leave"
            if died := self._describe_death():
                return died
            if time.monotonic() >= next_probe:
                strikes = 0 if self._is_healthy() else strikes + 1
                if strikes >= self._timing.strikes:
                    return f"{strikes} health probes in a row failed"
                silent += 1
                if silent >= self._timing.strikes:
                    self._policy.observe(None)
                next_probe = time.monotonic() + self._timing.health_s
            self._announcer.publish_if_due("ready")
            if (load := self._announcer.admission.take_load()) is not None:
                silent = 0
                self._policy.observe(self._events.note_load(load))
            self._wakeable.sleep(self._timing.probe_s)

    def _is_healthy(self) -> bool:
        try:
            check_health(self._announcer.endpoint.url, self._timing.health_timeout_s)
        except Unreachable:
            return False
        return True

    def _should_leave(self) -> bool:
        stop = self._wakeable.stop
        self._reason = f"received {stop}" if stop else ""
        self._reason = (
            self._reason
            or self._handover.explain_leaving()
            or self._policy.explain_leaving()
            or self._go_back()
            or self._policy.explain_idleness(comes_back=self._scheduler.hands_over())
        )
        if not self._reason and self._policy.outlasts_job:
            self._handover.poll()
        return bool(self._reason)

    def _go_back(self) -> str:
        """Go back into the queue where the server could only wait for it; return why it leaves."""
        queued = self._policy.find_awaited()
        if queued is None or not self._scheduler.hands_over() or time.monotonic() < self._next_try:
            return ""
        self._next_try = time.monotonic() + GO_BACK_RETRY_S
        try:
            jobs = go_back_into_queue(
                self._run_dir, self._instance, self._job_id, queued, self._scheduler
            )
        except (EmobenchError, OSError) as error:
            say(f"emobench: cannot go back into the queue: {error}")
            self._policy.cannot_go_back = True
            return ""
        if not jobs:
            return ""
        self._is_back = True
        ids = " and ".join(job.job_id for job in jobs)
        return f"back in the queue as job {ids}: {queued.what} has not started"

    def _describe_death(self) -> str:
        """Return how the engine died; empty while it lives or when we are told to stop as well."""
        assert self._engine is not None
        if self._engine.poll_exit_code() is None:
            return ""
        # Slurm signals every process of a job at once: the engine may be faster than we are.
        self._wakeable.sleep(0.2)
        self._wakeable.sleep(0.2)
        return (
            "" if self._wakeable.stop else f"the engine ended with {self._engine.poll_exit_code()}"
        )


def _withhold_keys(plan: Plan, run_dir: RunDir) -> dict[str, str]:
    """Keep keys of hosted endpoints from the engine and from successors, whose script may have been
    submitted by hand; return the variable that vLLM needs all the same."""
    hide_keys(run_dir)
    names = list_key_variables(plan.sweep)
    token = find_hosted_key(run_dir, HUB_TOKEN) if HUB_TOKEN in names else None
    for name in names:
        os.environ.pop(name, None)
    return {HUB_TOKEN: token} if token else {}


def main(argv: Sequence[str] | None = None, timing: Timing | None = None) -> int:
    """Return exit code 0: left in order, 1: failed, 2: the run directory or server is wrong."""
    parser = argparse.ArgumentParser(prog="python -m emobench.serving.supervise")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--server", required=True, help="user or assistant_<name>")
    parser.add_argument("--replica", type=int, default=1, help="which of several, from 1")
    parser.add_argument("--after", default="", metavar="SERVER", help="load after this one")
    parser.add_argument("--takes-over", default="", metavar="JOB", help="whose successor it is")
    arguments = parser.parse_args(argv)
    print_tracebacks_visibly()
    try:
        run_dir = open_own_run_dir(arguments.run_dir)
        plan = load_plan(run_dir)
        server, replica = arguments.server, arguments.replica
        takes_over, after = arguments.takes_over, arguments.after
        timing = timing or Timing()
        return Supervisor(plan, run_dir, server, timing, replica, takes_over, after).run()
    except EmobenchError as error:
        warn(error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
