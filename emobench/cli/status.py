"""`emobench status`: how a run stands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from emobench.cli.arguments import add_json, add_run_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Servers, cells, episodes, mean reward and cost of a run, and what failed."
    add_run_dir(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from emobench.core.plan import find_run_dir
    from emobench.runs.status import gather

    status = gather(find_run_dir(arguments.run_dir), cost=True)
    print(json.dumps(status, indent=2) if arguments.json else show(status))
    return 0


def show(status: Mapping[str, Any]) -> str:
    """The status as a person reads it in a terminal."""
    from emobench.runs.status import STATES
    from emobench.scheduler.cost import line as cost_line
    from emobench.serving.budget import limit_line

    cells, episodes = status["cells"], status["episodes"]
    done = episodes["finished"], episodes["expected"]
    lines = [f"{status['sweep']}  ({status['run_dir']})"]
    if status["scripted"]:
        lines.append("scripted models: this tests the pipeline and is no finding")
    lines.append("")
    for server in status["servers"]:
        where = f"job {server['job_id']}" if server["job_id"] else "not submitted"
        text = f"server   {server['name']:<24} {server['state']:<10} {where}"
        for part in (server["node"], server["url"]):
            text += f"  {part}" if part else ""
        text += f"  leased from {server['leased_from']}" if server["leased_from"] else ""
        lines.append(text)
        lines += [f"         {line}" for line in server["reason"].splitlines()]
        warnings = [server["warning"], *server["warnings"]]
        lines += [f"         warning: {each}" for each in warnings if each]
    counted = ", ".join(f"{cells[name]} {name}" for name in STATES if cells[name])
    lines.append(f"cells    {counted or '0'} of {cells['total']}")
    lines.append(f"episodes {done[0]} of {done[1]}" + _outcomes(episodes["outcomes"]))
    if "cost" in status:
        lines.append(f"cost     {cost_line(status['cost'])}")
    if status.get("limit"):
        lines.append(f"limit    {limit_line(status['limit'])}")
    lines.append("")
    width = max(len(row["variant"]) for row in status["variants"])
    lines.append(f"{'variant':<{width}}  episodes  mean reward")
    for row in status["variants"]:
        mean = "-" if row["mean_reward"] is None else f"{row['mean_reward']:.3f}"
        lines.append(f"{row['variant']:<{width}}  {row['episodes']:>8}  {mean:>11}")
    for problem in status["problems"][:10]:
        lines += ["", f"cell {problem['cell']} failed: {problem['title']}: {problem['reason']}"]
        if problem["log"]:
            lines.append(f"  log: {problem['log']}")
    if len(status["problems"]) > 10:
        lines.append(f"... and {len(status['problems']) - 10} more failed cells (--json has all)")
    if status["problems"] and not status["live"]:
        lines += ["", "run the same `emobench sweep` command again: it runs what is missing"]
    return "\n".join(lines)


def _outcomes(outcomes: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{n} {name}" for name, n in outcomes.items()) if outcomes else ""
