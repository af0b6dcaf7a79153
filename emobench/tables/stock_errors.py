"""What broke an episode that tau-bench wrote as reward 0: told from its exception.

The boundary is that of our own runs (docs/architecture.md): what the agent or the user wrote is
data, what the infrastructure or the harness did is missing.
"""

from __future__ import annotations

import re

from emobench.core.outcomes import Outcome
from emobench.llm.replies import CONTEXT_WORDS

_LAST = re.compile(r"^(?:[\w.]+\.)?(\w+)(?::|$)")
_FRAME = re.compile(r'File "[^"]*tau_\w+[\\/](agents|envs)[\\/]([\w\\/]+)\.py"')
# From a reply that could not be used: a call whose arguments are no JSON, an action without a
# name or arguments, no content at all.
_UNUSABLE = {"JSONDecodeError", "AssertionError", "ValidationError", "AttributeError"}


def outcome_of_error(message: str, traceback: str) -> tuple[Outcome, str]:
    """(outcome, error type) of what stock wrote into info.error and info.traceback.

    What cannot be told is an infrastructure error, so missing: never a silent failure of the
    agent. Its type stays in the table.
    """
    lines = [line for line in traceback.strip().splitlines() if line.strip()]
    named = _exception(lines)
    kind = f"stock:{named or 'unknown'}"
    if named == "ContextWindowExceededError" or CONTEXT_WORDS.search(message):
        return Outcome.CONTEXT_OVERFLOW, kind
    frames = _FRAME.findall(traceback)
    nothing = named == "TypeError" and "NoneType" in message and "iterable" in message
    if frames and (named in _UNUSABLE or nothing):
        folder, module = frames[-1]
        if folder == "agents":
            return Outcome.AGENT_ERROR, kind
        if module == "user" or (module == "base" and nothing):
            return Outcome.USER_ERROR, kind
    return Outcome.INFRA_ERROR, kind


def _exception(lines: list[str]) -> str:
    """The name of the exception that ended a traceback: on the last line that is not indented and
    looks like one (messages may have several lines)."""
    for line in reversed(lines):
        match = _LAST.match(line)
        if match and match[1].endswith(("Error", "Exception", "Timeout", "Interrupt")):
            return match[1]
    return ""
