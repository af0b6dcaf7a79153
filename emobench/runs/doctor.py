"""What would stop a sweep on this site, found before anything is queued.

It submits nothing and changes nothing. What only a compute node can tell (drivers, the network
between nodes) it cannot see.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emobench import __version__
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError
from emobench.core.site_check import Check, failed, ok, skipped, warning
from emobench.core.wording import pluralise
from emobench.scheduler.schedulers import find_scheduler
from emobench.serving.site_shell import Ran, run_lines
from emobench.serving.vllm_flags import find_oldest, parse_version

SETUP_TIMEOUT_S = 120.0
"""vLLM's import from a shared file system can take a minute."""
LOCAL_TYPES = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "f2fs", "vfat")
)
SHARED_TYPES = re.compile(r"nfs|lustre|gpfs|beegfs|ceph|panfs|wekafs|cifs|smb|afs|orangefs|9p|fuse")
NODE_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
MIN_FREE_GB = 1.0
_MARK = "emobench-doctor:"
_PLUGIN_MARK = "emobench-doctor-plugin:"


def examine(profile: ClusterProfile, run_dir: Path) -> Iterator[Check]:
    """Yield every check of a profile on this machine as it is made."""
    yield from check_versions()
    yield check_folder(run_dir, shared=not profile.one_machine)
    yield from find_scheduler(profile).check_site(profile)
    yield check_client(profile)
    yield from check_server_setup(profile)


def check_versions() -> Iterator[Check]:
    """Check this environment's own packages."""
    yield ok("python", sys.version.split()[0])
    yield ok("emobench", __version__)
    try:
        from emobench.benchmarks.adapter import load_benchmark

        yield ok("benchmark", load_benchmark().label)
    except EmobenchError as error:
        message, *rest = str(error).splitlines()
        yield failed("benchmark", message, " ".join(rest).strip())
    for name in ("litellm", "submitit"):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield failed(name, "not installed", f"pip install {name}")
            continue
        if name == "litellm" and found.startswith("1.106."):
            said = f"{found} drops the tools of a request: every task would get reward 0"
            yield failed(name, said, "pip install 'litellm>=1.82.6,!=1.106.*'")
        else:
            yield ok(name, found)


def check_folder(folder: Path, shared: bool) -> Check:
    """Check whether runs can be written here, and whether other nodes would see them."""
    name = "run folder"
    folder = folder.resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".emobench-doctor-"):
            pass
    except OSError as error:
        return failed(name, f"{there}: {error.strerror}", "choose another with --run-dir")
    free_gb = shutil.disk_usage(there).free / 1e9
    if free_gb < MIN_FREE_GB:
        return warning(name, f"{there} has {free_gb:.1f} GB left", "make room, or use --run-dir")
    if not shared:
        return ok(name, f"{there}, {free_gb:.0f} GB free")
    kind = find_file_system(there)
    hint = "compute nodes have to see it: take a folder on the shared file system (--run-dir)"
    if any(there.is_relative_to(node_folder) for node_folder in NODE_FOLDERS):
        return warning(name, f"{there} is usually each node's own", hint)
    if kind in LOCAL_TYPES:
        return warning(name, f"{there} is on {kind}, which is usually one machine's own", hint)
    if not SHARED_TYPES.search(kind):
        return warning(name, f"{there} is on {kind or 'an unknown file system'}", hint)
    return ok(name, f"{there} ({kind}), {free_gb:.0f} GB free")


def find_file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds an absolute path; empty where the kernel does
    not say."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
        except OSError:
            return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
        # Of two mounts on one point the later hides the earlier.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def check_client(profile: ClusterProfile) -> Check:
    """Check whether `client_setup` and `python` lead to this emobench."""
    name = "client_setup" if profile.client_setup else "python on the nodes"
    python = profile.python or sys.executable
    script = f'import emobench; print("{_MARK}", emobench.__version__)'
    command = f"exec {shlex.quote(python)} -P -c {shlex.quote(script)}"
    ran = run_lines(profile.client_setup, {}, command, SETUP_TIMEOUT_S)
    if ran.code is None:
        return failed(name, f"not done after {SETUP_TIMEOUT_S:.0f} s", "try the lines by hand")
    found = _find_marked(ran)
    hint = "python in the profile has to be the one that emobench is installed in, on every node"
    if ran.code != 0 or found is None:
        return failed(name, f"{python} cannot import emobench: {ran.last_words}", hint)
    if found != __version__:
        return failed(name, f"{python} has emobench {found}, this one is {__version__}", hint)
    if not profile.one_machine and any(
        Path(python).is_relative_to(folder) for folder in NODE_FOLDERS
    ):
        return warning(name, f"{python} is usually on this machine only", hint)
    return ok(name, python)


def check_server_setup(profile: ClusterProfile) -> Iterator[Check]:
    """Check whether `server_setup` runs here, and which vLLM it leads to."""
    trap = "trap 'echo \"" + _MARK + " failed: $BASH_COMMAND\" >&2' ERR"
    container = profile.container
    wanted = "vllm" if container is None else container.runtime
    ask = "vllm --version | tail -n 1" if container is None else f"{wanted} --version"
    report = f'echo "{_MARK} $({ask} 2>/dev/null)"'
    if container is None and profile.accelerator == "gaudi":
        plugin = "from importlib.metadata import version; print(version('vllm-gaudi'))"
        report += f'\necho "{_PLUGIN_MARK} $(python3 -c {shlex.quote(plugin)} 2>/dev/null)"'
    command = f"trap - ERR\ncommand -v {wanted} >/dev/null || exit 97\n{report}"
    lines = [trap, *profile.server_setup] if profile.server_setup else []
    ran = run_lines(lines, profile.server_env, command, SETUP_TIMEOUT_S)
    where = "here; compute nodes may have what this machine lacks"
    if ran.code is None:
        said = f"not done after {SETUP_TIMEOUT_S:.0f} s"
        yield warning("server_setup", said, "try the lines by hand, on a compute node too")
        return
    broken = re.findall(rf"^{_MARK} failed: (.*)$", ran.errors, re.MULTILINE)
    if broken:
        said = next((line for line in ran.errors.splitlines() if _MARK not in line), "")
        reason = f": {said.strip()[:200]}" if said else ""
        yield warning("server_setup", f"`{broken[0]}` failed {where}{reason}", "check the line")
    elif profile.server_setup:
        yield ok("server_setup", pluralise(len(profile.server_setup), "line"))
    if ran.code == 97 and profile.accelerator == "none":
        yield skipped(wanted, "not found, and the profile has no accelerator")
    elif ran.code == 97:
        hint = f"server_setup has to make `{wanted}` a command: try it on a compute node"
        yield warning(wanted, f"not found {where}", hint)
    elif (found := _find_marked(ran)) is not None and container is None:
        yield check_vllm(found, profile)
        if profile.accelerator == "gaudi":
            yield check_plugin(_find_marked(ran, _PLUGIN_MARK) or "", found)
    elif found is not None:
        yield ok(wanted, found or "found, but it does not say its version")
    else:
        yield warning(wanted, f"{ran.last_words or 'it could not be asked'}", "try it by hand")
    if profile.vllm_version is not None and (ran.code == 97 or container is not None):
        yield replace(check_vllm(profile.vllm_version, profile), name="vllm_version")
    if container is not None and container.image.startswith("/"):
        if Path(container.image).exists():
            yield ok("container.image", container.image)
        else:
            hint = "a whole path that the nodes have; pull the image first"
            yield warning("container.image", f"{container.image} is not here", hint)


def check_vllm(found: str, profile: ClusterProfile) -> Check:
    """Check whether a version of vLLM is one that these servers work with."""
    oldest = find_oldest(profile)
    if not parse_version(found):
        return ok("vllm", found or "found, but it does not say its version")
    if parse_version(found) < parse_version(oldest):
        hint = f"let server_setup lead to vLLM {oldest} or newer"
        return failed("vllm", f"{found} is older than {oldest}, the oldest that works", hint)
    if profile.vllm_version and parse_version(found) != parse_version(profile.vllm_version):
        hint = "correct vllm_version in the profile, or leave it out where vLLM can be asked"
        return warning("vllm", f"{found}, but vllm_version says {profile.vllm_version}", hint)
    return ok("vllm", found)


def check_plugin(found: str, vllm: str) -> Check:
    """Check whether vLLM's plugin for Gaudi is there, and is of the same release as vLLM."""
    if not found:
        hint = "without it vLLM finds no Gaudi card: pip install vllm-gaudi in that environment"
        return warning("vllm-gaudi", "python3 does not find the plugin after server_setup", hint)
    if parse_version(found)[:2] != parse_version(vllm)[:2]:
        hint = "the plugin has the number of the vLLM that it is made for: install that one"
        return warning("vllm-gaudi", f"{found}, and vLLM is {vllm}", hint)
    return ok("vllm-gaudi", found)


def _find_marked(ran: Ran, mark: str = _MARK) -> str | None:
    """Return what stands behind our mark: login scripts print things of their own."""
    match = re.search(rf"^{mark}[ ]?(.*)$", ran.output, re.MULTILINE)
    return match[1].strip() if match else None
