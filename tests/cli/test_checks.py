"""From a real scripted run, through a judge over HTTP, to verdicts and checks.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from emobench.analysis.assessment import assess, build_schema
from emobench.cli.main import main
from emobench.config.templates import find_shipped_sweeps
from emobench.core.run_dir import RunDir
from emobench.scripted.judge import reply
from tests.support.commands import as_process
from tests.support.model_server import Reply, recording
from tests.support.scripted import Launch

SWEEP = """\
name: checked
engine: scripted
matrix: {env: [retail, airline], variant: [control, placebo, anger, anxiety]}
trials: 1
tasks: 0-2
gates: {smallest_effect: 1.0}
assistants: {scripted: {mistakes: 0.5}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "checked.yaml").write_text(SWEEP)
    done = as_process(folder, "sweep", "checked.yaml", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "checked"


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "checked"))


def checks_of(run_dir: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run_dir / "checks.json").read_text())
    jsonschema.Draft202012Validator(build_schema()).validate(data)
    return data


def verdicts(data: dict[str, Any], gate: str) -> dict[tuple[str, str], str]:
    return {
        (each["condition"]["env"], each["condition"]["variant"]): each["verdict"]
        for each in data["gates"]
        if each["gate"] == gate
    }


def test_without_a_judge(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(run_dir)])
    said = capsys.readouterr().out
    data = checks_of(run_dir)
    assert set(verdicts(data, "manipulation").values()) == {"not_checked"}
    assert "not checked  manipulation: no judge has labelled its turns" in said
    assert set(verdicts(data, "coverage").values()) == {"passed"}
    # A scripted user says its whole instruction and nothing else.
    assert set(verdicts(data, "fidelity").values()) == {"passed"}
    assert data["slips"] == []
    for each in data["fidelity"]:
        assert each["measures"]["conveyed"]["value"] == 1.0
        assert each["measures"]["invented"]["events"] == 0
    # Three tasks detect nothing: the gate that can fail does, and the exit code says so.
    assert set(verdicts(data, "power").values()) == {"failed"}
    assert (code, data["verdict"]) == (1, "failed")


def test_with_a_judge(launch: Launch, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{launch(role='judge').url}/v1"
    assert main(["judge", str(run_dir), "--base-url", url, "--model", "scripted"]) == 0
    first = capsys.readouterr().out
    data = checks_of(run_dir)
    assert set(verdicts(data, "manipulation").values()) == {"passed"}
    assert data["judge"] == "scripted"
    rows = {
        (each["condition"]["env"], each["condition"]["variant"]): each["labels"]
        for each in data["manipulation"][0]["conditions"]
    }
    assert set(rows) == {(e, v) for e in ("retail", "airline") for v in VARIANTS}
    for (_, variant), labels in rows.items():
        label = variant if variant in ("anger", "anxiety") else "neutral"
        assert labels[label] == sum(labels.values()) > 0
    assert "anger" in first and "without an answer" not in first

    before = (run_dir / "judge.jsonl").read_bytes()
    again = ["judge", str(run_dir), "--base-url", "http://127.0.0.1:9/v1", "--model", "scripted"]
    assert main(again) == 0
    assert " 0 now" in capsys.readouterr().out
    assert (run_dir / "judge.jsonl").read_bytes() == before


VARIANTS = ("control", "placebo", "anger", "anxiety")


def test_a_second_judge_is_compared(run_dir: Path) -> None:
    for mistakes, model in ((0.0, "scripted"), (0.4, "other")):

        def answer(request: dict[str, Any], rate: float = mistakes) -> Reply:
            return Reply(reply(request["messages"], rate, 3).content)

        with recording(answer) as server:
            assert main(["judge", str(run_dir), "--base-url", server.url, "--model", model]) == 0
    data = checks_of(run_dir)
    (found,) = data["judges_agree"]
    assert found["what"] == "other and scripted"
    assert 0.2 < found["kappa"] < found["observed"] < 1
    assert found["turns"] == sum(each["turns"] for each in data["manipulation"][0]["conditions"])


def test_a_judge_and_gates_declared_after_the_run_are_used(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    plan = json.loads((run_dir / "plan.json").read_text())
    file = run_dir.parent / "checked.yaml"
    (run_dir / "plan.json").write_text(json.dumps({**plan, "sweep_file": str(file)}))
    with recording(lambda request: Reply('{"emotion": "anger", "intensity": 2}')) as server:
        declared = f"judge: {{model: late, base_url: {server.url}}}"
        changed = SWEEP.replace("smallest_effect: 1.0", "smallest_effect: 0.001")
        file.write_text(f"{changed}{declared}\n")
        assert main(["judge", str(run_dir)]) == 0
    assert "gates.smallest_effect: was 1.0, now 0.001" in capsys.readouterr().out
    data = checks_of(run_dir)
    assert data["judge"] == "late"
    assert set(verdicts(data, "power").values()) == {"failed"}
    assert data["thresholds_changed"]
    assert main(["check", str(run_dir)]) == 1
    said = capsys.readouterr().out
    assert "since the submission: gates.smallest_effect: was 1.0, now 0.001" in said
    assert "they were not declared before the data" in said
    assert main(["report", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    assert "gates.smallest_effect: was 1.0, now 0.001" in page
    assert "Changed thresholds." in page


def test_a_judge_that_sees_nothing_fails_the_variants(run_dir: Path) -> None:
    neutral = Reply('{"emotion": "neutral", "intensity": 0}')
    with recording(lambda request: neutral) as server:
        assert main(["judge", str(run_dir), "--base-url", server.url, "--model", "m"]) == 0
        asked = [message["content"] for r in server.requests for message in r["messages"]]
    data = checks_of(run_dir)
    found = verdicts(data, "manipulation")
    assert {found["retail", "anger"], found["airline", "anxiety"]} == {"failed"}
    assert {found["retail", "placebo"], found["airline", "placebo"]} == {"passed"}
    # Blind: no word of the conversation but the turn, and nothing of the condition.
    assert not any("How you come across" in text or "placebo" in text for text in asked)
    assert not any("###STOP###" in text for text in asked)


def test_missing_answers_are_reported(
    launch: Launch, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{launch(role='judge', faults={'null_content': 1.0}).url}/v1"
    assert main(["judge", str(run_dir), "--base-url", url, "--model", "scripted"]) == 0
    assert "hold no label beyond doubt" in capsys.readouterr().out
    data = checks_of(run_dir)
    assert set(verdicts(data, "manipulation").values()) == {"not_checked"}


def test_a_sample_takes_the_same_tasks_of_every_variant(launch: Launch, run_dir: Path) -> None:
    url = f"{launch(role='judge').url}/v1"
    argv = ["judge", str(run_dir), "--base-url", url, "--model", "scripted", "--sample", "1"]
    assert main(argv) == 0
    found = assess(RunDir(run_dir), sample=1)
    tasks = {(e.condition.env, e.condition.variant): e.task_id for e in found.episodes}
    assert len(found.episodes) == len(tasks) == 8
    assert len({task for (env, _), task in tasks.items() if env == "retail"}) == 1
    assert all(each.missing == 0 for each in found.checks.manipulation[0].conditions)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "which judge?"),
        (["--model", "m"], "which judge?"),
        (["--server", "nobody"], "it has user, scripted"),
        (["--server", "user", "--model", "m"], "leave the other three out"),
        (["--base-url", "ftp://x", "--model", "m"], "--base-url"),
        (["--base-url", "http://x/v1", "--model", "m", "--api-key-env", "ABSENT"], "ABSENT"),
        (["--base-url", "http://x/v1", "--model", "m", "--concurrency", "9999"], "--concurrency"),
        (["--base-url", "http://x/v1", "--model", "m", "--api-key-env", "1-2"], "--api-key-env: "),
    ],
)
def test_mistakes_at_the_command_line(
    run_dir: Path, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(run_dir), *argv]) == 2
    assert words in capsys.readouterr().err


def test_a_server_that_has_left(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(run_dir), "--server", "user"]) == 3
    said = capsys.readouterr().err
    assert "server 'user' of this sweep is not there" in said
    assert "--keep-servers" in said


def test_the_schema_in_the_docs_is_the_codes() -> None:
    file = find_shipped_sweeps().parent / "docs" / "checks.schema.json"
    assert json.loads(file.read_text("utf-8")) == build_schema()
