"""What an earlier emobench took where a sweep file is silent: a run goes on as it began. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from emobench.config.variants import load_builtin
from emobench.core.sweep import EARLIER_VARIANTS, Sweep


def keep_earlier_defaults(sweep: Sweep, old: Sweep) -> Sweep:
    """Return the sweep with the defaults and the built-in texts that results on disk were made
    with, as `old` has them."""
    sweep = keep_earlier_texts(sweep, {name: each.sha256 for name, each in old.variants.items()})
    name = "end_at_empty_reply"
    if name in sweep.fidelity.model_fields_set:
        return sweep
    fidelity = sweep.fidelity.model_copy(update={name: getattr(old.fidelity, name)})
    return sweep.model_copy(update={"fidelity": fidelity})


def keep_earlier_texts(sweep: Sweep, sha256: Mapping[str, str]) -> Sweep:
    """Return the sweep with the texts of 0.1 for all of its built-in variants, if one of the texts
    on disk (SHA-256 in hex, by variant) is of these: both versions have no place in one study."""
    texts = {name.removesuffix("-v1"): load_builtin(name) for name in EARLIER_VARIANTS}
    if not any(sha256.get(name) == each.sha256 for name, each in texts.items()):
        return sweep
    variants = {
        name: texts[name].model_copy(update={"name": name}) if name in texts else each
        for name, each in sweep.variants.items()
    }
    return sweep.model_copy(update={"variants": variants})
