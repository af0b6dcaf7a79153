"""The daemons of one test cluster: munged, mariadbd, slurmdbd, slurmctld and four slurmd."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.cluster import configuration
from tests.cluster.configuration import NODES, Ports
from tests.support import processes

NAMES = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # daemons live in sbin
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
# Settings of the caller's own site or job would reach the lab's daemons and commands.
FOREIGN = re.compile(r"SLURM|SBATCH|SALLOC|SRUN|SQUEUE|SACCT|SINFO|SCANCEL|MUNGE|MYSQL")
# Below the ports that the kernel hands out by itself, so nobody takes one between choice and use.
FIRST_PORT, LAST_PORT, BLOCK = 20000, 32000, 8


class LabError(RuntimeError):
    """The cluster did not start; the message ends with the tail of the daemon's log."""


def environment() -> dict[str, str]:
    """This process's environment without another cluster's settings."""
    own = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    return own | {"PATH": SEARCH_PATH}


class Daemons:
    """Starts and stops what runs in `folder`; knows everything it needs from the folder alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        # In memory where possible: on disk the database's flushes cost seconds.
        memory = Path("/dev/shm")
        self.database = (memory if os.access(memory, os.W_OK) else folder) / f"{folder.name}-db"
        self._database_socket = folder / "mariadbd.socket"
        self._port_lock: socket.socket | None = None
        self._tag = f"EMOBENCH_LAB={folder}"

    def start(self) -> None:
        """Start all daemons. Raises LabError, TimeoutError; the caller then calls `stop`."""
        self._write_files()
        bootstrap = self._bootstrap_database()
        munge = self.folder / "munge"
        self._daemon(
            "munged",
            f"--socket={munge}/socket",
            f"--key-file={munge}/key",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={munge}/seed",
        )
        if bootstrap.wait(240):
            raise LabError(f"the database was not created\n{self._tail('bootstrap')}")
        # setsid --fork: mariadbd stays in the foreground, and must outlive nobody's terminal.
        self._daemon("mariadbd", *self._database_options(), "--skip-networking", fork=True)
        processes.until(self._database_socket.exists, "the database's socket")
        self._daemon("slurmdbd")
        register = ("sacctmgr", "-i", "add", "cluster", "lab")
        processes.until(lambda: self._quiet(*register), "slurmdbd to answer")
        if os.getuid() != 0:  # root has an account from the start, others may not submit without
            user = pwd.getpwuid(os.getuid()).pw_name
            self._quiet("sacctmgr", "-i", "add", "account", "lab")
            self._quiet("sacctmgr", "-i", "add", "user", user, "account=lab")
        self._daemon("slurmctld")
        for node in NODES:
            self._daemon("slurmd", "-N", node, instance=f"slurmd-{node}")

    def stop(self) -> None:
        """End jobs and daemons and remove the folders. May be repeated, and after half a start."""
        if self._targets("slurmctld"):
            # A daemon's end would leave the processes of its running jobs behind.
            self._quiet("scancel", "--full", "--signal=KILL", "--me")
            self._quiet("scancel", "--me")
        processes.end(self._targets("slurmd") | self._targets("slurmctld"))
        processes.end(self._targets("slurmdbd"))
        processes.end(self._targets("mariadbd") | self._targets("munged"))
        processes.end(self._owned(), seconds=2.0)
        for folder in (self.database, self.folder):
            shutil.rmtree(folder, ignore_errors=True)
        if self._port_lock:
            self._port_lock.close()

    def tails(self) -> str:
        """The last lines of every log."""
        return "\n".join(self._tail(log.stem) for log in sorted(self.folder.glob("*.log")))

    def _write_files(self) -> None:
        user = pwd.getpwuid(os.getuid()).pw_name
        ports = self._reserve_ports()
        # munged wants its socket's folder open to all, and mkdtemp makes 0700.
        self.folder.chmod(0o755)
        for name in ("munge", "state", "dev", "tmp", "spool", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        for device in ("gpu0", "gpu1", "hpu0", "hpu1"):
            (self.folder / "dev" / device).symlink_to("/dev/null")
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.configuration.write_text(configuration.slurm_conf(self.folder, user, ports))
        (self.folder / "gres.conf").write_text(configuration.gres_conf(self.folder))
        accounting = self.folder / "slurmdbd.conf"
        accounting.write_text(configuration.slurmdbd_conf(self.folder, user, ports))
        accounting.chmod(0o600)

    def _reserve_ports(self) -> Ports:
        for first in range(FIRST_PORT, LAST_PORT, BLOCK):
            # An abstract socket is a lock that the kernel drops with this process.
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0emobench-lab-{first}")
            except OSError:
                lock.close()
                continue
            if all(_is_free(port) for port in range(first, first + BLOCK)):
                self._port_lock = lock
                return Ports(first, first + 1, tuple(range(first + 2, first + 2 + len(NODES))))
            lock.close()
        raise LabError(f"no {BLOCK} free ports in a row from {FIRST_PORT} to {LAST_PORT}")

    def _database_options(self) -> list[str]:
        options = [
            "--no-defaults",  # has to come first
            "--skip-grant-tables",
            f"--datadir={self.database}",
            f"--socket={self._database_socket}",
            # At its start mariadbd deletes the temporary tables of every other one in its tmpdir.
            f"--tmpdir={self.folder}/tmp",
            f"--pid-file={self.folder}/mariadbd.pid",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-log-file-size=8M",
            "--innodb-buffer-pool-size=32M",
        ]
        return [*options, "--user=root"] if os.getuid() == 0 else options

    def _bootstrap_database(self) -> subprocess.Popen[bytes]:
        """Without the system tables slurmdbd loses associations silently."""
        self.database.mkdir(mode=0o700)
        script = self.folder / "bootstrap.sql"
        script.write_text("create database mysql;\nuse mysql;\n" + SYSTEM_TABLES.read_text())
        with script.open("rb") as statements, (self.folder / "bootstrap.log").open("wb") as log:
            return subprocess.Popen(
                [_path("mariadbd"), *self._database_options(), "--bootstrap"],
                stdin=statements,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )

    def _environment(self) -> dict[str, str]:
        name, _, value = self._tag.partition("=")
        own = {"SLURM_CONF": str(self.configuration), "MYSQL_UNIX_PORT": str(self._database_socket)}
        # PATH, HOME and little else: the caller's variables are no business of daemons.
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "TZ") if key in os.environ}
        return kept | own | {name: value, "PATH": SEARCH_PATH}

    def _daemon(self, name: str, *options: str, fork: bool = False, instance: str = "") -> None:
        """Start a daemon that detaches itself, and wait until its pid file names a process."""
        instance = instance or name
        argv = [*(["setsid", "--fork"] if fork else []), _path(name), *options]
        with (self.folder / f"{instance}.out.log").open("wb") as log:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self.folder,
                timeout=240,
            )
        if done.returncode or not self._came_up(name, f"{instance}.pid"):
            logs = [self._tail(instance), self._tail(f"{instance}.out")]
            raise LabError("\n".join([f"{instance} did not start", *logs]))

    def _came_up(self, name: str, pid_file: str, seconds: float = processes.PATIENCE_S) -> bool:
        """Wait for the pid file; give up early where no such process of this cluster lives."""
        deadline = time.monotonic() + seconds
        last_seen = time.monotonic()
        while not self._pid(pid_file, name):
            now = time.monotonic()
            if name in self._owned().values():
                last_seen = now
            if now > deadline or now > last_seen + 10:
                return False
            time.sleep(0.02)
        return True

    def _pid(self, file: str, name: str) -> int:
        """The pid in a pid file if it is this cluster's daemon `name`, else 0."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / file).read_text())
            if processes.comm(pid) == name and processes.has_environment(pid, self._tag):
                return pid
        return 0

    def _targets(self, name: str) -> dict[int, str]:
        files = [path.name for path in self.folder.glob(f"{name}*.pid")]
        return {pid: name for file in files if (pid := self._pid(file, name))}

    def _owned(self) -> dict[int, str]:
        """Daemons and slurmstepd of this cluster and its jobs, known by their environment."""
        setting = f"SLURM_CONF={self.configuration}"
        return {
            pid: processes.comm(pid)
            for pid in processes.pids()
            if processes.has_environment(pid, self._tag)
            or (
                processes.has_environment(pid, setting)
                and "SLURM_JOB_ID" in processes.environment_names(pid)
            )
        }

    def _quiet(self, *argv: str) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(argv, env=self._environment(), capture_output=True, timeout=30)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "command.log").write_bytes(done.stdout + done.stderr)
            return done.returncode == 0
        return False

    def _tail(self, stem: str, lines: int = 12) -> str:
        with contextlib.suppress(OSError):
            text = (self.folder / f"{stem}.log").read_text(errors="replace")
            return "\n".join([f"--- {stem}.log", *text.splitlines()[-lines:]])
        return ""


def _path(command: str) -> str:
    """Full path; LabError where it is not installed."""
    if found := shutil.which(command, path=SEARCH_PATH):
        return found
    raise LabError(f"{command} is not installed")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
