"""What `effects.effects` returns: the findings of a study, by group and variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emobench.analysis.stats.estimates import Difference, Mean, OddsRatio, PassK, Sensitivity, plain
from emobench.analysis.stats.interaction import AssistantComparison
from emobench.core.outcomes import Group

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class MediatorMean:
    """Mean of a column over the scored episodes of a variant."""

    label: str
    column: str
    value: float | None
    episodes: int


@dataclass(frozen=True)
class Exploratory:
    """A paired difference in something other than the reward."""

    column: str
    """A mediator's column or an outcome's name."""
    difference: Difference


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline."""

    baseline: str
    difference: Difference
    """In mean reward; p_adjusted by Holm over the variants of the group."""
    sensitivity: tuple[Sensitivity, ...]
    odds_ratio: OddsRatio
    outcomes: tuple[Exploratory, ...]
    mediators: tuple[Exploratory, ...]
    per_protocol: Difference | None
    """None where no column says which episodes conform."""


@dataclass(frozen=True)
class VariantFinding:
    """One variant of one group."""

    variant: str
    mean: Mean
    pass_k: tuple[PassK, ...]
    """k from 1 to the largest number of scored trials of any task in the group, at most 16."""
    outcomes: Mapping[str, Mean]
    """Share of scored episodes by outcome, infra_error's of all episodes."""
    mediators: tuple[MediatorMean, ...]
    contrast: Contrast | None
    """None for the baseline itself."""


@dataclass(frozen=True)
class GroupFinding:
    """The variants of one (environment, agent strategy, assistant)."""

    env: str
    agent_strategy: str
    assistant: str
    baseline: str
    variants: tuple[VariantFinding, ...]

    @property
    def key(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)


@dataclass(frozen=True)
class Findings:
    groups: tuple[GroupFinding, ...]
    assistants: tuple[AssistantComparison, ...]
    """Assistants compared under each variant; exploratory."""
    interactions: tuple[AssistantComparison, ...]
    """Variant by assistant; exploratory."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists, numbers and strings only; what is undefined is null."""
        found: dict[str, Any] = plain(self)
        return found
