"""Read a document into a model: every mistake is collected with its file, line, key and value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from emobench.config.words import describe_expected, list_members
from emobench.config.yaml_lines import Document, KeyPath, format_key_path
from emobench.core.errors import InvalidInput, Problem, list_names, show, suggest_nearest
from emobench.core.fields import MISSING, MISTAKE
from emobench.core.models import OpenAIModel, ScriptedModel, VllmModel

M = TypeVar("M", bound=BaseModel)
ENGINES: dict[str, type[VllmModel | OpenAIModel | ScriptedModel]] = {
    "vllm": VllmModel,
    "openai": OpenAIModel,
    "scripted": ScriptedModel,
}


class Reader:
    """A document, and the problems found in it so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def refuse(self, path: KeyPath, message: str, allowed: str = "", hint: str = "") -> None:
        """Note a mistake at a key path."""
        self.problems.append(
            Problem(
                message,
                file=self.document.file,
                line=self.document.find_line(path),
                key=format_key_path(path),
                allowed=allowed,
                hint=hint,
            )
        )

    def finish(self) -> None:
        """Raise InvalidInput with everything that was noted, in the order of the file."""
        if self.problems:
            raise InvalidInput(sorted(self.problems, key=lambda problem: problem.line))

    def parse_model(
        self,
        cls: type[M],
        data: Mapping[str, Any],
        context: object = None,
        places: Mapping[KeyPath, KeyPath] | None = None,
    ) -> M | None:
        """Return the data as a model, or None after noting all that is wrong with it.

        `places` says where the file has what stands elsewhere in the model.
        """
        try:
            return cls.model_validate(data, strict=True, context=context)
        except ValidationError as error:
            found = [
                (_relocate(item["loc"], places or {}), item)
                for item in error.errors(include_url=False)
            ]
            # A misspelt key comes before the one that is missing for it.
            for place, item in sorted(
                _keep_one_by_place(found, data), key=lambda item: item[1]["type"] == "missing"
            ):
                self._translate(cls, data, place, item)
            return None

    def _translate(
        self, cls: type[BaseModel], data: Mapping[str, Any], place: KeyPath, error: ErrorDetails
    ) -> None:
        """Note one of pydantic's errors in our words; `place` is where the file has it."""
        kind, location = error["type"], error["loc"]
        path, value = _locate(data, place)
        if kind == MISTAKE:
            said = error["ctx"]
            if said["message"] == MISSING:
                path = (*path, location[-1])
            self.refuse(path, said["message"], said["allowed"], said["hint"])
        elif kind == "extra_forbidden":
            kinds = list_members(_find_field(cls, location[:-1])[0])
            (owner,) = (kind for kind in kinds if hasattr(kind, "model_fields"))
            self._refuse_key(path, str(path[-1]), owner)
        elif kind == "missing":
            path = (*_locate(data, place[:-1])[0], place[-1])
            if all(problem.key != format_key_path(path) for problem in self.problems):
                allowed = describe_expected(*_find_field(cls, location))
                self.refuse(path, MISSING, allowed=allowed)
        else:
            if location[-1] == "[key]":
                value, (annotation, _) = path[-1], _find_field(cls, location[:-2])
                kinds = [kind for kind in list_members(annotation) if get_origin(kind) is dict]
                annotation, metadata = get_args(kinds[0])[0], ()
            else:
                annotation, metadata = _find_field(cls, location)
            what = describe_expected(annotation, metadata)
            hint = suggest_nearest(value, what.split(", ")) if isinstance(value, str) else ""
            if kind == "string_type" and isinstance(value, bool | int | float):
                hint = "put it in quotes"  # the commonest slip
            elif kind == "too_short" and value == []:
                hint = "give at least one value"
            self.refuse(path, f"found {show(value)}", what, hint)

    def _refuse_key(self, path: KeyPath, key: str, owner: Any) -> None:
        names = owner.model_fields
        hint = suggest_nearest(key, names)
        if owner in ENGINES.values():
            engine = names["engine"].default
            others = [name for name, cls in ENGINES.items() if key in cls.model_fields]
            if others:
                hint = f"'{key}' belongs to engine {others[0]}; this model's engine is {engine}"
        self.refuse(path, "unknown key", list_names(names), hint)


def _relocate(location: KeyPath, places: Mapping[KeyPath, KeyPath]) -> KeyPath:
    for path, place in places.items():
        if location[: len(path)] == path:
            return (*place, *location[len(path) :])
    return location


def _keep_one_by_place(
    errors: list[tuple[KeyPath, ErrorDetails]], data: Mapping[str, Any]
) -> list[tuple[KeyPath, ErrorDetails]]:
    """Return one error for each place; a union reports a value once for each of its members."""
    apart = [item for item in errors if item[1]["type"] in ("missing", MISTAKE)]
    found = {
        _locate(data, place)[0]: (place, error)
        for place, error in errors
        if error["type"] not in ("missing", MISTAKE)
        # A list counts as too short where none of its items is right.
        and not (
            error["type"] == "too_short"
            and any(place == other[: len(place)] != other for other, _ in errors)
        )
    }
    return apart + [
        item
        for path, item in found.items()
        if not any(other[: len(path)] == path != other for other in found)
    ]


def _locate(whole: Any, location: Iterable[str | int]) -> tuple[KeyPath, Any]:
    """Return the part of an error's location that exists in the data, and the value there."""
    path: KeyPath = ()
    data = whole
    for part in location:
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if not in_list and not (isinstance(data, dict) and part in data):
            continue  # the tag of a union's member, a short form, or a missing key
        data = data[part]
        path = (*path, part)
    return path, data


def _find_field(cls: type[BaseModel], location: Iterable[str | int]) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and metadata at an error's location inside a model."""
    annotation: Any = cls
    metadata: tuple[Any, ...] = ()
    for part in location:
        for kind in list_members(annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if part in kind.model_fields:
                    field = kind.model_fields[str(part)]
                    annotation, metadata = field.annotation, tuple(field.metadata)
                    break
                if "engine" in kind.model_fields and kind.model_fields["engine"].default == part:
                    annotation, metadata = kind, ()
                    break
            elif isinstance(part, int) and get_origin(kind) is tuple:
                annotation, metadata = get_args(kind)[0], ()
                break
            elif isinstance(part, str) and get_origin(kind) is dict and "[" not in part:
                annotation, metadata = get_args(kind)[1], ()
                break
    return annotation, metadata
