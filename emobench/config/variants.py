"""The shipped variants: one data file each, with a text, a version and a hash."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

from emobench.core.errors import InvalidInput, Problem, suggest_nearest
from emobench.core.gates import JudgeLabel
from emobench.core.sweep import BUILTIN_VARIANTS, EARLIER_VARIANTS, Variant


def make_variant(
    name: str, text: str, version: str, judged_as: JudgeLabel | None = None
) -> Variant:
    """Return a variant with the hash of its text; surrounding white space does not count."""
    text = text.strip()
    digest = sha256(text.encode("utf-8")).hexdigest()
    return Variant(name=name, version=version, text=text, sha256=digest, judged_as=judged_as)


@cache
def load_builtin(name: str) -> Variant:
    """Return a shipped variant by name. Raises InvalidInput for any other name."""
    import yaml

    if name not in (*BUILTIN_VARIANTS, *EARLIER_VARIANTS):
        raise InvalidInput(
            Problem(
                "unknown variant",
                key=name,
                allowed=", ".join(BUILTIN_VARIANTS),
                hint=suggest_nearest(name, BUILTIN_VARIANTS) or "define it under 'variants'",
            )
        )
    data = yaml.safe_load(
        (files(__package__) / "variant_texts" / f"{name}.yaml").read_text("utf-8")
    )
    return make_variant(data["name"], data["text"], data["version"], data["judged_as"])
