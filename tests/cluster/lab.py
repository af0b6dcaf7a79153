"""A real Slurm cluster of four nodes on this machine, started in seconds and gone when stopped.

By hand: `python -m tests.cluster.lab`, then use the printed SLURM_CONF in another terminal.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from emobench.core.job_id import expand_id
from tests.cluster.configuration import NODES
from tests.cluster.daemons import NAMES, SEARCH_PATH, SYSTEM_TABLES, Daemons, LabError, environment
from tests.support import processes
from tests.support.processes import PATIENCE_S

COMMANDS = (*NAMES, "sbatch", "srun", "squeue", "sacct", "sacctmgr", "sinfo", "scontrol", "scancel")
NO_ANSWER = re.compile(r"Socket timed out|Unable to contact|Zero Bytes|Connection refused")
LIVE_STATES = ("PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING", "COMPLETING")
REPOSITORY = Path(__file__).resolve().parents[2]


def missing() -> list[str]:
    """What the lab needs and this machine lacks: names of commands and files."""
    lacking = [name for name in COMMANDS if shutil.which(name, path=SEARCH_PATH) is None]
    return lacking + ([] if SYSTEM_TABLES.exists() else [str(SYSTEM_TABLES)])


class Lab:
    """One cluster with folder, ports and munge key of its own: several can run side by side.

    Nodes cuda1, cuda2 (gpu:h100:2) and gaudi1, gaudi2 (hpu:gaudi2:2); partitions cuda (default),
    cuda_high (preempts cuda), cuda_grace and gaudi. Daemons and jobs run as the current user.
    """

    def __init__(self) -> None:
        # Not pytest's tmp_path: the path of a unix socket is limited to 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self._daemons = Daemons(self.folder)
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon and wait for idle nodes. Raises LabError; then nothing is left."""
        try:
            if lacking := missing():
                raise LabError(f"not installed: {', '.join(lacking)}")
            # Stops the cluster if this process is killed: its end of the pipe closes then.
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.lab", "--guard", str(self.folder)],
                stdin=subprocess.PIPE,
                cwd=REPOSITORY,
                start_new_session=True,
            )
            try:
                self._daemons.start()
                self.wait_idle()
            except TimeoutError as error:
                raise LabError(f"{error}\n{self._daemons.tails()}") from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the jobs and daemons of this cluster and remove its folders. May be repeated."""
        self._daemons.stop()
        if self._guard and self._guard.stdin:
            self._guard.stdin.close()
            self._guard.wait(240)

    @property
    def env(self) -> dict[str, str]:
        """The environment for commands that should talk to this cluster."""
        return environment() | {"SLURM_CONF": str(self._daemons.configuration)}

    def run(
        self,
        *argv: str | Path,
        timeout: float = 120.0,
        check: bool = True,
        cwd: str | Path | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster; `timeout` in seconds.

        Raises AssertionError quoting stderr when `check` and it failed; subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            [str(part) for part in argv],
            env=self.env,
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{argv} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def ask(self, *argv: str) -> str:
        """Return what a command prints that changes nothing.

        Asks again where a loaded controller did not answer. Raises AssertionError, TimeoutError.
        """
        done = self.run(*argv, check=False)

        def answered() -> bool:
            nonlocal done
            # A signal: squeue dies of SIGPIPE where the controller closes the connection.
            if done.returncode < 0 or NO_ANSWER.search(done.stderr):
                done = self.run(*argv, check=False)
                return False
            return True

        processes.until(answered, f"an answer to {argv}", poll=0.1)
        assert not done.returncode, f"{argv} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def queue(self) -> dict[str, str]:
        """Jobs in squeue: id to state, COMPLETING included. Array tasks stand one by one, parts of
        a heterogeneous job by their own ids."""
        lines = self.ask("squeue", "--all", "--noheader", "--array", "-o", "%i %T")
        rows = (_pair(line, " ") for line in lines.splitlines())
        return {job: state for row, state in rows for job in expand_id(row)}

    def wait_idle(self) -> None:
        """Return once no job is in the queue and all four nodes are idle; else TimeoutError."""
        processes.until(lambda: not self.queue(), "an empty queue", poll=0.1)
        processes.until(self._nodes_idle, "four idle nodes", poll=0.1)

    def wait_jobs(self, *jobs: str, seconds: float = PATIENCE_S) -> dict[str, str]:
        """Wait until every task of `jobs` ended; id (array tasks "12_3") to state.

        `jobs` are ids of jobs, not of tasks. The states are the controller's: sacct lags behind,
        by seconds for an array. Raises TimeoutError after `seconds`.
        """
        states: dict[str, str] = {}

        def ended() -> bool:
            states.clear()
            for job in jobs:
                states.update(self._tasks(job))
            return not any(state.startswith(LIVE_STATES) for state in states.values())

        processes.until(ended, f"jobs {', '.join(jobs)} to end", seconds, poll=0.05)
        return states

    def _tasks(self, job: str) -> dict[str, str]:
        """The controller's view of a job: id ("12" or "12_3") to state. Of a heterogeneous job that
        part alone, though its first part is shown with all others."""
        tasks = {}
        for line in self.ask("scontrol", "--oneliner", "show", "job", job).splitlines():
            fields = dict(_pair(word, "=") for word in line.split())
            array = fields.get("ArrayJobId")
            name = f"{array}_{fields['ArrayTaskId']}" if array else fields["JobId"]
            if array or name == job:
                tasks[name] = fields["JobState"]
        return tasks

    def resume_nodes(self) -> None:
        """Bring nodes back that a test set down or drained."""
        listing = self.ask("sinfo", "--noheader", "--Node", "-o", "%N %T")
        for line in sorted(set(listing.splitlines())):
            node, state = line.split()
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def _nodes_idle(self) -> bool:
        listing = self.run("sinfo", "-hN", "-t", "idle", "-o", "%N", check=False).stdout
        return set(listing.split()) == set(NODES)


def _pair(text: str, separator: str) -> tuple[str, str]:
    left, _, right = text.partition(separator)
    return left, right


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run a cluster until Ctrl-C or TERM."""
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()
    try:
        with Lab() as lab:
            print(f"A cluster of {len(NODES)} nodes is up after {time.monotonic() - begun:.1f} s.")
            print("In another terminal:\n")
            print(f"    export SLURM_CONF={lab.env['SLURM_CONF']}\n")
            print(f"Logs: {lab.folder}/*.log. Ctrl-C stops it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")
    except LabError as error:
        sys.exit(f"The cluster did not start: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--guard"]:
        sys.stdin.read()
        Daemons(Path(sys.argv[2])).stop()
    else:
        main()
