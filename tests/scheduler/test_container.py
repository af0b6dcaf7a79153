"""vLLM in a container: what the runtime is told, and what stays out of its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile, Container
from emobench.core.run_dir import RunDir
from emobench.scheduler.render import render
from tests.support.plans import CUDA, GAUDI, make_plan

STUB = """#!{python}
import json, os, sys
with open({out!r}, "w") as stream:
    json.dump({{"argv": sys.argv[1:], "env": dict(os.environ)}}, stream)
"""
KEY = "a-secret-key"


def started(
    folder: Path, profile: ClusterProfile, container: Container, **environment: str
) -> tuple[list[str], dict[str, str]]:
    """How the user's serve script calls the container's runtime."""
    programs = folder / "bin"
    programs.mkdir()
    out = folder / "called.json"
    hl_smi = "#!/bin/sh\nprintf 'index, module_id\\n0, 3\\n1, 7\\n2, 0\\n'\n"
    stub = STUB.format(python=sys.executable, out=str(out))
    for name, text in ((container.runtime, stub), ("hl-smi", hl_smi)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    profile = profile.model_copy(update={"container": container, "server_setup": ()})
    run_dir = RunDir(folder / "a b")
    script = folder / "serve.sh"
    script.write_text(
        render(make_plan(profile, folder), run_dir, [find_shipped_templates()])["serve_user.sh"]
    )
    own = {
        "EMOBENCH_HOST": "h",
        "EMOBENCH_PORT": "1",
        "VLLM_API_KEY": KEY,
        "EMOBENCH_INCARNATION": "i",
        "EMOBENCH_SERVER": "user",
        **environment,
    }
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(["bash", script], check=True, timeout=240, env={"PATH": path, **own})
    called = json.loads(out.read_text())
    return called["argv"], called["env"]


def test_apptainer_hands_the_environment_on(tmp_path: Path) -> None:
    container = Container(
        runtime="apptainer",
        image="/a b.sif",
        bind=("/m", "/x y:/z"),
        options=("--no-mount", "home"),
    )
    argv, environment = started(tmp_path, CUDA, container)
    scripts = str(tmp_path / "a b" / "scripts")
    assert argv[: argv.index("vllm")] == [
        *("exec", "--nv", "--bind", "/m", "--bind", "/x y:/z", "--bind", scripts),
        *("--no-mount", "home", "/a b.sif", "sh", f"{scripts}/container_rc.sh"),
    ]
    assert "PYTHONPATH" not in environment
    assert environment["EMOBENCH_SERVER"] == "user"
    assert argv[argv.index("--middleware") + 1] == "emobench_guard.Guard"
    assert argv[argv.index("vllm") :][:3] == ["vllm", "serve", "Qwen/Qwen3-32B"]
    assert environment["VLLM_API_KEY"] == KEY
    assert environment["HF_HOME"] == "/scratch/hf cache"
    assert KEY not in " ".join(argv)


def test_enroot_is_told_the_names_of_what_is_set(tmp_path: Path) -> None:
    container = Container(runtime="enroot", image="/v.sqsh", bind=("/m",))
    argv, environment = started(tmp_path, CUDA, container, CUDA_VISIBLE_DEVICES="0,1")
    head = argv[: argv.index("/v.sqsh")]
    scripts = str(tmp_path / "a b" / "scripts")
    assert head[:7] == [
        *("start", "--rc", f"{scripts}/container_rc.sh"),
        *("--mount", "/m:/m", "--mount", f"{scripts}:{scripts}"),
    ]
    named = [word for word in head[7:] if word != "--env"]
    assert named == [
        *("VLLM_API_KEY", "EMOBENCH_INCARNATION", "EMOBENCH_SERVER"),
        *("CUDA_VISIBLE_DEVICES", "HF_HOME", "VLLM_LOGGING_LEVEL"),
    ]
    assert all(name in environment for name in named)
    assert KEY not in " ".join(argv)


def test_in_a_container_the_guard_stands_before_the_images_own_modules(tmp_path: Path) -> None:
    container = Container(runtime="enroot", image="/v")
    run_dir = RunDir(tmp_path / "a b")
    plan = make_plan(CUDA.model_copy(update={"container": container}), tmp_path)
    script = tmp_path / "rc.sh"
    script.write_text(render(plan, run_dir, [find_shipped_templates()])["container_rc.sh"])
    for own, expected in (("/image", f"{run_dir.scripts}:/image"), ("", str(run_dir.scripts))):
        image = {"PYTHONPATH": own, "VLLM_USE_RUST_FRONTEND": "1"}
        ran = subprocess.run(
            ["sh", script, "printenv", "PYTHONPATH", "VLLM_USE_RUST_FRONTEND"],
            env={"PATH": os.environ["PATH"], **image},
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
        assert ran.stdout.splitlines() == [expected, "0"], "the Rust front end loads no guard"


@pytest.mark.parametrize("runtime", ["apptainer", "enroot"])
def test_a_gaudi_container_gets_its_cards_by_index_and_by_module(
    runtime: str, tmp_path: Path
) -> None:
    container = Container.model_validate({"runtime": runtime, "image": "/v"})
    argv, environment = started(tmp_path, GAUDI, container, SLURM_STEP_GPUS="1-2")
    assert environment["HABANA_VISIBLE_DEVICES"] == "1,2"
    assert environment["HABANA_VISIBLE_MODULES"] == "7,0"
    assert "--nv" not in argv
    assert ("HABANA_VISIBLE_DEVICES" in argv) == (runtime == "enroot")
