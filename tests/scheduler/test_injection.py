"""No value of a sweep or profile reaches the shell as code, and all arrive verbatim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.errors import InvalidInput
from emobench.core.models import VllmModel
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.render import render
from tests.support.plans import CUDA, GAUDI, make_plan

NASTY = [
    "$(touch pwned)",
    "`touch pwned`",
    "a'; touch pwned; '",
    'a"; touch pwned; "',
    "a\ntouch pwned\n",
    "a\\\ntouch pwned",
    "${IFS}$HOME ~ * ? [a] {1..3} !!",
    "a;b|c&d>pwned",
    "{{ 7 * 7 }} {% raw %}",
    "Ünïcödé 模型 --",
    "%j %A %%",
]
STUB = """#!{python}
import json, os, sys
with open({out!r}, "w") as stream:
    json.dump({{"argv": sys.argv[1:], "env": dict(os.environ)}}, stream)
"""


def _stub(folder: Path, name: str) -> Path:
    """A program that records how it was called in <name>.json."""
    folder.mkdir(exist_ok=True)
    out = folder / f"{name}.json"
    program = folder / name
    program.write_text(STUB.format(python=sys.executable, out=str(out)))
    program.chmod(0o755)
    return out


def _run(text: str, cwd: Path, *arguments: str, **environment: str) -> None:
    script = cwd / "script.sh"
    script.write_text(text)
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    subprocess.run(
        ["bash", str(script), *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PATH": f"{cwd / 'bin'}:{os.environ['PATH']}",
            "VLLM_API_KEY": "key",
            **environment,
        },
        check=True,
        timeout=240,
    )


def _called(out: Path) -> tuple[list[str], dict[str, str]]:
    data = json.loads(out.read_text())
    return data["argv"], data["env"]


def _nasty_plan(value: str, logs: Path, python: str | None = None) -> Plan:
    model = VllmModel(
        model=value, revision=value, dtype=value, tool_call_parser=value, extra_args=("--x", value)
    )
    profile = CUDA.model_copy(
        update={"server_env": {"NASTY": value}, "server_setup": (), "client_setup": ()}
        | ({"python": python} if python else {})
    )
    return make_plan(profile, logs, model, {"a": model}, description=value)


@pytest.mark.parametrize("value", NASTY)
def test_the_engines_arguments_and_environment_arrive_verbatim(value: str, tmp_path: Path) -> None:
    out = _stub(tmp_path / "bin", "vllm")
    plan = _nasty_plan(value, tmp_path / "logs")
    if "\n" in value:
        # Where sbatch reads a value, a second line would be an option or a command of its own.
        with pytest.raises(InvalidInput, match="control character"):
            render(plan, RunDir(tmp_path), [find_shipped_templates()])
        return
    texts = render(plan, RunDir(tmp_path), [find_shipped_templates()])
    _run(texts["serve_assistant_a.sh"], tmp_path, EMOBENCH_HOST="h", EMOBENCH_PORT="1")
    argv, environment = _called(out)
    assert argv[:2] == ["serve", value]
    assert argv[argv.index("--tool-call-parser") + 1] == value
    assert argv[-2:] == ["--x", value]
    assert environment["NASTY"] == value
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("value", [value for value in NASTY if "\n" in value])
def test_values_of_several_lines_arrive_verbatim_where_only_the_shell_reads_them(
    value: str, tmp_path: Path
) -> None:
    out = _stub(tmp_path / "bin", "vllm")
    model = VllmModel(model="m", extra_args=(value,))
    profile = CUDA.model_copy(update={"server_env": {"NASTY": value}, "server_setup": ()})
    texts = render(
        make_plan(profile, tmp_path, model), RunDir(tmp_path), [find_shipped_templates()]
    )
    _run(texts["serve_user.sh"], tmp_path, EMOBENCH_HOST="h", EMOBENCH_PORT="1")
    argv, environment = _called(out)
    assert argv[-1] == environment["NASTY"] == value
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("value", [value for value in NASTY if "\n" not in value])
def test_headers_keep_a_nasty_model_id_on_its_line(value: str, tmp_path: Path) -> None:
    texts = render(_nasty_plan(value, tmp_path), RunDir(tmp_path), [find_shipped_templates()])
    lines = texts["user_vllm.sbatch"].splitlines()
    assert sum(line.startswith("#SBATCH --comment=") for line in lines) == 1
    assert all(line.startswith("#") for line in lines[: lines.index("set -u")] if line)


@pytest.mark.parametrize("folder", ["with space", "quo'te\"d", "Ünï", "$(touch pwned)"])
def test_paths_reach_the_run_verbatim(folder: str, tmp_path: Path) -> None:
    out = _stub(tmp_path / "bin", "my python")
    run_dir = RunDir(tmp_path / folder)
    plan = _nasty_plan("m", tmp_path / folder, python=str(tmp_path / "bin" / "my python"))
    texts = render(plan, run_dir, [find_shipped_templates()])
    job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    _run(texts["tau_array_a.sbatch"], tmp_path, **job)
    argv, environment = _called(out)
    assert argv == ["-P", "-m", "emobench.run", "--run-dir", str(run_dir.path), "--cell", "2"]
    assert environment["EMOBENCH_LOG"] == f"{tmp_path / folder}/run_7_2.log"
    _run(texts["user_vllm.sbatch"], tmp_path)
    assert _called(out)[0][-4:] == ["--run-dir", str(run_dir.path), "--server", "user"]
    assert not list(tmp_path.rglob("pwned"))


def test_a_run_by_hand_takes_its_arguments_verbatim_and_control_by_default(tmp_path: Path) -> None:
    out = _stub(tmp_path / "bin", "python")
    cancelled = _stub(tmp_path / "bin", "scancel")
    plan = _nasty_plan("m", tmp_path, python=str(tmp_path / "bin" / "python"))
    text = render(plan, RunDir(tmp_path), [find_shipped_templates()])["tau_array_a.sbatch"]
    _run(text, tmp_path, "retail", "react", "Qwen/$(touch pwned) x", "1")
    assert _called(out)[0][5:] == [
        *("--env", "retail", "--agent-strategy", "react", "--model", "Qwen/$(touch pwned) x"),
        *("--trial", "1", "--variant", "control"),
    ]
    assert not cancelled.exists()
    out.unlink()
    job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "4"}
    _run(text, tmp_path, "retail", "react", "m", "1", "anger", SLURM_ARRAY_TASK_ID="0", **job)
    assert _called(out)[0][-1] == "anger"
    assert _called(cancelled)[0] == ["--state=PENDING", "7"]
    out.unlink()
    _run(text, tmp_path, "retail", "react", "m", "1", SLURM_ARRAY_TASK_ID="3", **job)
    assert not out.exists()


def test_an_index_beyond_the_block_never_runs_another_blocks_cell(tmp_path: Path) -> None:
    out = _stub(tmp_path / "bin", "python")
    plan = _nasty_plan("m", tmp_path, python=str(tmp_path / "bin" / "python"))
    text = render(plan, RunDir(tmp_path), [find_shipped_templates()])["tau_array_a.sbatch"]
    for arguments, task in (([], "4"), (["retail"], "1"), ([], "")):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            _run(text, tmp_path, *arguments, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=task)
        assert caught.value.returncode == 2
    assert not out.exists()


HL_SMI = "#!/bin/sh\nprintf 'index, module_id\\n0, 3\\n1, 7\\n2, 0\\n3, 5\\n'\n"


@pytest.mark.parametrize(
    ("cards", "modules"),
    [("1,2", "7,0"), ("0-1", "3,7"), ("2", None), ("0-2", None), ("8,9", None), ("", None)],
)
def test_gaudi_cards_become_module_ids_or_the_server_does_not_start(
    cards: str, modules: str | None, tmp_path: Path
) -> None:
    out = _stub(tmp_path / "bin", "vllm")
    (tmp_path / "bin" / "hl-smi").write_text(HL_SMI)
    (tmp_path / "bin" / "hl-smi").chmod(0o755)
    plan = make_plan(GAUDI.model_copy(update={"server_setup": ()}), tmp_path)
    text = render(plan, RunDir(tmp_path), [find_shipped_templates()])["serve_user.sh"]
    job = {"SLURM_JOB_GPUS": cards, "EMOBENCH_HOST": "h", "EMOBENCH_PORT": "1"}
    if modules is None:
        with pytest.raises(subprocess.CalledProcessError):
            _run(text, tmp_path, **job)
        assert not out.exists()
    else:
        _run(text, tmp_path, **job)
        assert _called(out)[1]["HABANA_VISIBLE_MODULES"] == modules


def test_gaudi_cards_of_a_gres_without_a_variable_are_asked_of_slurm(tmp_path: Path) -> None:
    out = _stub(tmp_path / "bin", "vllm")
    answer = """#!/bin/sh
    if [ "$2" = hostnames ]; then echo "$3" | tr , '\\n'; exit; fi
    echo '   JOB_GRES=hpu:gaudi2:4'
    echo '     Nodes=gaudi1 CPU_IDs=0-1 Mem=200 GRES=hpu:gaudi2:2(IDX:0-1)'
    echo '     Nodes=gaudi2,gaudi3 CPU_IDs=0-1 Mem=200 GRES=hpu:gaudi2:2(IDX:2-3)'
    """
    for name, text in (("hl-smi", HL_SMI), ("scontrol", answer)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    plan = make_plan(GAUDI.model_copy(update={"server_setup": ()}), tmp_path)
    text = render(plan, RunDir(tmp_path), [find_shipped_templates()])["serve_user.sh"]
    job = {"SLURM_JOB_ID": "5", "EMOBENCH_HOST": "h", "EMOBENCH_PORT": "1"}
    for node, modules in (("gaudi1", "3,7"), ("gaudi3", "0,5")):
        _run(text, tmp_path, **job, SLURMD_NODENAME=node)
        assert _called(out)[1]["HABANA_VISIBLE_MODULES"] == modules
