"""Which of tau-bench's tools change its database, told by how their names begin.

The benchmark does not say it anywhere. A test executes the ground truth of every task and finds
that the tools that change the data are those that this rule names.
"""

from __future__ import annotations

READS = ("get_", "find_", "list_", "search_", "calculate", "think", "transfer_to_human")
"""How the names of tools begin that change nothing in the database."""
TRANSFER = "transfer_to_human_agents"
RESPOND = "respond"
"""The action with which the agent speaks to the user."""


def writes(tool: str) -> bool:
    """Return whether a tool of the benchmark changes the database.

    >>> writes("cancel_pending_order"), writes("get_order_details")
    (True, False)
    """
    return not tool.startswith(READS)
