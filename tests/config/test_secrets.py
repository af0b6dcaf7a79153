"""Secrets do not belong in files: each is refused with the variable to use instead, unrepeated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from emobench.config.load import load_profile, load_sweep
from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel, VllmModel
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.llm.address import make_endpoint
from tests.support.plans import CUDA, make_plan

SECRET = "s3cret-Value-0123456789"
SWEEP = """\
name: x
matrix: {env: retail, variant: [control, anger]}
user: {engine: scripted}
assistants:
  m: %s
trials: 1
%s
"""


def refusal(tmp_path: Path, assistant: str, more: str = "") -> str:
    path = tmp_path / "x.yaml"
    path.write_text(SWEEP % (assistant, more))
    with pytest.raises(InvalidInput) as caught:
        load_sweep(path)
    said = str(caught.value)
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    "address",
    [
        f"https://me:{SECRET}@models.example/v1",
        f"https://{SECRET}@models.example/v1",
        f"https://models.example/v1?api_key={SECRET}",
        f"https://models.example/v1?x=1&token={SECRET}",
        f"https://models.example/v1?x=1;api_key={SECRET}",
        f"https://models.example/v1?accessToken={SECRET}",
        f"https://models.example/v1?sig={SECRET}",
        f"https://models.example/v1#token={SECRET}",
        f"https://[me:{SECRET}@models.example/v1",
    ],
)
def test_an_address_with_a_secret_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f'{{engine: openai, model: m, base_url: "{address}", api_key_env: MY_KEY}}'
    said = refusal(tmp_path, model)
    assert re.search(r"x\.yaml:5\b.*assistants\.m\.base_url.*password or a key", said)
    assert "export MY_KEY" in said
    plain = "{engine: scripted}"
    said = refusal(tmp_path, plain, f'judge: {{model: j, base_url: "{address}"}}')
    assert "judge.base_url" in said and "export OPENAI_API_KEY" in said
    monkeypatch.setenv("MY_KEY", "the-key-of-the-endpoint")
    with pytest.raises(InvalidInput, match=r"export MY_KEY \(--api-key-env\)") as caught:
        make_endpoint("m", address, "MY_KEY")
    assert SECRET not in str(caught.value)


def test_an_address_with_a_harmless_query_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    url = "https://models.example/v1?api-version=2026-01-01"
    path.write_text(SWEEP % (f'{{engine: openai, model: m, base_url: "{url}"}}', ""))
    model = load_sweep(path).assistants["m"]
    assert isinstance(model, OpenAIModel) and model.base_url == url


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (f"[--hf-token, {SECRET}]", "export HF_TOKEN"),
        (f"[--enforce-eager, --hf_token={SECRET}]", "export HF_TOKEN"),
        (f"--hf-token={SECRET}", "export HF_TOKEN"),
        (f"[--hf-tok, {SECRET}]", "export HF_TOKEN"),
        (f"--hf_t={SECRET}", "export HF_TOKEN"),
        (f'"--hf-token {SECRET}"', "export HF_TOKEN"),
        (f"[--ssl-keyfile-p, {SECRET}]", "the variable that vLLM reads"),
        (f"[--ssl-keyfile-password, {SECRET}]", "the variable that vLLM reads"),
        (f"[--api-key, {SECRET}]", "emobench sets it"),
    ],
)
def test_a_secret_in_extra_args_is_refused(arguments: str, hint: str, tmp_path: Path) -> None:
    model = "{engine: vllm, model: Qwen/Qwen3-4B, tool_call_parser: hermes, "
    said = refusal(tmp_path, f"{model}extra_args: {arguments}}}")
    assert "assistants.m.extra_args" in said and hint in said


def test_the_token_of_a_login_is_no_secret_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    arguments = "[--hf-token, --enforce-eager, --hf-config-path, x, --ssl-keyfile, /etc/key.pem]"
    model = "{engine: vllm, model: Qwen/Qwen3-4B, tool_call_parser: hermes, extra_args: "
    path.write_text(SWEEP % (f"{model}{arguments}}}", ""))
    assert isinstance(load_sweep(path).assistants["m"], VllmModel)


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET", "DB_PASSWORD"])
def test_a_secret_in_server_env_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"scheduler: slurm\nserver_env:\n  A: 1\n  {name}: {SECRET}\n")
    with pytest.raises(InvalidInput, match=rf"site\.yaml:4\b.*server_env\.{name}") as caught:
        load_profile(str(path))
    assert f"export {name}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "place", "name"),
    [
        (f"server_env: {{https_proxy: 'http://me:{SECRET}@proxy:1'}}", "server_env", "https_proxy"),
        (f"server_setup: [module load x, export HF_TOKEN={SECRET}]", "server_setup[1]", "HF_TOKEN"),
        (f"client_setup: \"A_KEY='{SECRET}' x\"", "client_setup", "A_KEY"),
        (f"array: {{sbatch: ['--export=ALL,HF_TOKEN={SECRET}']}}", "array.sbatch", "HF_TOKEN"),
        (
            f"container: {{runtime: apptainer, image: x, options: [--env, HF_TOKEN={SECRET}]}}",
            "container.options[1]",
            "HF_TOKEN",
        ),
    ],
)
def test_a_secret_anywhere_in_a_profile_is_refused(
    lines: str, place: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"scheduler: slurm\n{lines}\n")
    with pytest.raises(InvalidInput, match=rf"site\.yaml:2\b.*{re.escape(place)}") as caught:
        load_profile(str(path))
    assert f"export {name}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_set_up_lines_may_read_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    lines = [
        'export HF_TOKEN="$(cat ~/.hf)"',
        "HF_TOKEN=$MY_TOKEN x",
        "TLS_KEY=/etc/key x=12345678",
    ]
    path.write_text(f"scheduler: slurm\nserver_setup: {json.dumps(lines)}\n")
    assert load_profile(str(path)).server_setup == tuple(lines)


def test_a_path_in_server_env_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("scheduler: slurm\nserver_env: {HF_TOKEN_PATH: ~/t, SSL_KEY: /etc/key}\n")
    assert load_profile(str(path)).server_env["SSL_KEY"] == "/etc/key"


def test_plans_of_earlier_runs_with_secrets_are_read(tmp_path: Path) -> None:
    url = f"https://me:{SECRET}@models.example/v1"
    profile = CUDA.model_copy(update={"server_env": {"HF_TOKEN": SECRET}})
    served = VllmModel(model="Qwen/Qwen3-4B", extra_args=("--hf-token", SECRET))
    hosted = OpenAIModel(model="m", base_url=url)
    plan = make_plan(profile, tmp_path, served, {"m": hosted})
    run_dir = RunDir(tmp_path)
    save_plan(run_dir, plan)
    assert load_plan(run_dir) == plan
