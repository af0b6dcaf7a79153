"""A tool that changes what all episodes share: its episode runs again on data of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.cli.main import main
from tests.support.model_server import Reply, is_user, recording


def meddling(data: dict[str, Any]) -> str:
    """Changes every product that it walks over; no tool of stock's does."""
    for product in data["products"].values():
        product["name"] = "sold out"
    return ", ".join(sorted({product["name"] for product in data["products"].values()}))


def conversing(request: dict[str, Any]) -> Reply:
    if is_user(request):
        return Reply("Hello.")
    last = request["messages"][-1]
    if last["role"] == "tool":
        return Reply(f"They are: {last['content'][:40]}")
    return Reply(None, [("list_all_product_types", "{}")])


def test_the_episode_is_stocks_and_the_others_see_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tools = load_benchmark().import_module("envs.retail.tools").ALL_TOOLS
    (tool,) = [t for t in tools if t.get_info()["function"]["name"] == "list_all_product_types"]
    arguments = ["--env", "retail", "--model", "m", "--tasks", "0-1", "--probe", "off"]
    records = {}
    for folder, changed in (("before", False), ("meddled", True), ("after", False)):
        with recording(conversing) as server, monkeypatch.context() as patch:
            if changed:
                patch.setattr(tool, "invoke", staticmethod(meddling))
            options = ["--max-steps", "2", "--run-dir", folder, "--model-base-url", server.url]
            assert main([*arguments, *options], command="run") == 0
        lines = (tmp_path / folder / "cells/0/episodes.jsonl").read_text().splitlines()
        records[folder] = [json.loads(line) for line in lines]
    for record in records["meddled"]:
        assert "sold out" in record["traj"][3]["content"]
        assert "shared_state" not in record["fidelity"]
    for folder in ("before", "after"):
        for record in records[folder]:
            assert "sold out" not in record["traj"][3]["content"]
            assert "shared_state" in record["fidelity"]
    heard = [{r["traj"][3]["content"] for r in records[folder]} for folder in ("before", "after")]
    assert heard[0] == heard[1]
