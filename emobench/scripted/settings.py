"""What a scripted server is told: the role's model settings, and the variants' texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from emobench.core.errors import InvalidInput, Problem, nearest
from emobench.core.models import ScriptedModel

Role = Literal["user", "assistant", "both", "judge"]


class ScriptedSettings(ScriptedModel):
    """The settings file: a scripted model's keys and `variants`."""

    variants: dict[str, str] = Field(default_factory=dict)
    """Suffix of the user's system prompt by variant; an empty one (control) is never matched."""


@dataclass(frozen=True)
class ServerSettings:
    """Everything `serve` needs."""

    role: Role = "both"
    model: str = "scripted"
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    seed: int = 0
    api_key: str | None = field(default=None, repr=False)
    """None: no key is asked for."""
    incarnation: str = ""
    server: str = ""
    """What it proves to be, with the key."""
    scripted: ScriptedSettings = field(default_factory=ScriptedSettings)


def load_settings(path: Path | None) -> ScriptedSettings:
    """Raises InvalidInput, naming each wrong key."""
    if path is None:
        return ScriptedSettings()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except ValueError as error:
        raise InvalidInput(Problem(f"is no JSON: {error}", str(path))) from None
    try:
        return ScriptedSettings.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(
            Problem(
                detail["msg"],
                str(path),
                key=".".join(map(str, detail["loc"])),
                hint=nearest(str(detail["loc"][-1]), ScriptedSettings.model_fields)
                if detail["type"] == "extra_forbidden"
                else "",
            )
            for detail in error.errors()
        ) from None
