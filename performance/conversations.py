"""Conversations to simulate, with calls and tokens like those of published ones.

Fitted to 200 conversations of gpt-4o on airline's 50 tasks (tau-bench's repository,
historical_trajectories/gpt-4o-airline.json), four characters counted as a token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from emobench.benchmarks.tasks import Task, load_env
from emobench.llm.transport import Role
from emobench.scripted.timing import Segment

# Of calls of the assistant: what does not depend on the task, an action of its ground truth, 100
# characters of its instruction; then what is left, between tasks and between trials of one.
CALLS, CALLS_ACTION, CALLS_TEXT = 3.9, 0.80, 1.36
SPREAD_TASKS, SPREAD_TRIALS = 4.2, 2.9
LEAST_CALLS, MOST_CALLS = 2, 30
TOOL_CALLS = 0.47
"""Share of the assistant's calls."""
# Mean tokens, and the spread of their logarithm.
ASSISTANT, USER, TOOL_RESULT = (58, 0.75), (25, 0.5), (160, 1.0)
POLICY_AND_TOOLS = {"airline": 3_830, "retail": 4_240}
"""Tokens before each conversation of the assistant: the same for all."""
USER_PROMPT = 100
"""Beside the task's instruction: the user's rules, and a variant's text."""


@dataclass
class Conversation:
    """One conversation as it goes on: what is still to be said, and both sides' prompts so far."""

    number: int
    turns: Iterator[tuple[Role, int, int]]
    """Who replies, the tokens of that reply, and of the tool's result after it."""
    prompts: dict[Role, list[Segment]] = field(default_factory=dict)
    reply: tuple[Role, int, int] = ("user", 0, 0)
    """The turn under way."""

    def begin_turn(self) -> bool:
        """Take the next turn; False where the conversation has ended."""
        turn = next(self.turns, None)
        if turn is not None:
            self.reply = turn
        return turn is not None

    def end_turn(self) -> None:
        """Add the reply, and a tool's result, to the prompts that they stand in from now on."""
        _, tokens, result = self.reply
        if result:
            self._add("assistant", tokens)
            self._add("assistant", result)
        else:
            self._add("user", tokens)
            self._add("assistant", tokens)

    def _add(self, role: Role, tokens: int) -> None:
        *shared, (key, before) = self.prompts[role]
        self.prompts[role] = [*shared, (key, before + tokens)]


def begin_conversation(number: int, env: str, task: int, seed: int, talk: float) -> Conversation:
    """Return the conversation on a task; `seed` tells trials and variants apart. The assistant's
    replies are `talk` times as long as gpt-4o's."""
    dice = random.Random(f"{seed} {env} {task}")
    known = load_env(env).tasks[task]
    turns = _draw_turns(dice, count_calls(known, dice), talk)
    prompts: dict[Role, list[Segment]] = {
        "assistant": [(env, POLICY_AND_TOOLS[env]), (number, 0)],
        "user": [(number, USER_PROMPT + len(known.instruction) // 4)],
    }
    return Conversation(number, turns, prompts)


def count_calls(task: Task, dice: random.Random) -> int:
    """Draw the number of the assistant's calls."""
    usual = CALLS + CALLS_ACTION * len(task.actions) + CALLS_TEXT * len(task.instruction) / 100
    usual += SPREAD_TASKS * random.Random(f"{task.env} {task.index}").gauss(0, 1)
    return round(min(max(usual + SPREAD_TRIALS * dice.gauss(0, 1), LEAST_CALLS), MOST_CALLS))


def _draw_turns(dice: random.Random, calls: int, talk: float) -> Iterator[tuple[Role, int, int]]:
    yield "user", _draw_tokens(dice, *USER), 0
    for call in range(1, calls + 1):
        tokens = max(1, int(talk * _draw_tokens(dice, *ASSISTANT)))
        if call < calls and dice.random() < TOOL_CALLS:
            yield "assistant", tokens, _draw_tokens(dice, *TOOL_RESULT)
        else:
            yield "assistant", tokens, 0
            yield "user", _draw_tokens(dice, *USER), 0


def _draw_tokens(dice: random.Random, mean: float, spread: float) -> int:
    return max(1, int(mean * dice.lognormvariate(-spread * spread / 2, spread)))
