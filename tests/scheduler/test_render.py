"""Rendered scripts: golden files, shellcheck, and a budget for large sweeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from emobench.config.load import load_profile
from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import Container
from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel, VllmModel
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.render import render
from tests.support.plans import ASSISTANT, CUDA, GAUDI, make_plan, scripted, variant

GOLDEN = Path(__file__).parent / "golden"
RUN_DIR = RunDir(Path("/scratch/me/runs/study"))
TEMPLATES = [find_shipped_templates()]


LARGE = VllmModel(
    model="meta-llama/Llama-3.1-405B-Instruct",
    tensor_parallel=4,
    pipeline_parallel=2,
    nodes=2,
    tool_call_parser="llama3_json",
)
PLANS = ["cuda", "gaudi", "scripted", "nodes", "enroot", "hetjob", "together", "one-card"]
SHIPPED = ["cuda", "cuda-container", "sol-gaudi"]


def _plan(profile: str) -> Plan:
    if profile.startswith("shipped-"):
        shipped = load_profile(profile.removeprefix("shipped-"))
        python = {"python": "/opt/emobench/bin/python"}
        return make_plan(shipped.model_copy(update=python), "/scratch/me/logs")
    if profile == "nodes":
        return make_plan(GAUDI, "/scratch/me/logs", assistants={"large": LARGE})
    if profile == "hetjob":
        shorter = GAUDI.assistant_server.model_copy(update={"time": "1:00:00"})
        site = GAUDI.model_copy(update={"placement": "hetjob", "assistant_server": shorter})
        return make_plan(site, "/scratch/me/logs")
    if profile == "together":
        together = GAUDI.model_copy(update={"placement": "together"})
        return make_plan(together, "/scratch/me/logs")
    if profile == "one-card":
        half = ASSISTANT.model_copy(update={"gpu_memory_utilization": 0.45})
        site = CUDA.model_copy(update={"assistant_server": CUDA.user_server})
        plan = make_plan(site, "/scratch/me/logs", half, {"a": half})
        sweep = plan.sweep.model_copy(update={"placement": "together"})
        return plan.model_copy(update={"sweep": sweep})
    if profile == "enroot":
        container = Container(
            runtime="enroot",
            image="/images/vllm 0.33.sqsh",
            bind=("/models",),
            options=("--env", "HF_TOKEN"),
        )
        return make_plan(CUDA.model_copy(update={"container": container}), "/scratch/me/logs")
    if profile == "scripted":
        return make_plan(
            CUDA, "/scratch/me/logs", scripted(latency_ms=5), {"a": scripted(accelerators=1)}
        )
    return make_plan({"cuda": CUDA, "gaudi": GAUDI}[profile], "/scratch/me/logs")


@pytest.mark.parametrize("profile", [*PLANS, *(f"shipped-{name}" for name in SHIPPED)])
def test_scripts_are_the_golden_files(profile: str) -> None:
    """Regenerate after a wanted change: EMOBENCH_GOLDEN=write pytest tests/scheduler."""
    folder = GOLDEN / profile
    texts = render(_plan(profile), RUN_DIR, TEMPLATES)
    # A copy of the package's own file, which tests/serving/test_guard.py compares.
    assert ("emobench_guard.py" in texts) == (profile != "scripted")
    texts.pop("emobench_guard.py", None)
    if os.environ.get("EMOBENCH_GOLDEN") == "write":
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    assert texts == {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("profile", [*PLANS, *(f"shipped-{name}" for name in SHIPPED)])
def test_scripts_pass_shellcheck(profile: str, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    files = []
    for name, text in render(_plan(profile), RUN_DIR, TEMPLATES).items():
        if not name.endswith((".json", ".py")):
            files.append(tmp_path / name)
            files[-1].write_text(text)
    # SC1091: the site's own files are not there to be followed.
    command = ["shellcheck", "--shell=bash", "--exclude=SC1091", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout


def test_an_own_folder_overrides_single_templates(tmp_path: Path) -> None:
    (tmp_path / "_client_setup.j2").write_text("echo mine\n")
    texts = render(_plan("cuda"), RUN_DIR, [tmp_path, *TEMPLATES])
    assert "echo mine" in texts["user_vllm.sbatch"]
    assert "#SBATCH --gres=gpu:h100:2" in texts["user_vllm.sbatch"]


def test_a_template_with_an_unknown_name_or_bad_syntax_is_the_users_mistake(
    tmp_path: Path,
) -> None:
    (tmp_path / "serve_vllm.sh.j2").write_text("{{ profil.name }}")
    with pytest.raises(InvalidInput, match="profil"):
        render(_plan("cuda"), RUN_DIR, [tmp_path, *TEMPLATES])
    (tmp_path / "serve_vllm.sh.j2").write_text("\n{% if %}")
    with pytest.raises(InvalidInput, match=r"serve_vllm\.sh\.j2:2"):
        render(_plan("cuda"), RUN_DIR, [tmp_path, *TEMPLATES])


def test_endpoints_that_exist_get_no_server_scripts() -> None:
    plan = make_plan(CUDA, "/logs", OpenAIModel(model="gpt-x"))
    assert set(render(plan, RUN_DIR, TEMPLATES)) == {
        "assistant_vllm_qwen3-4b.sbatch",
        "cleanup.sbatch",
        "emobench_guard.py",
        "serve_assistant_qwen3-4b.sh",
        "tau_array_qwen3-4b.sbatch",
    }


@pytest.mark.parametrize("folder", ["/scratch/a:b", "/scratch/a,b"])
def test_a_folder_that_python_would_take_for_two_is_refused(folder: str) -> None:
    with pytest.raises(InvalidInput, match="colon or comma"):
        render(_plan("cuda"), RunDir(Path(folder)), TEMPLATES)
    assert render(_plan("scripted"), RunDir(Path(folder)), TEMPLATES)


def test_scripted_settings_carry_the_variants_texts() -> None:
    settings = json.loads(render(_plan("scripted"), RUN_DIR, TEMPLATES)["settings_user.json"])
    texts = {name: variant(name).text for name in ("control", "frustration")}
    assert settings["variants"] == texts
    assert settings["latency_ms"] == 5


@pytest.mark.parametrize(
    ("time_limit", "warning"),
    [
        (None, 120),
        ("4", 60),
        ("02:00", 30),
        ("00:01:00", 15),
        ("1-00", 120),
        ("04:00:00", 120),
        ("UNLIMITED", 120),
        ("0", 120),
    ],
)
def test_a_short_job_is_not_told_to_end_at_its_start(time_limit: str | None, warning: int) -> None:
    array = CUDA.array.model_copy(update={"time": time_limit})
    plan = make_plan(CUDA.model_copy(update={"array": array}), "/logs")
    script = render(plan, RUN_DIR, TEMPLATES)["tau_array_qwen3-4b.sbatch"]
    assert f"#SBATCH --signal=B:USR1@{warning}\n" in script


@pytest.mark.parametrize("path", ["/a\nb", "/a\\b", "/a/%jobs"])
def test_paths_that_slurm_or_submitit_would_change_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="path"):
        render(_plan("cuda"), RunDir(Path(path)), TEMPLATES)
    with pytest.raises(InvalidInput, match="path"):
        render(make_plan(CUDA, path), RUN_DIR, TEMPLATES)


def test_ten_thousand_cells_render_in_no_time_in_the_square_of_their_number() -> None:
    names = [f"a{number}" for number in range(5)]
    plan = make_plan(CUDA, "/logs", assistants=dict.fromkeys(names, ASSISTANT), trials=1000)
    assert len(plan.cells) == 10_000
    begun = time.thread_time()
    texts = render(plan, RUN_DIR, TEMPLATES)
    assert time.thread_time() - begun < 20
    assert len(texts) == 2 + 2 * 5 + 10 + 1 + 1
