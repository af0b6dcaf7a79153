"""Result files as tau-bench's own run() writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def result(task: int, trial: int = 0, reward: float = 1.0, **changed: Any) -> dict[str, Any]:
    """A result as stock writes it."""
    traj = [
        {"role": "system", "content": "# Airline Agent Policy"},
        {"role": "user", "content": f"Task {task}, trial {trial}."},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "###STOP###"},
    ]
    info = {"task": {"user_id": "mia"}, "reward_info": {"reward": reward}}
    return {
        "task_id": task,
        "reward": reward,
        "info": info,
        "traj": traj,
        "trial": trial,
        **changed,
    }


def written(path: Path, results: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(results, indent=2))
    return path
