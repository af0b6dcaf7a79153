"""How fields of the models that stand in YAML are written: short forms, and mistakes in words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from emobench.core.errors import list_names, show, suggest_nearest

JsonSchema = dict[str, Any]
MISTAKE = "mistake"
"""Type of the validation errors that carry a message, what is allowed, and a hint."""
MISSING = "this key is missing"


class Strict(BaseModel):
    """Base of everything read from YAML: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def make_mistake(message: str, allowed: str = "", hint: str = "") -> PydanticCustomError:
    """Return the error of a validator that refuses its value, for it to raise."""
    context = {"message": message, "allowed": allowed, "hint": hint}
    return PydanticCustomError(MISTAKE, "{message}", context)


def make_unknown_mistake(
    what: str, name: object, known: Sequence[str], where: str = ""
) -> PydanticCustomError:
    """Return the error of a name that is none of those known, with the nearest."""
    message = f"unknown {what.replace('_', ' ')} {show(name)}{where}"
    return make_mistake(
        message, list_names(known), suggest_nearest(name, known) if isinstance(name, str) else ""
    )


Found = dict[tuple[str | int, ...], PydanticCustomError]
"""The mistakes inside one field's value, each at its place below it."""


def refuse(found: Found) -> None:
    """Raise the ValidationError of all that was found, if anything was."""
    if found:
        raise ValidationError.from_exception_data("mistakes", _list_details(found))


def _list_details(found: Found) -> list[InitErrorDetails]:
    return [InitErrorDetails(type=e, loc=place, input=None) for place, e in found.items()]


def check_beside(check: Callable[[dict[str, Any]], Found]) -> WrapValidator:
    """Return a validator that adds a check of the written mapping to those of its type.

    Unlike an AfterValidator it tells its mistakes also where the type finds others.
    """

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        found = check(value) if isinstance(value, dict) else {}
        try:
            valid = handler(value)
        except ValidationError as error:
            others = [
                InitErrorDetails(
                    type=make_mistake(**item["ctx"]) if item["type"] == MISTAKE else item["type"],
                    loc=item["loc"],
                    input=item["input"],
                    ctx=item.get("ctx", {}),
                )
                for item in error.errors()
            ]
            raise ValidationError.from_exception_data(
                "mistakes", _list_details(found) + others
            ) from None
        refuse(found)
        return valid

    return WrapValidator(validate)


@dataclass(frozen=True)
class Accepts:
    """What a field takes, in words, where its type says it badly."""

    words: str


class Form(ABC):
    """Base of a short form: what is written becomes what the type wants before it is checked."""

    @abstractmethod
    def expand(self, value: Any) -> Any:
        """Return the long form; a value that is no short form as it is."""

    @abstractmethod
    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        """Return the JSON schema that takes the short form too."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchema:
        return self.extend_schema(handler(schema))


class OneOrMany(Form):
    """A list, or a single value that counts as a list of one."""

    def expand(self, value: Any) -> Any:
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        return {"anyOf": [schema["items"], schema]}


@dataclass(frozen=True)
class FromNumber(Form):
    """Text; a plain number is the text that it is written as."""

    kinds: tuple[type, ...] = (int,)

    def expand(self, value: Any) -> Any:
        return str(value) if type(value) in self.kinds else value

    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        return {**schema, "type": ["string", "integer" if self.kinds == (int,) else "number"]}


@dataclass(frozen=True)
class Shorthand(Form):
    """A mapping, or text that stands for a mapping with this one key."""

    key: str

    def expand(self, value: Any) -> Any:
        return {self.key: value} if isinstance(value, str) else value

    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        return {"anyOf": [{"type": "string"}, schema]}


@dataclass(frozen=True)
class Word(Form):
    """A value, or a word that stands for what `make` returns."""

    word: str
    make: Callable[[], Any]

    def expand(self, value: Any) -> Any:
        return self.make() if isinstance(value, str) and value == self.word else value

    def extend_schema(self, schema: JsonSchema) -> JsonSchema:
        return {"anyOf": [{"const": self.word}, schema]}


def _refuse_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    found: Found = {}
    for i, value in enumerate(values):
        if value in values[:i]:
            found[(i,)] = make_mistake(f"'{value}' is given twice", hint="keep one")
    refuse(found)
    return values


@dataclass(frozen=True)
class Declared:
    """Context of the validation of a file: the names that it declares, by what they name."""

    names: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Known:
    """A name that the file declares; any name where there is no file."""

    axis: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._check, handler(source))

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        known = info.context.names[self.axis] if isinstance(info.context, Declared) else ()
        # Where none is known, the mistake is where they are declared.
        if known and value not in known:
            raise make_unknown_mistake(self.axis, value, known)
        return value


T = TypeVar("T")
Items = Annotated[tuple[T, ...], OneOrMany()]
"""Any number of values; a single one may stand without a list."""
Axis = Annotated[tuple[T, ...], Field(min_length=1), OneOrMany(), AfterValidator(_refuse_repeats)]
"""Distinct values, one or more."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SafeName = Annotated[str, Field(pattern=NAME)]
"""Names that become file names, job names and array names."""
NonEmpty = Annotated[str, Field(min_length=1)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
"""A probability or a share."""
