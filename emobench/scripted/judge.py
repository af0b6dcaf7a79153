"""Policy of the judge of users' emotions, for tests: it goes by the scripted users' own phrases.

It is deterministic; with a rate of mistakes it errs by a seed and the message, so that the same
message always gets the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from emobench.analysis.judge.labels import SYSTEM
from emobench.scripted.messages import Message, Reply, extract_system_text, extract_text
from emobench.scripted.script import draw
from emobench.scripted.user import hear
from emobench.store.labels import EMOTIONS, LABELS, NEUTRAL


def is_judge_request(messages: Sequence[Message]) -> bool:
    """Return whether a label for a user's turn is asked for here."""
    return extract_system_text(messages) == SYSTEM


def reply(messages: Sequence[Message], mistakes: float, seed: int) -> Reply:
    """Return the label of the message, as the judge's prompt wants it."""
    asked = extract_text(messages[-1])
    message = asked.partition("Message:\n")[2]
    emotion, _ = hear(message)
    if emotion not in EMOTIONS:
        emotion = NEUTRAL
    if draw("judge", seed, message) < mistakes:
        others = [name for name in LABELS if name != emotion]
        emotion = others[int(draw("label", seed, message) * len(others))]
    intensity = 0 if emotion == NEUTRAL else 1 + int(draw("intensity", seed, message) * 3)
    return Reply(json.dumps({"emotion": emotion, "intensity": intensity}))
