"""Policy of the assistant: a pure function of the request.

It keeps no state: the number of tool results and of user messages says where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from emobench.benchmarks.tasks import Action, Task
from emobench.benchmarks.transcript import API_OUTPUT
from emobench.scripted.lookup import Library, count_words
from emobench.scripted.messages import (
    Form,
    Message,
    Reply,
    Tool,
    act,
    choose_form,
    extract_system_text,
    extract_text,
    make_arguments,
    say,
)
from emobench.scripted.script import MORE, Script, draw, write_faithful, write_mistaken
from emobench.scripted.user import UnknownVariant, hear

GREETING = "Hello! How can I help you today?"
WHO = (
    "I would be glad to help. To look up your profile, could you tell me who you are: "
    "your user id, or your email, or your name and zip code?"
)
DETAILS = "Thank you. Is there any further detail I should know before I look into it?"
LOST = f"I am sorry, I could not make out what to do about this. {MORE}"
UNABLE = f"I am sorry, I lack the tools for this request. {MORE}"

REVEALED = 3
"""User messages after which the request counts as told; the task is known by these alone."""
"""How the react and act agents hand over a tool's result, as a user message."""


@dataclass(frozen=True)
class Assistant:
    """One configuration; `mistakes` is a probability, or one by variant (others: 0).

    `variants` are those that it may meet; None: any.
    """

    library: Library
    mistakes: float | Mapping[str, float] = 0.0
    seed: int = 0
    variants: frozenset[str] | None = None
    script_of: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "script_of", lru_cache(maxsize=16384)(self._choose_script))

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        tool_choice: Any = None,
        seed: int | None = None,
    ) -> Reply:
        """Return the next step of the conversation. `seed` is the request's; it moves the mistakes.

        Raises UnknownVariant.
        """
        prompt = extract_system_text(messages)
        form = choose_form(prompt, tools, tool_choice)
        heard, results = _read_progress(messages, form)
        env = self._find_env(prompt, form)
        if env is None:
            return _reply_elsewhere(heard, results, form)
        if len(heard) < REVEALED:
            return say((GREETING, WHO, DETAILS)[len(heard)], form)
        opening = [hear(text) for text in heard[:REVEALED]]
        task = self.library.indices[env].find(tuple(bare for _, bare in opening))
        if task is None:
            return say(LOST, form)
        # Every turn of an emotional user carries its tone; control's carry none.
        variant = next((name for name, _ in opening if name != "control"), "control")
        if self.variants is not None and variant not in self.variants:
            raise UnknownVariant(f"the variant '{variant}', which the user sounds like")
        script: Script = self.script_of(task, variant, seed)
        return _choose_next(script, len(heard), results, form)

    def _find_env(self, prompt: str, form: Form) -> str | None:
        if form.tools:
            return self.library.find_env_by_tools(form.tool_names)
        return self.library.env_of_prompt(prompt)

    def _choose_script(self, task: Task, variant: str, seed: int | None) -> Script:
        rates = self.mistakes
        rate = rates.get(variant, 0.0) if isinstance(rates, Mapping) else rates
        key = f"{self.seed}/{'' if seed is None else seed}/{task.env}/{task.index}/{variant}"
        return write_mistaken(task, key) if draw("fails", key) < rate else write_faithful(task)


def _read_progress(messages: Sequence[Message], form: Form) -> tuple[list[str], int]:
    """Return what the user said so far, and how many tools have answered."""
    heard: list[str] = []
    results = 0
    for message in messages:
        role = message["role"]
        if role == "tool":
            results += 1
        elif role == "user":
            text = extract_text(message)
            if form.text_actions and text.startswith(API_OUTPUT):
                results += 1
            else:
                heard.append(text)
    return heard, results


def _choose_next(script: Script, turns: int, results: int, form: Form) -> Reply:
    if results >= len(script.acts):
        return say(script.closing, form)
    if results == script.confirm_at and turns == REVEALED:
        return say(script.confirm, form)
    step = script.acts[results]
    known = not form.tools or step.tool in form.tool_names or script.mistake == "unknown_tool"
    return act(step, form, results) if known else say(UNABLE, form)


def _reply_elsewhere(heard: list[str], results: int, form: Form) -> Reply:
    """Answer outside tau-bench, as in a probe: call the tool that the user's words name, once."""
    if not heard:
        return say(GREETING, form)
    asked = count_words(heard[-1])
    if not results:
        for tool in form.tools:
            name = tool["function"]["name"]
            parts = [part for part in name.lower().split("_") if len(part) > 3]
            if name.lower() in asked or any(part in asked for part in parts):
                return act(Action(name, make_arguments(tool, "example")), form, results)
    return say(f"I understand. {MORE}" if results == 0 else f"That is done. {MORE}", form)
