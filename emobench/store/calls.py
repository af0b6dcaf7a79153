"""What the recorded calls of a conversation took together: tokens, money, waiting, by role."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from emobench.core.wording import format_duration

ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """What the calls of one role took."""

    prompt_tokens: int | None = None
    """None where no server said any."""
    completion_tokens: int | None = None
    cost: float | None = None
    """US dollars; None where no call's cost is known."""
    rate_limit_wait_s: float | None = None
    """Seconds that calls waited for rate limits; None where none did."""

    def __add__(self, other: RoleUsage) -> RoleUsage:
        return RoleUsage(
            _sum(self.prompt_tokens, other.prompt_tokens),
            _sum(self.completion_tokens, other.completion_tokens),
            _sum(self.cost, other.cost),
            _sum(self.rate_limit_wait_s, other.rate_limit_wait_s),
        )


NO_USAGE = RoleUsage()
Usage = Mapping[str, RoleUsage]
"""By role; a role without calls may be absent."""


def count_usage(calls: Iterable[Mapping[str, Any]]) -> dict[str, RoleUsage]:
    """Return what the calls of an episode took, by role."""
    sums: dict[str, list[Any]] = {role: [None] * 4 for role in ROLES}
    for call in calls:
        role = call.get("role")
        totals = sums.get(role) if isinstance(role, str) else None
        if totals is None:
            continue
        for place, kind in enumerate(("prompt_tokens", "completion_tokens")):
            count = call.get(kind)
            if type(count) is int and count >= 0:
                totals[place] = _sum(totals[place], count)
        for place, kind in enumerate(("cost", "rate_limit_wait_s"), 2):
            amount = call.get(kind)
            if isinstance(amount, int | float) and math.isfinite(amount) and amount >= 0:
                totals[place] = _sum(totals[place], float(amount))
    return {role: RoleUsage(*totals) for role, totals in sums.items()}


def read_usage(data: object) -> dict[str, RoleUsage]:
    """Return usage by role as a record holds it; what is not as it was written is left out."""
    if not isinstance(data, dict):
        return {}
    kinds = [field.name for field in fields(RoleUsage)]
    return {
        role: count_usage([{"role": role, **{kind: each.get(kind) for kind in kinds}}])[role]
        for role, each in data.items()
        if role in ROLES and isinstance(each, dict)
    }


def add_usage(*parts: Usage) -> dict[str, RoleUsage]:
    """Return what all of them took together."""
    return {
        role: sum((part.get(role, NO_USAGE) for part in parts), start=NO_USAGE) for role in ROLES
    }


def sum_cost(usage: Usage) -> float | None:
    """Return US dollars of both roles; None where none is known."""
    costs = [each.cost for each in usage.values() if each.cost is not None]
    return math.fsum(costs) if costs else None


def format_dollars(amount: float) -> str:
    """Return an amount as people write it: $0.0031, $0.42, $1,234.50."""
    if 0 < amount < 1e-4:
        return "<$0.0001"
    return f"${amount:,.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.2g}"


def describe_usage(usage: Usage) -> str:
    """Return one line of both roles: 'user 1,200 in, 300 out; assistant 9,000 in, 400 out,
    $0.12'."""
    parts = []
    for role in ROLES:
        used = usage.get(role, NO_USAGE)
        counts = ((used.prompt_tokens, "in"), (used.completion_tokens, "out"))
        known = [f"{count:,} {name}" for count, name in counts if count is not None]
        known += [] if used.cost is None else [format_dollars(used.cost)]
        if used.rate_limit_wait_s:
            known.append(f"{format_duration(used.rate_limit_wait_s)} waiting for rate limits")
        if known:
            parts.append(f"{role} {', '.join(known)}")
    return "; ".join(parts)


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other
