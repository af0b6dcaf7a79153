"""forecast.json: what a sweep was expected to take when it was first submitted; to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emobench.core.files import read_json, write_json
from emobench.core.run_dir import RunDir

SCHEMA = 1


@dataclass(frozen=True)
class Estimate:
    """A figure with its range, meant to hold nine times in ten."""

    low: float
    typical: float
    high: float

    @classmethod
    def of(cls, value: float) -> Estimate:
        """Return a figure that is known."""
        return cls(value, value, value)

    def __add__(self, other: Estimate) -> Estimate:
        """Add the ends too: what makes one part larger makes the other so."""
        return Estimate(self.low + other.low, self.typical + other.typical, self.high + other.high)

    def __mul__(self, other: Estimate | float) -> Estimate:
        by = other if isinstance(other, Estimate) else Estimate.of(other)
        return Estimate(self.low * by.low, self.typical * by.typical, self.high * by.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


ZERO = Estimate.of(0.0)


class Forecast(BaseModel):
    """What is expected of the episodes that a sweep has to run."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    made: str = ""
    """ISO 8601, UTC."""
    episodes: int
    """To run."""
    finished: int = 0
    """Done before; not in any figure."""
    cells: int
    """That have episodes to run: tasks of arrays."""
    servers: int
    """Jobs of servers."""
    accelerators: int
    """Cards that these hold."""
    conversations: int
    """At a time, at most."""
    calls: Mapping[str, Estimate]
    """Requests by role."""
    tokens_in: Mapping[str, Estimate]
    """Tokens of prompts by role; those that a server has cached count too."""
    tokens_out: Mapping[str, Estimate]
    """Tokens of replies by role."""
    hours: Estimate
    """From the start of the servers' jobs to the end of the last; no time in the queue."""
    accelerator_hours: Estimate
    token_dollars: Estimate | None = None
    """US dollars for hosted models; None: a price is not known."""
    accelerator_dollars: Estimate | None = None
    """None: the profile has no price."""
    rests_on: Mapping[str, str] = Field(default_factory=dict)
    """What each kind of figure was taken from, in words."""
    notes: tuple[str, ...] = ()
    """What to know beside it."""

    @property
    def jobs(self) -> int:
        return self.cells + self.servers

    @property
    def dollars(self) -> Estimate | None:
        """US dollars together, of what has a price; None where nothing has."""
        known = [each for each in (self.token_dollars, self.accelerator_dollars) if each]
        return sum(known, start=ZERO) if known else None

    def to_json(self) -> dict[str, object]:
        """Return the whole as it stands in the file."""
        return self.model_dump(mode="json", by_alias=True)


def read_forecast(run_dir: RunDir) -> Forecast | None:
    """Return what was expected; None where nothing that can be read says."""
    try:
        return Forecast.model_validate(read_json(run_dir.forecast))
    except ValidationError:
        return None


def write_forecast(run_dir: RunDir, forecast: Forecast) -> None:
    """Write it for the report. Raises OSError."""
    write_json(run_dir.forecast, forecast.to_json())
