"""The sweep files, profiles and schema that come with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emobench.config.expand import expand
from emobench.config.load import load_profile, load_sweep
from emobench.config.reference import build_sweep_file_schema
from emobench.config.templates import find_shipped_sweeps, find_shipped_templates
from emobench.config.words import PATTERNS
from emobench.config.yaml_lines import load_yaml
from emobench.core.cluster import ClusterProfile
from emobench.core.models import OpenAIModel, ScriptedModel, VllmModel
from emobench.core.sweep import Settings
from tests.support.sweep_files import SCRIPTED, write

SWEEPS = sorted(find_shipped_sweeps().glob("*.yaml"))
PROFILES = sorted((find_shipped_templates() / "clusters").glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("quickstart", 8),
        ("emotions-retail-gaudi", 120),
        ("emotions-cuda", 24),
        ("openai-api", 2),
        ("vllm-cpu", 2),
    ],
)
def test_sweeps_load_and_expand(name: str, cells: int) -> None:
    sweep = load_sweep(find_shipped_sweeps() / f"{name}.yaml")
    assert sweep.name == name
    assert len(expand(sweep)) == cells


def test_all_shipped_files_are_covered() -> None:
    assert [file.stem for file in SWEEPS] == [
        "emotions-cuda",
        "emotions-retail-gaudi",
        "openai-api",
        "quickstart",
        "vllm-cpu",
    ]
    assert sorted(file.stem for file in PROFILES) == [
        "cuda",
        "cuda-container",
        "lab",
        "local",
        "sol-gaudi",
        "vllm-cpu",
    ]


def test_the_quickstart_is_small_and_needs_nothing() -> None:
    sweep = load_sweep(find_shipped_sweeps() / "quickstart.yaml")
    roles = [sweep.user, *sweep.assistants.values()]
    assert all(isinstance(role, ScriptedModel) for role in roles)
    assert sweep.cluster == "local"
    assert sum(len(cell.tasks) for cell in expand(sweep)) == 24


def test_profiles_load() -> None:
    profiles = {file.stem: load_profile(file.stem) for file in PROFILES}
    assert profiles["local"].scheduler == "local"
    assert profiles["sol-gaudi"].user_server.gres == "gpu:hl225"
    assert profiles["sol-gaudi"].server_env["PYTHONNOUSERSITE"] == "1"
    # Slurm there refuses jobs without a card.
    assert profiles["sol-gaudi"].array.partition != profiles["sol-gaudi"].user_server.partition
    container = profiles["cuda-container"].container
    assert container is not None and container.runtime == "apptainer"
    assert profiles["lab"].assistant_server.gres == "hpu:gaudi2"


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = build_sweep_file_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_sweeps_fit_the_schema(file: Path) -> None:
    validator().validate(load_yaml(file).data)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (SCRIPTED, True),
        (SCRIPTED + "exclude: {variant: anger}\n", True),
        (SCRIPTED + "variants: {x: {file: y, version: 1}}\n", True),
        (SCRIPTED + "seeed: 1\n", False),
        (SCRIPTED.replace("trials: 2", "trials: 0"), False),
        (SCRIPTED.replace("retail", "telecom"), False),
        (SCRIPTED.replace("mistakes: 0.1", "mistaks: 0.1"), False),
    ],
)
def test_the_schema_tells_good_from_bad(tmp_path: Path, text: str, fits: bool) -> None:
    data = load_yaml(write(tmp_path, text)).data
    assert validator().is_valid(data) is fits


def test_the_schema_in_the_docs_is_current() -> None:
    file = find_shipped_sweeps().parent / "docs" / "sweep.schema.json"
    assert outline(json.loads(file.read_text())) == outline(build_sweep_file_schema())


def outline(schema: Any) -> Any:
    """What an editor shows: keys, their texts and what they may be. Versions of pydantic word the
    rest of the same schema differently."""
    if isinstance(schema, list):
        return [outline(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {"properties", "$defs", "description", "enum", "default", "required", "pattern"}
    found = {key: outline(value) for key, value in schema.items() if key in kept}
    for names in ("properties", "$defs"):
        inner = schema.get(names)
        if isinstance(inner, dict):
            found[names] = {key: outline(value) for key, value in inner.items()}
    return found


def test_every_pattern_has_words() -> None:
    models = (Settings, ClusterProfile, VllmModel, OpenAIModel, ScriptedModel)
    text = json.dumps([model.model_json_schema() for model in models])
    found: set[str] = set()

    def patterns(value: Any) -> None:
        if isinstance(value, dict):
            found.update(v for k, v in value.items() if k == "pattern" and isinstance(v, str))
            for key, item in value.items():
                if key == "patternProperties":
                    found.update(item)
                patterns(item)
        elif isinstance(value, list):
            for item in value:
                patterns(item)

    patterns(json.loads(text))
    assert found and found <= set(PATTERNS)
