"""`gates` and `judge` of a sweep file."""

from __future__ import annotations

from collections.abc import Collection

from emobench.config.reader import Reader
from emobench.config.yaml_lines import KeyPath
from emobench.core.gates import Gates, JudgeSettings


def read_gates(reader: Reader, value: object) -> Gates | None:
    """The thresholds; keys that are left out have their defaults."""
    path: KeyPath = ("gates",)
    if not isinstance(value, dict):
        reader.wanted(path, "a mapping of gates to thresholds", value)
        return None
    return reader.model(Gates, value, path)


def read_judge(reader: Reader, value: object, assistants: Collection[str]) -> JudgeSettings | None:
    """The judge: `server` names one of the sweep, or `model` and `base_url` say where it is."""
    path: KeyPath = ("judge",)
    if not isinstance(value, dict) or not value:
        reader.wanted(path, "a mapping with server, or with model and base_url", value)
        return None
    judge = reader.model(JudgeSettings, value, path)
    if judge is None:
        return None
    if judge.server is not None:
        reader.choice((*path, "server"), judge.server, ("user", *assistants), "server")
        for key in ("model", "base_url", "api_key_env"):
            if key in value:
                hint = "a server of the sweep has its own; leave this out, or leave server out"
                reader.refuse((*path, key), "together with server", value[key], hint=hint)
        return judge
    for key in ("model", "base_url"):
        if key not in value:
            what = "model and base_url, or server: user or an assistant's name"
            reader.missing((*path, key), what)
    return judge
