"""Keep a spreadsheet from running text as a formula: the words in a table are often a model's."""

from __future__ import annotations

import re
from typing import Any

# What OWASP's page on CSV injection names, full-width signs too; for Python's re and Arrow's RE2.
_FORMULA = "^([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
_AS_TEXT = r"'\1"


def guard_text(text: str) -> str:
    """Return the text with an apostrophe before it where it begins as a formula does."""
    return re.sub(_FORMULA, _AS_TEXT, text)


def guard_column(column: Any) -> Any:
    """Return `guard_text` of each text of a pyarrow column; columns of other types as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(column.type):
        return column
    return pc.replace_substring_regex(column, pattern=_FORMULA, replacement=_AS_TEXT)
