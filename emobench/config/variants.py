"""The shipped variants: one data file each, with a text, a version and a hash."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

from emobench.core.errors import InvalidInput, Problem, nearest
from emobench.core.sweep import Variant

NAMES = ("control", "placebo", "frustration", "anxiety", "anger", "confusion")
CONTROL = "control"


def make_variant(name: str, text: str, version: str) -> Variant:
    """A variant with the hash of its text; surrounding white space does not count."""
    text = text.strip()
    return Variant(
        name=name, version=version, text=text, sha256=sha256(text.encode("utf-8")).hexdigest()
    )


@cache
def builtin(name: str) -> Variant:
    """A shipped variant by name. Raises InvalidInput for any other name."""
    import yaml

    if name not in NAMES:
        raise InvalidInput(
            Problem(
                "unknown variant",
                key=name,
                allowed=", ".join(NAMES),
                hint=nearest(name, NAMES) or "define it in the sweep file under 'variants'",
            )
        )
    data = yaml.safe_load(
        (files(__package__) / "variant_texts" / f"{name}.yaml").read_text("utf-8")
    )
    return make_variant(data["name"], data["text"], data["version"])
