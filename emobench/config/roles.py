"""`user` and `assistants` of a sweep file: a model id, or settings of one engine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from emobench.config.reader import Reader
from emobench.config.vllm_arguments import SET_BY_KEY, SET_BY_SCRIPT, flag_of
from emobench.config.words import PATTERNS, show
from emobench.config.yaml_lines import KeyPath
from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel, VllmModel
from emobench.core.run_dir import slug
from emobench.core.sweep import Settings

ENGINES: dict[str, type[VllmModel | OpenAIModel | ScriptedModel]] = {
    "vllm": VllmModel,
    "openai": OpenAIModel,
    "scripted": ScriptedModel,
}
SAFE_NAME = next(
    item.pattern for item in Settings.model_fields["name"].metadata if hasattr(item, "pattern")
)
_ROLE = "a model id, or a mapping with 'model' and its settings"
_TOOL_CALLING = ("--tool-call-parser", "--enable-auto-tool-choice")
_POLLUTES = (
    "a tool-call parser works on the whole server: behind it the simulated user starts to emit "
    "tool and reasoning markup; set it on the assistants only"
)


def safe_name(reader: Reader, path: KeyPath, name: object, what: str) -> bool:
    """Whether a name may become a file's and a job's name; notes the mistake otherwise."""
    if isinstance(name, str) and re.fullmatch(SAFE_NAME, name):
        return True
    reader.refuse(path, f"{show(name)} cannot be {what}", name, PATTERNS[SAFE_NAME])
    return False


def read_engine(reader: Reader, data: dict[str, Any]) -> str:
    """The engine of roles that name none."""
    engine = data.get("engine", "vllm")
    if reader.choice(("engine",), engine, ENGINES, "engine"):
        return str(engine)
    return "vllm"


def read_user(reader: Reader, data: dict[str, Any], engine: str) -> RoleModel | None:
    """The simulated user's model."""
    path: KeyPath = ("user",)
    if "user" not in data:
        if engine == "scripted":
            return ScriptedModel()
        reader.missing(path, _ROLE)
        return None
    value = data["user"]
    if isinstance(value, dict) and value.get("tool_call_parser") is not None:
        reader.refuse((*path, "tool_call_parser"), "not on the user's server", hint=_POLLUTES)
        value = {key: item for key, item in value.items() if key != "tool_call_parser"}
    model = _read_role(reader, path, value, engine)
    for at, argument in _extra_args(value):
        if flag_of(argument) in _TOOL_CALLING:
            reader.refuse((*path, *at), f"{show(argument)} is not for the user", hint=_POLLUTES)
    return model


def read_assistants(
    reader: Reader, data: dict[str, Any], engine: str
) -> tuple[dict[str, RoleModel], dict[str, KeyPath]]:
    """The assistants by name, and where each one stands in the file.

    A model with a mistake is noted and left out of the first result, not of the second.
    """
    base: KeyPath = ("assistants",)
    if "assistants" not in data:
        if engine == "scripted":
            return {"scripted": ScriptedModel()}, {"scripted": base}
        allowed = "a mapping of names to models, or a list of model ids"
        reader.missing(base, allowed)
        return {}, {}
    models: dict[str, RoleModel] = {}
    places: dict[str, KeyPath] = {}
    for path, name, value in _named(reader, base, data["assistants"]):
        if name in places:
            reader.refuse(
                path,
                f"a second assistant named '{name}'",
                value,
                hint="name them: write 'assistants' as a mapping of names to models",
            )
            continue
        if name and not safe_name(reader, path, name, "an assistant's name"):
            continue
        model = _read_role(reader, path, value, engine)
        if name:
            places[name] = path
        if model is not None and name:
            models[name] = model
    return models, places


def _named(reader: Reader, base: KeyPath, value: object) -> Iterator[tuple[KeyPath, str, object]]:
    """(path, name, settings) of each assistant; the name is empty where there is no telling."""
    if isinstance(value, dict) and value:
        yield from (((*base, name), name, item) for name, item in value.items())
        return
    if not isinstance(value, str | list):
        reader.wanted(base, "a mapping of names to models, or a list of model ids", value)
        return
    for path, item in reader.scalar_or_list(base, value):
        model = item.get("model", "scripted") if isinstance(item, dict) else item
        yield path, slug(model)[:64].rstrip(".-") if isinstance(model, str) else "", item


def _read_role(reader: Reader, path: KeyPath, value: object, engine: str) -> RoleModel | None:
    if isinstance(value, str):
        value = {"model": value}
    if not isinstance(value, dict):
        reader.wanted(path, _ROLE, value)
        return None
    engine = value.get("engine", engine)
    if not reader.choice((*path, "engine"), engine, ENGINES, "engine"):
        return None
    cls = ENGINES[engine]
    before = len(reader.problems)
    settings = {**value, "engine": engine}
    for key in value:
        if key not in cls.model_fields:
            owner = next((name for name, of in ENGINES.items() if key in of.model_fields), "")
            hint = f"'{key}' belongs to engine {owner}; this model's engine is {engine}"
            reader.unknown_key((*path, key), key, cls.model_fields, hint if owner else "")
            del settings[key]
    if isinstance(settings.get("extra_args"), str):
        settings["extra_args"] = [settings["extra_args"]]
    model = reader.model(cls, settings, path)
    for key, text in value.items():
        if isinstance(text, str) and re.search(r"[\t\r\n\u2028\u2029]", text):
            reader.refuse((*path, key), "more than one line, or a tab", text, "one line of text")
    for at, argument in _extra_args(value):
        flag = flag_of(argument)
        hint = "emobench sets it; remove it" if flag in SET_BY_SCRIPT else ""
        if key := SET_BY_KEY.get(flag):
            hint = f"write it as {key}: Slurm is asked for cards and nodes by that key"
        if flag == "--served-model-name":
            hint = "write it as served_name: the clients have to know it"
        if hint:
            reader.refuse((*path, *at), f"{show(argument)} is not allowed", argument, hint=hint)
    if isinstance(model, VllmModel) and model.accelerators % model.nodes:
        message = f"{model.accelerators} cards cannot be spread evenly over {model.nodes} nodes"
        hint = "tensor_parallel times pipeline_parallel has to be a multiple of nodes"
        reader.refuse((*path, "nodes"), message, model.nodes, hint=hint)
    if isinstance(model, VllmModel) and model.nodes > 1 and model.data_parallel > 1:
        hint = "leave one of them out; data_parallel is for one node"
        reader.refuse((*path, "data_parallel"), "data_parallel together with nodes", hint=hint)
    return model if len(reader.problems) == before else None


def _extra_args(value: object) -> Iterator[tuple[KeyPath, str]]:
    arguments = value.get("extra_args") if isinstance(value, dict) else None
    if isinstance(arguments, str):
        yield ("extra_args",), arguments
    elif isinstance(arguments, list):
        for i, argument in enumerate(arguments):
            if isinstance(argument, str):
                yield ("extra_args", i), argument


def calls_tools(model: RoleModel) -> bool:
    """Whether the model's server can answer with tool calls."""
    if not isinstance(model, VllmModel):
        return True
    given = {flag_of(argument) for argument in model.extra_args}
    return model.tool_call_parser is not None or "--tool-call-parser" in given


def place_model(model: RoleModel | None, folder: Path) -> RoleModel | None:
    """The model with the absolute path of a folder that begins with ./ or ../.

    No model id begins so, and the server's job may start elsewhere.
    """
    if not isinstance(model, VllmModel) or not model.model.startswith(("./", "../")):
        return model
    # Not resolved: where a link leads today says less than its name.
    return model.model_copy(update={"model": os.path.normpath(folder / model.model)})


def place_template(
    reader: Reader, path: KeyPath, model: RoleModel | None, folder: Path
) -> tuple[RoleModel | None, str]:
    """The model with the absolute path of its chat template, and the SHA-256 of the file.

    The hash is empty where there is no template, or none that this machine can read: an absolute
    path may be one of the nodes', or of a container.
    """
    if not isinstance(model, VllmModel) or model.chat_template is None:
        return model, ""
    file = folder / model.chat_template
    try:
        digest = sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        if Path(model.chat_template).is_absolute():
            return model, ""
        said = getattr(error, "strerror", None) or "no path"
        hint = f"looked for {file}; an absolute path may also be one that only the nodes have"
        reader.refuse((*path, "chat_template"), f"cannot be read: {said}", hint=hint)
        return model, ""
    return model.model_copy(update={"chat_template": str(file)}), digest
