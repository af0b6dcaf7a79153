"""One command at a time, and a word on which one; the lock goes with its process."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emobench.core.command_lock import Held, Holder, hold
from emobench.core.files import dump_json
from emobench.core.times import now
from tests.support.processes import until

HOLD = """\
import sys
from pathlib import Path
from emobench.core.command_lock import hold
with hold(Path(sys.argv[1]), "submits", 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


def start(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_a_second_command_is_told_who_holds_it(path: Path) -> None:
    process = start(path)
    waiting: list[str] = []
    with pytest.raises(Held) as refused, hold(path, "submits its jobs", 0.5, waiting.append):
        pytest.fail("held twice")
    who = f"`-c {path}` (process {process.pid} on {socket.gethostname()}, since "
    assert str(refused.value).startswith(f"{path.parent}: {who}")
    assert "submits its jobs" in str(refused.value)
    assert "nothing was changed; run this again" in str(refused.value)
    assert len(waiting) == 1
    assert waiting[0].startswith(f"waiting for {who}")
    end(process)
    with hold(path, "submits", 0):
        pass


def test_it_waits_for_the_holder(path: Path) -> None:
    process = start(path)
    begun = threading.Event()

    def end_when_awaited() -> None:
        begun.wait()
        end(process)

    helper = threading.Thread(target=end_when_awaited)
    helper.start()
    with hold(path, "submits", 60, lambda text: begun.set()):
        assert begun.is_set()
    helper.join()


def test_a_killed_holder_lets_go(path: Path) -> None:
    process = start(path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert path.read_bytes(), "it could not say that it left"
    with hold(path, "submits", 0, beat_s=1000):
        pass


def test_programs_that_the_holder_starts_do_not_keep_it(path: Path) -> None:
    with hold(path, "submits", 0):
        child = subprocess.Popen(["sleep", "600"])
    try:
        with hold(path, "submits", 0):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_got_nothing_else_goes(path: Path) -> None:
    with hold(path, "submits", 0):
        assert path.parent.is_dir()
    assert not path.parent.exists()
    with hold(path, "submits", 0):
        (path.parent / "plan.json").touch()
    assert path.parent.is_dir()
    (path.parent / "plan.json").unlink()
    with hold(path, "submits", 0):
        pass
    assert path.parent.is_dir(), "it was there before"


def on_another_node(path: Path) -> Holder:
    """A holder whose lock this node does not see."""
    holder = Holder("another-node", 7, now(), "emobench sweep x.yaml")
    path.parent.mkdir()
    path.write_bytes(dump_json(holder))
    return holder


def test_a_lock_that_the_file_system_keeps_to_the_node_is_respected_while_it_is_touched(
    path: Path,
) -> None:
    holder = on_another_node(path)
    gone = threading.Event()
    beating = threading.Thread(target=beat, args=(path, gone))
    beating.start()
    with pytest.raises(Held, match="process 7 on another-node"), hold(path, "s", 0, beat_s=2):
        pytest.fail("held twice")
    assert path.read_bytes() == dump_json(holder)
    gone.set()
    beating.join()
    with hold(path, "submits", 0, beat_s=0.05):
        pass


def beat(path: Path, gone: threading.Event) -> None:
    while not gone.wait(0.02):
        os.utime(path)


def test_without_locks_the_name_alone_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        hold(path, "submits", 0, beat_s=0.05),
        pytest.raises(Held, match=f"process {os.getpid()} on"),
        hold(path, "submits", 0, beat_s=2),
    ):
        pytest.fail("held twice")
    with hold(path, "submits", 0, beat_s=1000):
        pass


def test_a_holder_touches_the_file(path: Path) -> None:
    with hold(path, "submits", 0, beat_s=0.01):
        before = path.stat().st_mtime_ns
        until(lambda: path.stat().st_mtime_ns != before, "the file to be touched")
