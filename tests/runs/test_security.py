"""The key of a run: who can read it, and that it is nowhere else."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.errors import InvalidInput
from emobench.core.run_dir import RunDir
from emobench.llm.client import ChatClient
from emobench.scheduler.render import render
from emobench.store.endpoints import load_api_key, publish, read_endpoint
from tests.support import processes
from tests.support.model_server import ModelServer, Reply, answering
from tests.support.plans import CUDA, make_plan
from tests.support.serving import make_run, supervising, until_state

SWEEP = """\
name: tiny
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 1
tasks: [0, 3, 4, 5]
assistants: {scripted: {latency_ms: 20}}
"""
FOREIGN = {
    "VLLM_API_KEY": "a-key-of-the-users-own-shell",
    "OPENAI_API_KEY": "sk-of-a-hosted-provider",
    "HF_TOKEN": "hf_of-a-model-hub",
}
"""Set where the sweep is submitted; no concern of a file's."""


def holders(folder: Path, secret: str) -> list[str]:
    """Files below the folder that hold the secret in any of the ways it may be written."""
    forms = {secret.encode(), secret.encode().hex().encode(), json.dumps(secret)[1:-1].encode()}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if any(form in contents(path) for form in forms))


def contents(path: Path) -> bytes:
    """The bytes of a file; of a report, also those in its compressed blocks."""
    data = path.read_bytes()
    return b"\n".join([data, *(unpacked(each) for each in BLOCK.findall(data))])


BLOCK = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


def unpacked(block: bytes) -> bytes:
    """What base64 and zlib made a block of; nothing where they did not."""
    try:
        return zlib.decompress(base64.b64decode(block))
    except (ValueError, zlib.error):
        return b""


def test_the_search_looks_inside_the_blocks_of_a_report(tmp_path: Path) -> None:
    block = base64.b64encode(zlib.compress(b'{"error": "a-key-in-a-block, and more than that"}'))
    (tmp_path / "report.html").write_bytes(b"<script>" + block + b"</script>")
    assert holders(tmp_path, "a-key-in-a-block") == ["report.html"]


def argument_lists() -> list[str]:
    """What `ps` shows everybody of each process."""
    found = []
    for pid in processes.pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it has just ended
    return found


def test_after_a_sweep_the_key_is_in_its_file_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    run_dir = RunDir(tmp_path / "runs" / "tiny")
    environment = {**os.environ, **FOREIGN}

    def emobench(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "emobench.cli", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    said: list[str] = []
    seen_arguments: list[str] = []
    with emobench("sweep", "tiny.yaml", "--wait") as sweep:
        until_state(run_dir, "ready")
        looks = 0
        while sweep.poll() is None:
            seen_arguments += argument_lists()
            if looks < 2:
                for view in (("status",), ("status", "--json"), ("watch", "--once", "--json")):
                    with emobench(view[0], "runs/tiny", *view[1:]) as asked:
                        said.append(asked.communicate(timeout=240)[0])
                looks += 1
        said.append(sweep.communicate(timeout=240)[0])
    assert sweep.returncode == 0, said[-1]
    for view in (("status",), ("watch", "--once"), ("logs", "user"), ("report",)):
        with emobench(view[0], "runs/tiny", *view[1:]) as asked:
            said.append(asked.communicate(timeout=240)[0])

    key = load_api_key(run_dir)
    assert len(key) >= 43
    assert holders(tmp_path, key) == ["api_key"]
    assert any("emobench.scripted" in line for line in seen_arguments)
    assert not [line for line in seen_arguments if key in line]
    assert all(said)
    assert not [text for text in said if key in text]
    for value in FOREIGN.values():
        assert holders(tmp_path, value) == []
        assert not [text for text in said + seen_arguments if value in text]

    assert stat.S_IMODE(run_dir.api_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(run_dir.endpoints.stat().st_mode) == 0o700
    others = [path for path in tmp_path.rglob("*") if path.lstat().st_mode & stat.S_IWOTH]
    assert [path for path in others if not path.is_symlink()] == []


HOSTED = """\
name: hosted
cluster: ./site.yaml
matrix: {env: retail, variant: [control, anger]}
trials: 1
tasks: [0, 3]
probe: "off"
user: {engine: scripted}
assistants:
  m: {engine: openai, model: m, base_url: "%s", api_key_env: NAME_OF_THE_KEY}
"""
SITE = "{scheduler: local, client_setup: [env, set], server_setup: [env]}"


def test_an_endpoint_that_repeats_its_key_does_not_get_it_stored_or_shown(tmp_path: Path) -> None:
    """Nor do set-up lines that print the environment; a cut text holds no half of a key either."""
    key = "sk-proj-Zm9vYmFy/Lm5vdC1h+LXJlYWwta2V5Lg"

    def answer(request: dict[str, Any]) -> Reply:
        """First a reply; then an error, where the key stands across the place of the cut."""
        if any(message["role"] == "assistant" for message in request["messages"]):
            return Reply(status=400, error=f"{'x' * 465} Bearer {key}")
        return Reply(f"Is {key} yours?")

    (tmp_path / "site.yaml").write_text(SITE)
    environment = {**os.environ, "NAME_OF_THE_KEY": key, "OTHER": "travels"}
    said = ""
    with answering(ModelServer(answer)) as server:
        (tmp_path / "hosted.yaml").write_text(HOSTED % server.url)
        for command in (
            "sweep hosted.yaml --wait",
            "status runs/hosted",
            "status runs/hosted --json",
            "watch runs/hosted --once",
            "report runs/hosted",
            "collect runs/hosted",
            "conversations runs/hosted",
        ):
            ran = subprocess.run(
                [sys.executable, "-m", "emobench.cli", *command.split()],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            said += ran.stdout + ran.stderr
        assert set(server.keys) == {key}, "the jobs have it all the same"
    folder = tmp_path / "runs" / "hosted"
    episodes = "".join(path.read_text() for path in folder.rglob("episodes.jsonl"))
    assert "Is [key] yours?" in episodes and "Bearer [key]" in episodes
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "OTHER=travels" in logs and "NAME_OF_THE_KEY" not in logs
    assert holders(tmp_path, key) == ["hosted_keys.json"]
    for half in (key[:20], key[-20:]):
        assert holders(tmp_path, half) == ["hosted_keys.json"]
        assert half not in said
    kept = RunDir(folder).hosted_keys
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text()) == {"NAME_OF_THE_KEY": key}


def test_each_run_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = {load_api_key(RunDir(tmp_path / name), create=True) for name in ("a", "b", "c")}
    assert len(keys) == 3


def test_a_key_that_others_could_read_is_closed_and_an_empty_one_refused(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with pytest.raises(InvalidInput, match="no key"):
        load_api_key(run_dir)
    key = load_api_key(run_dir, create=True)
    run_dir.api_key.chmod(0o644)
    assert load_api_key(run_dir) == key
    assert stat.S_IMODE(run_dir.api_key.stat().st_mode) == 0o600
    run_dir.api_key.write_text("\n")
    with pytest.raises(InvalidInput, match="empty"):
        load_api_key(run_dir, create=True)


def test_a_key_file_that_is_a_link_or_no_file_is_refused(tmp_path: Path) -> None:
    run_dir, other = RunDir(tmp_path / "a"), RunDir(tmp_path / "b")
    load_api_key(other, create=True)
    run_dir.endpoints.mkdir(parents=True)
    run_dir.api_key.symlink_to(tmp_path / "none")
    with pytest.raises(InvalidInput, match="no key"):
        load_api_key(run_dir, create=True)
    run_dir.api_key.unlink()
    run_dir.api_key.symlink_to(other.api_key)
    with pytest.raises(InvalidInput, match="no key"):
        load_api_key(run_dir, create=True)
    run_dir.api_key.unlink()
    os.mkfifo(run_dir.api_key, 0o600)
    with pytest.raises(InvalidInput, match="it is no file"):
        load_api_key(run_dir)


def test_a_run_whose_key_is_empty_starts_no_server(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    load_api_key(run_dir, create=True)
    run_dir.api_key.write_text("\n")
    with supervising(run_dir) as process:
        output = process.stdout.read() if process.stdout else ""
        assert process.wait(240) == 2
    assert "the key of this run's servers is empty" in output
    assert "Traceback" not in output
    assert read_endpoint(run_dir, "user") is None


def test_an_engine_that_prints_its_environment_and_breaks_does_not_tell_the_key(
    tmp_path: Path,
) -> None:
    run_dir = make_run(tmp_path)
    code = "import os; key = os.environ['VLLM_API_KEY']; raise SystemError(f'{key} {os.environ}')"
    text = f'set -x\nenv\necho "$VLLM_API_KEY"\nexec {sys.executable} -c "{code}"\n'
    (run_dir.scripts / "serve_user.sh").write_text(text)
    with supervising(run_dir) as process:
        output = process.stdout.read() if process.stdout else ""
        assert process.wait(240) == 1
    assert "VLLM_API_KEY=[key]" in output
    assert "SystemError: [key] environ(" in output
    key = load_api_key(run_dir)
    assert key not in output
    assert holders(tmp_path, key) == ["api_key"]


BROKEN_SERVER = """
import sys
from emobench.scripted import command as cli, server

def broken(self, request):
    raise RuntimeError("a defect")

server.ScriptedServer.reply = broken
sys.exit(cli.main(["--port", "0", "--model", "m"]))
"""


def test_a_traceback_in_a_server_holds_no_key(tmp_path: Path) -> None:
    import urllib.error
    import urllib.request

    key = "a-key-that-nobody-may-see"
    log = tmp_path / "log"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-c", BROKEN_SERVER],
            env={**os.environ, "VLLM_API_KEY": key, "EMOBENCH_API_KEY": key},
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            processes.until(lambda: "listening on" in log.read_text(), "the server")
            url = log.read_text().split("listening on ")[1].split()[0]
            assert ChatClient(f"{url}/v1", key, 20).get("/models").status == 200
            request = urllib.request.Request(
                f"{url}/v1/chat/completions",
                data=json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode(),
                headers={"Authorization": f"Bearer {key}"},
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=240)
            with caught.value as error:
                assert error.code == 500
                body = error.read().decode()
        finally:
            process.terminate()
    assert "RuntimeError: a defect" in log.read_text()
    assert key not in log.read_text() + body


def test_an_endpoint_file_holds_no_key(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        process.terminate()
        assert process.wait(240) == 0
    publish(run_dir, endpoint)
    key = load_api_key(run_dir)
    assert holders(run_dir.path, key) == ["api_key"]


def test_a_vllm_script_without_a_key_starts_nothing(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    vllm = programs / "vllm"
    vllm.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started\n")
    vllm.chmod(0o755)
    script = tmp_path / "serve.sh"
    plan = make_plan(CUDA.model_copy(update={"server_setup": ()}), tmp_path)
    script.write_text(render(plan, RunDir(tmp_path), [find_shipped_templates()])["serve_user.sh"])
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    environment |= {"EMOBENCH_HOST": "h", "EMOBENCH_PORT": "1"}
    for key, code in ((None, False), ("", False), ("x", True)):
        given = environment if key is None else {**environment, "VLLM_API_KEY": key}
        ran = subprocess.run(
            ["bash", script], env=given, capture_output=True, text=True, timeout=240
        )
        assert (ran.returncode == 0) is code
        assert (tmp_path / "started").exists() is code
        assert code or "without a key this server would answer everybody" in ran.stderr
