"""Checks of a document's parts: every mistake is collected with its file, line, key and value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from emobench.config.words import expected, listing, show
from emobench.config.yaml_lines import Document, KeyPath, dotted
from emobench.core.errors import InvalidInput, Problem, nearest

M = TypeVar("M", bound=BaseModel)


class Reader:
    """A document, and the problems found in it so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def refuse(
        self, path: KeyPath, message: str, value: object = None, allowed: str = "", hint: str = ""
    ) -> None:
        """Note a mistake at a key path."""
        self.problems.append(
            Problem(
                message,
                file=self.document.file,
                line=self.document.line(path),
                key=dotted(path),
                value=value,
                allowed=allowed,
                hint=hint,
            )
        )

    def finish(self) -> None:
        """Raises InvalidInput with everything that was noted, in the order of the file."""
        if self.problems:
            raise InvalidInput(sorted(self.problems, key=lambda problem: problem.line))

    def missing(self, path: KeyPath, allowed: str) -> None:
        """Note a key that has to be there, unless it is there with a mistake."""
        if all(problem.key != dotted(path) for problem in self.problems):
            self.refuse(path, "this key is missing", allowed=allowed)

    def wanted(self, path: KeyPath, what: str, value: object) -> None:
        """Note that something else was found than what is wanted."""
        self.refuse(path, f"found {show(value)}", value, allowed=what)

    def mapping(self, path: KeyPath, value: object, what: str) -> dict[str, Any] | None:
        """The value if it is a mapping with at least one key."""
        if isinstance(value, dict) and value:
            return value
        self.wanted(path, what, value)
        return None

    def keys(self, path: KeyPath, data: Mapping[str, Any], allowed: Iterable[str]) -> None:
        """Note every key that is not among the allowed ones."""
        names = list(allowed)
        for key in data:
            if key not in names:
                self.unknown_key((*path, key), key, names)

    def unknown_key(self, path: KeyPath, key: str, names: Iterable[str], hint: str = "") -> None:
        names = list(names)
        self.refuse(path, "unknown key", key, listing(names), hint or nearest(key, names))

    def choice(
        self, path: KeyPath, value: object, names: Iterable[str], what: str, where: str = ""
    ) -> bool:
        """Whether the value is one of the names; notes the mistake otherwise."""
        names = list(names)
        if isinstance(value, str) and value in names:
            return True
        hint = nearest(value, names) if isinstance(value, str) else ""
        self.refuse(path, f"unknown {what} {show(value)}{where}", value, listing(names), hint)
        return False

    def scalar_or_list(self, path: KeyPath, value: object) -> list[tuple[KeyPath, Any]]:
        """The items with their paths; a single value counts as a list of one."""
        if isinstance(value, list):
            if not value:
                self.refuse(path, "an empty list", value, hint="give at least one value")
            return [((*path, i), item) for i, item in enumerate(value)]
        return [(path, value)]

    def model(self, cls: type[M], data: Mapping[str, Any], path: KeyPath = ()) -> M | None:
        """The data as a model, or None after noting what is wrong with it."""
        try:
            # JSON mode is strict about types, yet takes lists for tuples.
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            # A union reports a value once for each member; the deepest place says most.
            found = {_inside(data, item["loc"])[0]: dict(item) for item in error.errors()}
            for place, item in found.items():
                if not any(other[: len(place)] == place != other for other in found):
                    self._translate(cls, data, path, item)
            return None

    def _translate(
        self,
        cls: type[BaseModel],
        data: Mapping[str, Any],
        base: KeyPath,
        error: dict[str, Any],
    ) -> None:
        kind, location = error["type"], tuple(error["loc"])
        if kind == "extra_forbidden":
            owner = _model_in(_annotation(cls, location[:-1])[0])
            self.unknown_key((*base, *location), str(location[-1]), owner.model_fields)
            return
        if kind == "missing":
            annotation, metadata = _annotation(cls, location)
            self.missing((*base, *location), expected(annotation, metadata))
            return
        inside, value = _inside(data, location)
        annotation, metadata = _annotation(cls, inside)
        if location[-1:] == ("[key]",):
            value, annotation = inside[-1], get_args(_annotation(cls, inside[:-1])[0])[0]
        what = expected(annotation, metadata)
        # An unquoted number where text belongs is the commonest slip.
        number_as_text = kind == "string_type" and isinstance(value, bool | int | float)
        names = what.split(", ") if kind == "literal_error" else []
        hint = nearest(value, names) if isinstance(value, str) else ""
        self.refuse(
            (*base, *inside),
            f"found {show(value)}",
            value,
            what,
            "put it in quotes" if number_as_text else hint,
        )


def _inside(whole: Any, location: KeyPath) -> tuple[KeyPath, Any]:
    """The part of an error's location that exists in the data, and the value there."""
    path: KeyPath = ()
    data = whole
    for part in location:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not in_list and not (isinstance(data, dict) and part in data):
            continue  # the tag of a union's member, or a missing key
        data = data[part]
        path = (*path, part)
    return path, data


def _annotation(cls: type[BaseModel], path: KeyPath) -> tuple[Any, list[Any]]:
    """Type and constraints at a path inside a model."""
    annotation: Any = cls
    metadata: list[Any] = []
    for part in path:
        annotation = _model_in(annotation) if isinstance(part, str) else annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields[str(part)]
            annotation, metadata = field.annotation, list(field.metadata)
        else:
            items = _container_in(annotation)
            annotation, metadata = items, []
    return annotation, metadata


def _model_in(annotation: Any) -> Any:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return annotation


def _container_in(annotation: Any) -> Any:
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is tuple:
            return get_args(kind)[0]
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return Any
