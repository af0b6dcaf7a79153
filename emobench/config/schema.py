"""The JSON schema of the sweep file as users write it, for completion and checks in editors.

It accepts every file that `load_sweep` accepts; checks across keys (names that exist, task
counts) are the loader's alone.
"""

from __future__ import annotations

from typing import Any, get_args

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.config.variants import NAMES
from emobench.core.gates import Gates, JudgeSettings
from emobench.core.models import OpenAIModel, ScriptedModel, VllmModel
from emobench.core.sweep import AgentStrategy, Env, Fidelity, Settings

Schema = dict[str, Any]


def _one_or_many(item: Schema, description: str = "") -> Schema:
    schema: Schema = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    return {"description": description, **schema} if description else schema


def _object(properties: Schema, description: str = "", **more: Any) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "additionalProperties": False,
        **more,
    }


def sweep_file_schema() -> Schema:
    """The schema, draft 2020-12."""
    settings = Settings.model_json_schema()["properties"]
    settings["name"] = {
        "type": ["string", "integer"],
        "description": "Name of the study and of its run directory; default: the file's name.",
        "pattern": settings["name"]["pattern"],
    }
    settings["description"]["description"] = "What the study asks, for its report."
    settings["seed"]["description"] = "Seed of the whole study."
    settings["user_strategy"]["description"] = "tau-bench's strategy of the simulated user."
    settings["probe"]["enum"].append(False)
    del settings["probe"]["type"]
    definitions: Schema = {}
    for cls in (VllmModel, OpenAIModel, ScriptedModel, Fidelity, Gates, JudgeSettings):
        model = cls.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= model.pop("$defs", {})
        definitions[cls.__name__] = model
    # A single argument may stand without a list.
    arguments = definitions["VllmModel"]["properties"]["extra_args"]
    arguments["anyOf"] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    del arguments["type"], arguments["items"]
    # The engine is the only difference where `model` is all that is given.
    definitions["Model"] = {
        "anyOf": [
            {"type": "string", "description": "A model id; the engine is the file's `engine`."},
            *({"$ref": f"#/$defs/{cls.__name__}"} for cls in (VllmModel, OpenAIModel)),
            {"$ref": "#/$defs/ScriptedModel"},
        ]
    }
    for definition in definitions.values():
        _without_titles(definition)
    for setting in settings.values():
        setting.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "emobench sweep file",
        "description": "One study: a matrix of cells, the models, and where to run them.",
        "type": "object",
        "additionalProperties": False,
        "required": ["matrix", "trials"],
        "properties": {**settings, **_shorthand()},
        "$defs": definitions,
    }


def _shorthand() -> Schema:
    model: Schema = {"$ref": "#/$defs/Model"}
    axes = _axes()
    trial = _one_or_many({"type": "integer", "minimum": 1}, "Trial numbers, from 1.")
    filters = {**axes, "trial": trial}
    return {
        "cluster": {
            "type": "string",
            "minLength": 1,
            "default": "local",
            "description": "A cluster profile's name, or its path relative to this file.",
        },
        "engine": {
            "enum": ["vllm", "openai", "scripted"],
            "default": "vllm",
            "description": "Engine of every role that names none.",
        },
        "matrix": _object(
            axes, "The cells: every combination, trials times.", required=["env", "variant"]
        ),
        "tasks": _tasks(),
        "exclude": _cells(filters, "Cells to leave out: those that match every given key."),
        "include": _cells(filters, "Cells beside the matrix; a key left out is the matrix's."),
        "user": {"description": "The simulated user's model.", **model},
        "assistants": {
            "description": "The models under test: names to models, or a list of models.",
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": model, "minItems": 1},
                {"type": "object", "additionalProperties": model, "minProperties": 1},
            ],
        },
        "fidelity": {
            "description": "Departures from stock tau-bench: `stock` for none, or repairs by name.",
            "anyOf": [{"const": "stock"}, {"$ref": "#/$defs/Fidelity"}],
        },
        "gates": {
            "description": "Thresholds of the checks before a headline, declared before the data.",
            "$ref": "#/$defs/Gates",
        },
        "judge": {
            "description": "The model that labels the users' turns: a server of this sweep, or an "
            "endpoint.",
            "$ref": "#/$defs/JudgeSettings",
        },
        "variants": {
            "type": "object",
            "minProperties": 1,
            "description": "Variants of your own, beside the built-in ones.",
            "additionalProperties": _own_variant(),
        },
        "few_shot_displays": _object(
            {env: {"type": "string", "minLength": 1} for env in get_args(Env)},
            "Files of examples for agent strategy few-shot, relative to this file.",
            minProperties=1,
        ),
    }


def _axes() -> Schema:
    return {
        "env": _one_or_many({"enum": list(get_args(Env))}, "Environments of tau-bench."),
        "agent_strategy": _one_or_many(
            {"enum": list(get_args(AgentStrategy))}, "How the agent calls its tools."
        ),
        "variant": _one_or_many(
            {"anyOf": [{"enum": list(NAMES)}, {"type": "string"}]},
            "Conditions of the simulated user: built-in or from `variants`.",
        ),
        "assistant": _one_or_many({"type": "string"}, "Names from `assistants`; default: all."),
    }


def _tasks() -> Schema:
    item: Schema = {"type": ["integer", "string"], "minimum": 0}
    one = _one_or_many(item)
    counts = ", ".join(f"{env} 0 to {count - 1}" for env, count in TASK_COUNTS.items())
    return {
        "default": "all",
        "description": f"all, '0-19', '0-4,7', a list, or a mapping of env to these ({counts}).",
        "anyOf": [*one["anyOf"], _object(dict.fromkeys(TASK_COUNTS, one), minProperties=1)],
    }


def _cells(filters: Schema, description: str) -> Schema:
    item = _object(filters, minProperties=1)
    return {"description": description, "anyOf": [item, {"type": "array", "items": item}]}


def _own_variant() -> Schema:
    text = {"type": "string", "pattern": r"\S", "description": "The suffix to the user's prompt."}
    file = {"type": "string", "description": "A UTF-8 text file, relative to this file."}
    version = {"type": ["string", "number"], "default": "1"}
    return {
        "anyOf": [
            text,
            _object({"text": text, "version": version}, required=["text"]),
            _object({"file": file, "version": version}, required=["file"]),
        ]
    }


def _without_titles(schema: Schema) -> None:
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)


def schema_text() -> str:
    """The schema as it stands in docs/sweep.schema.json."""
    import json

    return json.dumps(sweep_file_schema(), indent=2) + "\n"
