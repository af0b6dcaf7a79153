"""Injected failures: which one strikes a request, and what it does to the reply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from emobench.core.models import Faults
from emobench.scripted.messages import Reply
from emobench.scripted.script import draw

TRANSPORT = ("hang", "disconnect", "http_500")
CONTENT = (
    "null_content",
    "bad_tool_json",
    "think_complete",
    "think_unterminated",
    "think_closing_only",
)
_THOUGHT = (
    "The rules say to write ###STOP### only once everything is settled. "
    "That is not so yet, so I go on."
)
"""Quotes the rule as thinking users do; tau-bench's substring test then ends the dialogue."""


@dataclass
class FaultDice:
    """Draws faults. A counter goes in, so that a retry of the same request can fare better."""

    faults: Faults
    seed: int = 0
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def __post_init__(self) -> None:
        rates = ((name, float(getattr(self.faults, name))) for name in (*TRANSPORT, *CONTENT))
        self._rates = [(name, rate) for name, rate in rates if rate > 0]

    def roll(self) -> frozenset[str]:
        """Return the names of the faults of the next request; empty and free of cost if none are
        set."""
        if not self._rates:
            return frozenset()
        number = next(self._numbers)
        return frozenset(
            name for name, rate in self._rates if draw("fault", self.seed, name, number) < rate
        )


def spoil(reply: Reply, struck: frozenset[str]) -> Reply:
    """Return the reply with the content faults applied that fit it."""
    if "null_content" in struck:
        return Reply(None)
    if "bad_tool_json" in struck and reply.tool_calls:
        broken = tuple(
            # Cut short, as by a token limit: never valid JSON, whatever stood there.
            replace(call, arguments=call.arguments.rstrip("}") + ', "')
            for call in reply.tool_calls
        )
        return replace(reply, tool_calls=broken)
    text = reply.content or ""
    if "think_complete" in struck:
        return replace(reply, content=f"<think>\n{_THOUGHT}\n</think>\n\n{text}")
    if "think_unterminated" in struck:
        return Reply(f"<think>\n{_THOUGHT}", (), "length")
    if "think_closing_only" in struck:
        return replace(reply, content=f"{_THOUGHT}\n</think>\n\n{text}")
    return reply
