"""The sweep file as users write it: its keys, their short forms, and the checks of their values.

The JSON schema and the reference page are made of these models (`emobench.config.reference`).
Validation takes a `Context`: what the file declares elsewhere, and the folder that it stands in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.config.reader import ENGINES
from emobench.config.vllm_arguments import (
    SET_BY_KEY,
    SET_BY_SCRIPT,
    UNGUARDED,
    parse_flag,
    resolve_flag,
)
from emobench.config.yaml_lines import KeyPath
from emobench.core.errors import list_names, show, suggest_nearest
from emobench.core.fields import (
    MISSING,
    Accepts,
    Declared,
    Form,
    Found,
    FromNumber,
    JsonSchema,
    NonEmpty,
    OneOrMany,
    SafeName,
    Shorthand,
    Strict,
    Word,
    check_beside,
    make_mistake,
    make_unknown_mistake,
    refuse,
)
from emobench.core.gates import Gates, JudgeLabel, JudgeSettings
from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel, VllmModel
from emobench.core.ranges import parse_ranges
from emobench.core.redaction import names_secret, url_has_secret
from emobench.core.run_dir import slugify
from emobench.core.sweep import (
    AGENT_STRATEGIES,
    BUILTIN_VARIANTS,
    EARLIER_VARIANTS,
    ENVS,
    USER_STRATEGIES,
    CellFilter,
    Env,
    Fidelity,
    Matrix,
    Settings,
    UserStrategy,
)
from emobench.llm.providers import list_providers

_TASKS = "all, a range such as 0-19, a list such as [0, 3, 7], or one of these for each env"
_TOOL_CALLING = ("--tool-call-parser", "--enable-auto-tool-choice")
_POLLUTES = (
    "a tool-call parser works on the whole server: behind it the simulated user starts to emit "
    "tool and reasoning markup; set it on the assistants only"
)


@dataclass(frozen=True)
class Context(Declared):
    """What the values of a sweep file are checked against."""

    folder: Path
    """Relative paths start here."""
    engine: str
    """Of roles that name none."""
    trials: int
    matrix: Mapping[str, list[str]]
    """What the matrix names on an axis."""
    envs: list[str]
    """Of the matrix and of `include`."""
    places: Mapping[str, KeyPath]
    """Where each assistant stands in the file."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of the files that were read so far, by absolute path, in hex."""

    @classmethod
    def of(cls, data: Mapping[str, Any], folder: Path) -> Context:
        """Return the context of a file that may have mistakes, which validation tells."""
        engine, trials = data.get("engine"), data.get("trials")
        own = data.get("variants")
        places = {name: path for path, name, _ in list_assistants(data.get("assistants"))}
        names: dict[str, list[str]] = {
            "env": list(ENVS),
            "agent_strategy": list(AGENT_STRATEGIES),
            "variant": [
                *BUILTIN_VARIANTS,
                *EARLIER_VARIANTS,
                *(own if isinstance(own, dict) else ()),
            ],
            "assistant": list(places),
        }
        given = data.get("matrix")
        defaults = {"agent_strategy": ["tool-calling"], "assistant": names["assistant"]}
        axes = {**defaults, **(given if isinstance(given, dict) else {})}
        matrix = {
            axis: [name for name in known if name in _to_list(axes.get(axis, []))]
            for axis, known in names.items()
        }
        added = [item for item in _to_list(data.get("include", [])) if isinstance(item, dict)]
        envs = [*matrix["env"], *(env for item in added for env in _to_list(item.get("env", [])))]
        return cls(
            folder=folder,
            engine=engine if isinstance(engine, str) and engine in ENGINES else "vllm",
            trials=trials if type(trials) is int and 1 <= trials <= 1000 else 1000,
            names=names,
            matrix=matrix,
            envs=[env for env in ENVS if env in envs],
            places=places,
        )

    def read(self, path: str, advice: str = "") -> tuple[str, bytes]:
        """Return the absolute path and the bytes of a file; a mistake where it has none."""
        file = self.folder / path
        try:
            content = file.read_bytes()
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or "no path"
            hint = f"looked for {file}{advice}"
            raise make_mistake(f"cannot be read: {said}: {show(path)}", hint=hint) from None
        self.sha256[str(file)] = sha256(content).hexdigest()
        return str(file), content


def _get_context(info: ValidationInfo) -> Context:
    assert isinstance(info.context, Context)
    return info.context


def _to_list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def list_assistants(value: object) -> Iterator[tuple[KeyPath, str, object]]:
    """Yield path, name and settings of each assistant; in a list the ids give the names."""
    base: KeyPath = ("assistants",)
    if isinstance(value, dict):
        yield from (((*base, name), name, item) for name, item in value.items())
        return
    alone = not isinstance(value, list | tuple)
    for i, item in enumerate(_to_list(value)):
        model = item.get("model", "scripted") if isinstance(item, dict) else item
        name = slugify(model)[:64].rstrip(".-") if isinstance(model, str) else f"assistant-{i}"
        yield base if alone else (*base, i), name, item


class _NamedModels(Form):
    """Models by name; a list, or one alone, is named by the ids."""

    def expand(self, value: Any) -> dict[str, object]:
        if not value or not isinstance(value, str | list | tuple | dict):
            raise make_mistake(f"found {show(value)}", _ASSISTANTS.words)
        found: Found = {}
        models: dict[str, object] = {}
        for path, name, item in list_assistants(value):
            if name in models:
                hint = "name them: write 'assistants' as a mapping of names to models"
                found[path[1:]] = make_mistake(f"a second assistant named '{name}'", hint=hint)
            models[name] = item
        refuse(found)
        return models

    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        (model,) = schema["patternProperties"].values()
        models = {"type": "array", "items": model, "minItems": 1}
        return {"anyOf": [{"type": "string"}, models, {**schema, "minProperties": 1}]}


def _add_engine(value: Any, info: ValidationInfo) -> Any:
    """Name the engine of a role that names none; the engine says which keys there are."""
    if not isinstance(value, dict):
        return value
    engine = value.get("engine", _get_context(info).engine)
    if engine not in [*ENGINES]:
        refuse({("engine",): make_unknown_mistake("engine", engine, [*ENGINES])})
    return {**value, "engine": engine}


def _check_role(model: RoleModel, info: ValidationInfo) -> RoleModel:
    """Refuse what only vLLM or a shell would stumble over; make relative paths absolute."""
    found: Found = {}
    for key, value in model:
        if isinstance(value, str) and re.search(r"[\t\r\n\u2028\u2029]", value):
            found[(key,)] = make_mistake("more than one line, or a tab", "one line of text")
    if isinstance(model, ScriptedModel) and isinstance(model.mistakes, dict):
        known = _get_context(info).names["variant"]
        for name in set(model.mistakes).difference(known):
            found["mistakes", name] = make_unknown_mistake("variant", name, known)
    if isinstance(model, OpenAIModel) and model.provider != "openai":
        providers = list_providers()
        if providers and model.provider not in providers:
            found[("provider",)] = make_unknown_mistake("provider", model.provider, providers)
    if isinstance(model, VllmModel):
        model = _check_vllm(model, _get_context(info), found)
    refuse(found)
    return model


def _check_vllm(model: VllmModel, context: Context, found: Found) -> VllmModel:
    if model.accelerators % model.nodes:
        message = f"{model.accelerators} cards cannot be spread evenly over {model.nodes} nodes"
        hint = "tensor_parallel times pipeline_parallel has to be a multiple of nodes"
        found[("nodes",)] = make_mistake(message, hint=hint)
    if model.nodes > 1 and model.data_parallel > 1:
        hint = "leave one of them out; data_parallel is for one node"
        found[("data_parallel",)] = make_mistake("data_parallel together with nodes", hint=hint)
    if model.model.startswith(("./", "../")):
        # No model id begins so, and the server's job may start elsewhere. Not resolved: where a
        # link leads today says less than its name.
        folder = os.path.normpath(context.folder / model.model)
        model = model.model_copy(update={"model": folder})
    if (template := model.chat_template) is not None:
        try:
            advice = "; an absolute path may also be one that only the nodes have"
            template, _ = context.read(template, advice)
            model = model.model_copy(update={"chat_template": template})
        except PydanticCustomError as error:
            # An absolute path may be one of the nodes', or of a container.
            if not Path(template).is_absolute():
                found[("chat_template",)] = error
    return model


def _list_arguments(role: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the flags of `extra_args` with their places."""
    for i, argument in enumerate(_to_list(role.get("extra_args", []))):
        if isinstance(argument, str):
            yield i, parse_flag(argument)


def _check_arguments(role: dict[str, Any]) -> Found:
    """Refuse what emobench itself sets, and secrets."""
    found = _check_url(role)
    for i, written in _list_arguments(role):
        flag = resolve_flag(written)
        hint = "emobench sets it; remove it" if flag in SET_BY_SCRIPT else UNGUARDED.get(flag, "")
        if key := SET_BY_KEY.get(flag):
            hint = f"write it as {key}: Slurm is asked for cards and nodes by that key"
        if flag == "--served-model-name":
            hint = "write it as served_name: the clients have to know it"
        if names_secret(flag) and not hint and _has_value(role, i):
            hint = "it would stand in scripts and in `ps`; "
            hint += (
                "export HF_TOKEN before submitting: vLLM reads it"
                if flag == "--hf-token"
                else "use the variable that vLLM reads it from"
            )
        if hint:
            found["extra_args", i] = make_mistake(f"'{written}' is not allowed", hint=hint)
    return found


def _has_value(role: dict[str, Any], place: int) -> bool:
    """Return whether an argument has a value: --hf-token alone takes the token of `hf auth
    login`."""
    given, *after = _to_list(role["extra_args"])[place : place + 2]
    alone = "=" not in given and not given.split()[1:]
    return not alone or bool(after and not str(after[0]).startswith("-"))


def _check_url(settings: Mapping[str, Any]) -> Found:
    """Refuse an address with a secret in it, without repeating it."""
    url = settings.get("base_url")
    if not isinstance(url, str) or not url_has_secret(url):
        return {}
    name = settings.get("api_key_env") or "OPENAI_API_KEY"
    hint = f"leave it out, and export {name} (api_key_env) before submitting"
    return {("base_url",): make_mistake("holds a password or a key", hint=hint)}


def _check_user(role: dict[str, Any]) -> Found:
    """Refuse tool calls on the user's side."""
    found: Found = {}
    if role.get("tool_call_parser") is not None:
        found[("tool_call_parser",)] = make_mistake("not on the user's server", hint=_POLLUTES)
    for i, flag in _list_arguments(role):
        if flag in _TOOL_CALLING:
            found["extra_args", i] = make_mistake(f"'{flag}' is not for the user", hint=_POLLUTES)
    return found


def _check_cells(cells: CellFilter, info: ValidationInfo) -> CellFilter:
    """Refuse a filter that says nothing, and trials beyond the last."""
    if not cells.model_fields_set:
        raise make_mistake("found an empty mapping", list_names(CellFilter.model_fields))
    found: Found = {}
    for key in cells.model_fields_set:
        if getattr(cells, key) is None:
            found[(key,)] = make_mistake("has no value", hint="give one, or remove the key")
    last = _get_context(info).trials
    for i, trial in enumerate(cells.trial or ()):
        if not 1 <= trial <= last:
            found["trial", i] = make_mistake(f"found {trial}", f"trial numbers from 1 to {last}")
    refuse(found)
    return cells


def _check_excluded(cells: CellFilter, info: ValidationInfo) -> CellFilter:
    """Refuse what the matrix does not have, which excludes nothing."""
    found: Found = {}
    for axis, known in _get_context(info).matrix.items():
        for i, name in enumerate(getattr(cells, axis) or ()):
            if known and name not in known:
                found[axis, i] = make_unknown_mistake(axis, name, known, " in this sweep's matrix")
    refuse(found)
    return cells


def _read_tasks(value: Any, info: ValidationInfo) -> dict[str, tuple[int, ...]]:
    """Return the task indices of each environment that cells use."""
    found: Found = {}
    envs: list[str] = _get_context(info).envs
    if isinstance(value, dict):
        for key in [key for key in value if key not in ENVS]:
            found[(key,)] = make_mistake(
                "unknown key", list_names(ENVS), suggest_nearest(str(key), ENVS)
            )
        for env in [env for env in envs if env not in value]:
            found[(env,)] = make_mistake(MISSING, _TASKS)
        tasks = {e: _parse_indices(found, (e,), value[e], e) for e in envs if e in value}
    else:
        tasks = {env: _parse_indices(found, (), value, env) for env in envs}
    refuse(found)
    return tasks


def _parse_indices(found: Found, path: KeyPath, value: object, env: str) -> tuple[int, ...]:
    count = TASK_COUNTS[env]
    if value == "all":
        return tuple(range(count))
    if value == []:
        found[*path] = make_mistake("found an empty list", _TASKS, "give at least one value")
    indices: set[int] = set()
    for i, item in enumerate(_to_list(value)):
        error = make_mistake(f"found {show(item)}", _TASKS)
        try:
            if isinstance(item, bool) or not isinstance(item, int | str):
                raise error
            ranges = [range(item, item + 1)] if isinstance(item, int) else parse_ranges(item)
            if any(each.start < 0 or each.stop > count for each in ranges):
                allowed = f"0 to {count - 1} ({env} has {count} tasks)"
                hint = "" if path else "for each env: {retail: ..., airline: ...}"
                raise make_mistake(f"{show(item)} is out of range for {env}", allowed, hint)
            indices.update(index for each in ranges for index in each)
        except PydanticCustomError as error:
            found[*path, i] = error
        except ValueError as said:
            found[*path, i] = make_mistake(f"found {said}", _TASKS)
    return tuple(sorted(indices))


def _build_tasks_schema() -> JsonSchema:
    item: JsonSchema = {"type": ["integer", "string"], "minimum": 0}
    one: JsonSchema = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    envs = {"type": "object", "properties": dict.fromkeys(ENVS, one), "minProperties": 1}
    return {"anyOf": [*one["anyOf"], {**envs, "additionalProperties": False}]}


class OwnVariant(Strict):
    """A variant of the sweep's own."""

    text: str | None = Field(default=None, pattern=r"\S")
    """The suffix to the user's system prompt; space before and after it does not count."""
    file: NonEmpty | None = None
    """A UTF-8 text file that holds it, relative to the sweep file; in place of `text`."""
    version: Annotated[str, FromNumber((int, float))] = "1"
    """For your own records; what identifies a variant is the SHA-256 of its text."""
    judged_as: JudgeLabel | None = None
    """The emotion that a judge should see in it, or neutral, for the manipulation gate; unset: the
    gate is not checked."""


_VARIANT = "text, or a mapping with text or file, version and judged_as"


def _read_variant(variant: OwnVariant, info: ValidationInfo) -> OwnVariant:
    """Return the variant with its text, from its file where it names one."""
    if (variant.text is None) == (variant.file is None):
        raise make_mistake("give either text or file", _VARIANT)
    if variant.file is None:
        return variant
    text = ""
    try:
        text = _get_context(info).read(variant.file)[1].decode("utf-8-sig")
        if not text.strip():
            raise make_mistake(f"{show(variant.file)} is empty")
    except UnicodeDecodeError:
        refuse({("file",): make_mistake(f"{show(variant.file)} is not UTF-8 text")})
    except PydanticCustomError as error:
        refuse({("file",): error})
    return variant.model_copy(update={"text": text})


def _refuse_builtin(name: str) -> str:
    if name in BUILTIN_VARIANTS:
        message = f"'{name}' is a built-in variant and cannot be redefined"
        raise make_mistake(message, hint="choose another name")
    return name


def _refuse_human(strategy: Any) -> Any:
    if strategy == "human":
        hint = "a sweep runs unattended: nobody is there to type the user's replies"
        raise make_mistake("'human' is not possible", list_names(USER_STRATEGIES), hint)
    return strategy


def _check_judge(judge: JudgeSettings, info: ValidationInfo) -> JudgeSettings:
    """Hold the judge to a server of the sweep, or to an endpoint that is named fully."""
    found = _check_url(judge.model_dump())
    servers = ["user", *_get_context(info).names["assistant"]]
    if judge.server is None:
        for key in [key for key in ("model", "base_url") if getattr(judge, key) is None]:
            what = "model and base_url, or server: user or an assistant's name"
            found[(key,)] = make_mistake(MISSING, what)
    else:
        if judge.server not in servers:
            found[("server",)] = make_unknown_mistake("server", judge.server, servers)
        hint = "a server of the sweep has its own; leave this out, or leave server out"
        for key in judge.model_fields_set.intersection(("model", "base_url", "api_key_env")):
            found[(key,)] = make_mistake("together with server", hint=hint)
    refuse(found)
    return judge


_ROLE = Accepts("a model id, or a mapping with 'model' and its settings")
_ASSISTANTS = Accepts("a mapping of names to models, or a list of model ids")
_Cells = Annotated[CellFilter, AfterValidator(_check_cells)]
_Excluded = Annotated[_Cells, AfterValidator(_check_excluded)]
_CELLS = Accepts(f"a mapping with some of: {', '.join(CellFilter.model_fields)}; or a list of such")
Role = Annotated[
    RoleModel,
    BeforeValidator(_add_engine),
    Shorthand("model"),
    AfterValidator(_check_role),
    check_beside(_check_arguments),
    _ROLE,
]


class SweepFile(Settings):
    """One study: a matrix of cells, the models, and where to run them."""

    user_strategy: Annotated[UserStrategy, BeforeValidator(_refuse_human)] = "llm"
    """tau-bench's strategy of the simulated user. `human` is refused: a sweep runs unattended."""
    cluster: NonEmpty = "local"
    """A cluster profile: its name, or a path relative to the sweep file, then to the current
    folder."""
    engine: Literal["vllm", "openai", "scripted"] = "vllm"
    """Of every role that names none."""
    matrix: Matrix
    """What is crossed with what."""
    tasks: Annotated[
        dict[Env, tuple[int, ...]],
        BeforeValidator(_read_tasks),
        WithJsonSchema(_build_tasks_schema()),
        Accepts(_TASKS),
    ] = Field(default="all", validate_default=True)
    """Which tasks, counted from 0 in tau-bench's test split."""
    exclude: Annotated[tuple[_Excluded, ...], OneOrMany(), _CELLS] = ()
    """Cells to leave out of the matrix: those that match every given key."""
    include: Annotated[tuple[_Cells, ...], OneOrMany(), _CELLS] = ()
    """Cells beside the matrix; a key that is left out has the matrix's values."""
    user: Annotated[Role, check_beside(_check_user)]
    """The model of the simulated user; not needed with `engine: scripted`."""
    assistants: Annotated[dict[SafeName, Role], _NamedModels(), _ASSISTANTS]
    """The models under test; not needed with `engine: scripted`."""
    variants: Annotated[
        dict[
            Annotated[SafeName, AfterValidator(_refuse_builtin)],
            Annotated[OwnVariant, Shorthand("text"), AfterValidator(_read_variant)],
        ],
        Accepts(f"a mapping of names to {_VARIANT}"),
    ] = Field(default={}, min_length=1)
    """Variants of your own, beside the built-in ones."""
    few_shot_displays: Annotated[
        dict[Env, Annotated[str, AfterValidator(lambda path, info: info.context.read(path)[0])]],
        Accepts("a mapping of env to a file of examples"),
    ] = Field(default={}, min_length=1)
    """Files of examples for agent strategy few-shot, relative to the sweep file."""
    fidelity: Annotated[
        Fidelity,
        Word("stock", Fidelity.stock),
        Accepts("stock, or a mapping of repairs to true or false"),
    ] = Fidelity()
    """Departures from stock tau-bench: `stock` for none, or repairs by name."""
    gates: Gates = Gates()
    """Thresholds of the checks before a headline, declared before the data."""
    judge: Annotated[JudgeSettings, AfterValidator(_check_judge)] | None = None
    """The model that labels the users' turns: a server of this sweep, or an endpoint."""
