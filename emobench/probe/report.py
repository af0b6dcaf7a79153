"""What a probe found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from emobench.llm.transport import Role

Result = Literal["ok", "warning", "fatal", "skipped"]
State = Literal["usable", "usable_with_warnings", "not_usable", "unreachable"]


@dataclass(frozen=True)
class Check:
    """One question about an endpoint and its answer."""

    name: str
    result: Result
    seen: str
    """What came, shortened."""
    meaning: str = ""
    """What that does to a sweep; empty where it is as it should be."""
    advice: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Call:
    """One chat call of the probe."""

    what: str
    latency_s: float
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class ProbeReport:
    """The checks of one endpoint in one role, and what they come to."""

    model: str
    url: str
    role: Role
    env: str
    state: State
    verdict: str
    """In words; begins with the state."""
    checks: tuple[Check, ...]
    calls: tuple[Call, ...] = ()

    @property
    def warnings(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result == "warning")

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; `from_dict` reads it back."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeReport:
        """Raises KeyError or TypeError for anything that `as_dict` did not make."""
        if data["schema"] != 1:
            raise KeyError("schema")
        fields = {key: value for key, value in data.items() if key != "schema"}
        fields["checks"] = tuple(Check(**check) for check in data["checks"])
        fields["calls"] = tuple(Call(**call) for call in data["calls"])
        return cls(**fields)
