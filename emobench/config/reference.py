"""What the models say of themselves: the sweep file's JSON schema, and the tables of the docs.

`python -m emobench.config.reference` writes docs/sweep.schema.json and the tables into the pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from emobench.config.sweep_file import OwnVariant, SweepFile
from emobench.config.words import describe_expected
from emobench.core.cluster import ClusterProfile, Container, JobResources, ServerResources
from emobench.core.fields import JsonSchema
from emobench.core.gates import FidelityGate, Gates, JudgeSettings, ManipulationGate
from emobench.core.models import Faults, OpenAIModel, Price, Sampling, ScriptedModel, VllmModel
from emobench.core.sweep import Matrix

TABLES: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(
            SweepFile,
            Matrix,
            Sampling,
            VllmModel,
            OpenAIModel,
            Price,
            ScriptedModel,
            Faults,
            OwnVariant,
        ),
        *(Gates, ManipulationGate, FidelityGate, JudgeSettings),
        *(ClusterProfile, JobResources, ServerResources, Container),
    )
}
_HEAD = "| key | default | what it takes | what it is |\n|---|---|---|---|\n"
_TABLE = re.compile(r"<!-- table (\w+) -->\n.*?<!-- end -->", re.DOTALL)
_DEFAULTS = {"name": "the file's", "assistant": "all of them"}
_SEE = {
    "assistants": "#user-and-assistants",
    "cluster": "clusters.md",
    "concurrency": "#how-many-at-a-time",
    "exclude": "#exclude-and-include",
    "fidelity": "fidelity.md",
    "gates": "#gates-and-judge",
    "idle_limit_min": "clusters.md#when-servers-leave",
    "include": "#exclude-and-include",
    "judge": "#gates-and-judge",
    "matrix": "#matrix",
    "max_cost": "#cost-of-hosted-models",
    "max_gpu_hours": "clusters.md#a-limit-on-cost",
    "probe": "probe.md",
    "tasks": "#tasks",
    "throttle": "#how-many-at-a-time",
    "user": "#user-and-assistants",
    "variants": "#variants",
}
"""Where the pages say more of a key of the sweep file."""


def build_sweep_file_schema() -> JsonSchema:
    """Return the JSON schema (draft 2020-12) of the sweep file, for editors.

    It takes every file that `load_sweep` takes; checks across keys (names that exist, task counts)
    are the loader's alone.
    """
    schema = _simplify(SweepFile.model_json_schema())
    for part in (schema, schema["$defs"]["CellFilter"]):
        for key, field in part["properties"].items():
            part["properties"][key] = _exclude_null(field)
    # The name is the file's where it is left out, and scripted roles need nothing.
    schema["required"] = ["matrix", "trials"]
    schema["if"] = {"properties": {"engine": {"const": "scripted"}}, "required": ["engine"]}
    schema["else"] = {"required": ["user", "assistants"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "emobench sweep file",
        **schema,
    }


def _simplify(schema: Any) -> Any:
    """Return a schema without what editors have no use for."""
    if isinstance(schema, list):
        return [_simplify(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain: JsonSchema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            plain[key] = {name: _simplify(item) for name, item in value.items()}
        elif key == "oneOf":
            plain["anyOf"] = _simplify(value)  # an engine may be left out
        elif key == "description":
            plain[key] = " ".join(value.split())
        elif key not in ("title", "discriminator") and (key, value) != ("default", None):
            plain[key] = value if key == "default" else _simplify(value)
    return plain


def _exclude_null(field: JsonSchema) -> JsonSchema:
    """Return the schema of a key that takes no null, though its model means 'unset' by it."""
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **{key: value for key, value in field.items() if key != "anyOf"}}
    return {**field, "anyOf": kinds} if kinds else field


def format_table(model: type[BaseModel]) -> str:
    """Return a model's keys as a table in Markdown; those of its base models stand in theirs."""
    left_out = set()
    if model is not Sampling and issubclass(model, Sampling):
        left_out = {*Sampling.model_fields, "engine"}
    if model is ServerResources:
        left_out = set(JobResources.model_fields)
    fields = [(name, f) for name, f in model.model_fields.items() if name not in left_out]
    if model is SweepFile:
        fields.sort(key=lambda item: not item[1].is_required())
    return _HEAD + "".join(_format_row(name, field, model) for name, field in fields)


def _format_row(name: str, field: FieldInfo, model: type[BaseModel]) -> str:
    meaning = " ".join((field.description or "").split())
    if model is SweepFile and name in _SEE:
        meaning += f" [More]({_SEE[name]})."
    takes = describe_expected(field.annotation, field.metadata).replace("|", "\\|")
    return f"| `{name}` | {_format_default(name, field)} | {takes} | {meaning} |\n"


def _format_default(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        value = ", ".join(value)
    if value in ("", {}):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value}`" if isinstance(value, str) else json.dumps(value)


def format_schema() -> str:
    """Return the schema as it stands in docs/sweep.schema.json."""
    return json.dumps(build_sweep_file_schema(), indent=2) + "\n"


def insert_tables(page: str) -> str:
    """Return a page with its tables as the models have them now."""
    return _TABLE.sub(
        lambda mark: f"<!-- table {mark[1]} -->\n{format_table(TABLES[mark[1]])}<!-- end -->", page
    )


def write(docs: Path) -> None:
    """Write the schema and the tables into the pages of a docs folder."""
    (docs / "sweep.schema.json").write_text(format_schema(), encoding="utf-8")
    for name in ("sweep-file.md", "clusters.md"):
        page = docs / name
        page.write_text(insert_tables(page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2] / "docs")
