"""One start of one engine: its process group, its port and the end of what it printed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from emobench.core.processes import die_with_parent
from emobench.core.redaction import hide_environment, redact
from emobench.llm.engine_metrics import parse_whole_requests

TAIL_LINES = 15
KEPT_LINES = 1000
"""vLLM prints a traceback of each process, with the cause in the first of them."""
ORPHAN_GRACE_S = 3
_END_WITH_SUPERVISOR = """
trap '' TERM INT HUP USR1
read -r _  # ends when the supervisor does
kill -TERM 0
sleep "$1"
kill -KILL 0
"""
"""Ends its own process group, the engine's. vLLM's workers outlive a vLLM that was killed, and
being a member keeps the group's number from being used again."""


def find_own_address() -> str:
    """Return this node's address as other nodes reach it; the loopback address where there is
    none."""
    try:
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            return address
        # Debian names the host itself 127.0.1.1. Connecting a datagram socket sends nothing, but
        # says from which address the node would reach others.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def find_free_port(host: str) -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Engine:
    """A started engine. Its output goes to this job's log as well."""

    def __init__(self, script: Path, host: str, environment: Mapping[str, str]) -> None:
        self.host = host
        self.port = find_free_port(host)
        self.incarnation = secrets.token_hex(8)
        self.started = time.monotonic()
        self.max_concurrency: float | None = None
        """Requests of full length that its cache holds, where it has said so."""
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        environment = {
            **os.environ,
            **environment,
            "EMOBENCH_HOST": host,
            "EMOBENCH_PORT": str(self.port),
            "EMOBENCH_MASTER_PORT": str(find_free_port(host)),
            "EMOBENCH_INCARNATION": self.incarnation,
        }
        hide_environment(environment)  # a set-up line that prints it must not put a key into a log
        self._process = subprocess.Popen(
            ["bash", str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            # The first to hear that the supervisor was killed; what it leaves is ended below.
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        # A supervisor that is killed must leave no engine that holds cards.
        self._watcher = subprocess.Popen(
            ["bash", "-c", _END_WITH_SUPERVISOR, "watcher", str(ORPHAN_GRACE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=self._process.pid,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll_exit_code(self) -> int | None:
        """Return the exit code; None while it runs; negative: the number of the signal that ended
        it."""
        if self._process.returncode is None:
            # Not reaped here: as long as the leader is not, nobody else gets its group's number.
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            found = os.waitid(os.P_PID, self._process.pid, options)
            if found is None:
                return None
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._process.returncode

    def list_last_lines(self) -> list[str]:
        """Return the last lines of its output; enough to find why it ended."""
        # What a dead engine still had in the pipe belongs to its last words.
        self._copier.join(timeout=1 if self.poll_exit_code() is not None else 0)
        return list(self._tail)

    def format_tail(self) -> str:
        """Return the very last lines, on one line."""
        return " | ".join([line for line in self.list_last_lines() if line][-TAIL_LINES:])

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM to its process group, and SIGKILL to what is left after `grace_s`
        seconds."""
        if self._process.returncode is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self.poll_exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        # Its children may outlive it, and hold the cards' memory.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._watcher.wait()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()

    def _copy(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                text = redact(line.decode(errors="replace").rstrip())
                self._tail.append(text[:500])
                if (found := parse_whole_requests(text[:500])) is not None:
                    self.max_concurrency = found
                print(text, flush=True)
        sys.stdout.flush()
