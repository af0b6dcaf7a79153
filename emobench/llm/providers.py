"""The names that litellm has for providers, without importing it (that takes seconds)."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ENUM = re.compile(r"^class LlmProviders\(.*?:\n((?:[ \t].*\n|\n)+)", re.MULTILINE)
_MEMBER = re.compile(r'^\s+\w+ = "([^"]+)"', re.MULTILINE)


@cache
def list_providers() -> tuple[str, ...]:
    """Return the providers of the installed litellm, in alphabetical order.

    They are read from its source; none where that is not as it was, so that nobody is refused for
    it: a provider that litellm does not know is an infrastructure error of the first call then.
    """
    litellm = find_spec("litellm")
    if litellm is None or litellm.origin is None:
        return ()
    folder = Path(litellm.origin).parent
    try:
        enum = _ENUM.search((folder / "types/utils.py").read_text(encoding="utf-8"))
        names = set(_MEMBER.findall(enum[1])) if enum else set()
        further = folder / "llms/openai_like/providers.json"
        if names and further.exists():
            names |= set(json.loads(further.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ()
    return tuple(sorted(names))
