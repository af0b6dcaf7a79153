"""Settings that may change while a run is under way, and when a change of each one holds. Pure.

None is part of an episode's identity, and none needs a job to be submitted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emobench.config.identity import find_differing_keys
from emobench.core.models import OpenAIModel, RoleModel
from emobench.core.plan import list_roles
from emobench.core.sweep import Sweep

ANALYSIS = ("description", "gates", "judge")
"""Read by `judge`, `check` and `report` only: no job needs to know."""
_CELLS = "in cells that start from now on"
_WHEN = {
    **dict.fromkeys((*ANALYSIS, "judged_as"), "for judge, check and report"),
    **dict.fromkeys(("concurrency", "timeout_s", "probe"), _CELLS),
    "throttle": "for arrays in the queue too",
    **dict.fromkeys(("idle_limit_min", "keep_servers_min"), "for servers that run too"),
    **dict.fromkeys(("max_gpu_hours", "max_cost"), "for jobs that run too"),
}
FREE = tuple(key for key in _WHEN if key != "judged_as")
"""Keys of the sweep; `judged_as` is a variant's."""
_FREE_OF_ENDPOINT = {"base_url", "api_key_env", "price", "rate_limit_wait_min"}
"""Keys of a model behind an endpoint that exists already."""


def take_free_settings(old: Sweep, new: Sweep, keys: Sequence[str] = FREE) -> Sweep:
    """Return `old` with `keys` as `new` has them, the addresses of endpoints that exist, and what
    variants are judged as."""
    models = list_roles(new)

    def taken(name: str, model: RoleModel) -> RoleModel:
        other = models.get(name)
        if not isinstance(model, OpenAIModel) or not isinstance(other, OpenAIModel):
            return model
        return model.model_copy(update={key: getattr(other, key) for key in _FREE_OF_ENDPOINT})

    user, *assistants = (taken(name, model) for name, model in list_roles(old).items())
    update: dict[str, Any] = {key: getattr(new, key) for key in keys}
    update |= {"user": user, "assistants": dict(zip(old.assistants, assistants, strict=True))}
    update["variants"] = {
        name: each.model_copy(update={"judged_as": new.variants.get(name, each).judged_as})
        for name, each in old.variants.items()
    }
    return old.model_copy(update=update)


def describe_changes(old: Sweep, new: Sweep) -> list[str]:
    """Return a line for each free setting that differs, with when the new value holds:
    'throttle: was 2, now 6, for arrays in the queue too'."""
    before, after = select_free_values(old), select_free_values(new)
    # A variant that is added or left out is a change of the study, not of what it is judged as.
    for values, other in ((before, new), (after, old)):
        labels = values["judged_as"]
        values["judged_as"] = {name: labels[name] for name in labels if name in other.variants}
    lines = find_differing_keys(before, after)
    return [f"{line}, {_WHEN.get(line.split(':')[0].split('.')[0], _CELLS)}" for line in lines]


def select_free_values(sweep: Sweep, keys: Sequence[str] = FREE) -> dict[str, Any]:
    """Return the values of `keys`, of endpoints that exist, and what each variant is judged as."""
    endpoints = {
        name.removeprefix("assistant_"): model.model_dump(include=_FREE_OF_ENDPOINT)
        for name, model in list_roles(sweep).items()
        if isinstance(model, OpenAIModel)
    }
    labels = {name: each.judged_as for name, each in sweep.variants.items()}
    return {**endpoints, **sweep.model_dump(mode="json", include=set(keys)), "judged_as": labels}
