"""Shorthand and defaults."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from emobench.config.expand import expand
from emobench.config.load import load_sweep
from emobench.core.models import OpenAIModel, ScriptedModel, VllmModel
from tests.support.sweep_files import SCRIPTED, load, write


def test_defaults(tmp_path: Path) -> None:
    sweep = load(tmp_path, SCRIPTED)
    assert sweep.name == "study" and sweep.cluster == "local"
    assert sweep.matrix.agent_strategy == ("tool-calling",)
    assert sweep.matrix.assistant == ("good", "bad")
    assert isinstance(sweep.user, ScriptedModel)
    assert set(sweep.variants) == {"control", "anger"}
    assert sweep.variants["control"].text == ""


@pytest.mark.parametrize(
    ("tasks", "retail", "airline"),
    [
        ("all", 115, 50),
        ('"0-19"', 20, 20),
        ("0-19", 20, 20),
        ("7", 1, 1),
        ("[0, 3, 7, 3]", 3, 3),
        ('"0-4, 7,9-11"', 9, 9),
        ('["0-4", 7]', 6, 6),
        ("{retail: 0-19, airline: all}", 20, 50),
    ],
)
def test_tasks(tmp_path: Path, tasks: str, retail: int, airline: int) -> None:
    text = SCRIPTED.replace("env: retail", "env: [retail, airline]")
    sweep = load(tmp_path, text.replace("tasks: 0-2", f"tasks: {tasks}"))
    assert {env: len(found) for env, found in sweep.tasks.items()} == {
        "retail": retail,
        "airline": airline,
    }
    assert all(list(found) == sorted(set(found)) for found in sweep.tasks.values())


def test_models_as_text_take_the_engine_of_the_file(tmp_path: Path) -> None:
    text = (
        "engine: openai\nmatrix: {env: airline, variant: control}\ntrials: 1\nuser: gpt-4o\n"
        "assistants: [x/one, {model: y/two, temperature: 0}, {engine: scripted}]\n"
    )
    sweep = load(tmp_path, text)
    assert [*sweep.assistants] == ["one", "two", "scripted"]
    assert isinstance(sweep.user, OpenAIModel)
    assert isinstance(sweep.assistants["two"], OpenAIModel)
    assert isinstance(sweep.assistants["scripted"], ScriptedModel)
    text = text.replace("engine: openai\n", "").replace("control", "control, agent_strategy: act")
    vllm = load(tmp_path, text)
    assert isinstance(vllm.user, VllmModel)


def test_own_variants_from_text_and_file(tmp_path: Path) -> None:
    (tmp_path / "sad.txt").write_text("You are säd.\n", encoding="utf-8")
    sweep = load(
        tmp_path,
        SCRIPTED.replace("[control, anger]", "[control, sad, calm, plain]")
        + "variants:\n  sad: {file: sad.txt, version: 3}\n  calm: {text: Be calm., version: b}\n"
        "  plain: Be plain.\n  unused: Never.\n",
    )
    assert set(sweep.variants) == {"control", "sad", "calm", "plain"}
    sad = sweep.variants["sad"]
    assert (sad.text, sad.version) == ("You are säd.", "3")
    assert sad.sha256 == sha256("You are säd.".encode()).hexdigest()
    assert sweep.variants["calm"].version == "b"


def test_few_shot_files_are_found_beside_the_sweep_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text("{}\n")
    sweep = load(
        tmp_path,
        SCRIPTED.replace("env: retail", "env: retail, agent_strategy: few-shot")
        + "few_shot_displays: {retail: shots.jsonl}\n",
    )
    assert sweep.few_shot_displays == {"retail": str((tmp_path / "shots.jsonl").resolve())}
    assert sweep.few_shot_sha256 == {"retail": sha256(b"{}\n").hexdigest()}


def test_include_takes_the_rest_from_the_matrix(tmp_path: Path) -> None:
    sweep = load(tmp_path, SCRIPTED + "include: {env: airline, variant: placebo, trial: 1}\n")
    added = [cell for cell in expand(sweep) if cell.env == "airline"]
    assert [(cell.assistant, cell.variant, cell.trial) for cell in added] == [
        ("good", "placebo", 1),
        ("bad", "placebo", 1),
    ]
    assert sweep.tasks["airline"] == (0, 1, 2)


def test_an_assistant_without_cells_gets_no_server(tmp_path: Path) -> None:
    sweep = load(tmp_path, SCRIPTED + "exclude: {assistant: bad}\n")
    assert list(sweep.assistants) == ["good"]


def test_a_matrix_without_control_is_fine(tmp_path: Path) -> None:
    sweep = load(tmp_path, SCRIPTED.replace("[control, anger]", "anger"))
    assert {cell.variant for cell in expand(sweep)} == {"anger"}


def test_a_cluster_by_path_is_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "früh und spät"
    folder.mkdir()
    (folder / "site.yaml").write_text("scheduler: local\n")
    (tmp_path / "here.yaml").write_text("scheduler: local\n")
    monkeypatch.chdir(tmp_path)
    file = write(folder, SCRIPTED + "cluster: site.yaml\n")
    assert load_sweep(file).cluster == str((folder / "site.yaml").resolve())
    assert load_sweep(file, cluster="here.yaml").cluster == str(tmp_path / "here.yaml")
    assert load_sweep(file, cluster="lab").cluster == "lab"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("./models/small", "{folder}/models/small"),
        ("../models/small/", "{parent}/models/small"),
        ("models/small", "models/small"),
        ("/models/small", "/models/small"),
    ],
)
def test_a_models_folder_may_be_relative_to_the_file(
    tmp_path: Path, given: str, found: str
) -> None:
    text = (
        "matrix: {env: retail, agent_strategy: react, variant: control}\n"
        f"trials: 1\nuser: u\nassistants: {{a: {given}}}\n"
    )
    wanted = found.format(folder=tmp_path, parent=tmp_path.parent)
    assert load(tmp_path, text).assistants["a"].model == wanted
