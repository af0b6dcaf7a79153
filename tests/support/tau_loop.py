"""tau-bench's loop around the two policies, without its environment and without HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emobench.benchmarks.tasks import Action, Task
from emobench.scripted import user
from emobench.scripted.assistant import Assistant
from emobench.scripted.messages import Reply

PROMPT = (
    "You are a user interacting with an agent.\n\nInstruction: {instruction}\n\nRules:\n"
    "- Just generate one line at a time to simulate the user's message."
)
REACT_PROMPT = (
    PROMPT + "\n\nFormat:\n\nThought:\n<the thought>\n\nUser Response:\n<the user response>"
)
STEP_FORMAT = 'Action:\n{"name": <The name of the action>, "arguments": <The arguments>}'
AGENT_PROMPTS = {
    "act": f"\n# Instruction\n{STEP_FORMAT}",
    "react": f"\n# Instruction\nThought:\n<A single line of reasoning.>\n{STEP_FORMAT}",
}


@dataclass
class Heard:
    """What one conversation came to."""

    acts: list[Action] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    steps: int = 0
    ended: bool = False


def converse(
    task: Task,
    assistant: Assistant,
    strategy: str = "tool-calling",
    prompt: str = PROMPT,
    suffix: str = "",
    variants: Mapping[str, str] | None = None,
    seed: int | None = None,
    max_steps: int = 30,
) -> Heard:
    """Run one task as tau-bench's agents would; tools answer with a constant."""
    names = sorted(assistant.library.indices[task.env].source.tools)
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    text = strategy in AGENT_PROMPTS
    system = f"# {task.env.title()} agent policy\n"
    if text:
        system += f"#Available tools\n{json.dumps(tools)}{AGENT_PROMPTS[strategy]}"
    caller = Caller(prompt.format(instruction=task.instruction) + suffix, variants or {})
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    heard = Heard()
    heard.user.append(caller.answer("Hi! How can I help you today?"))
    messages.append({"role": "user", "content": heard.user[-1]})
    for _ in range(max_steps):
        reply = assistant.reply(messages, [] if text else tools, seed=seed)
        heard.steps += 1
        call = parse_text(reply, strategy) if text else parse_call(reply)
        messages.append({"role": "assistant", "content": reply.content})
        if call.tool == "respond":
            heard.said.append(call.arguments["content"])
            heard.user.append(caller.answer(heard.said[-1]))
            messages.append({"role": "user", "content": heard.user[-1]})
            heard.ended = "###STOP###" in heard.user[-1]
        else:
            heard.acts.append(call)
            result = {"role": "user", "content": "API output: ok"}
            messages.append(result if text else {"role": "tool", "content": "ok"})
            heard.ended = call.tool == "transfer_to_human_agents"
        if heard.ended:
            break
    return heard


class Caller:
    """The simulated user's side, with stock's parser for the react user."""

    def __init__(self, prompt: str, variants: Mapping[str, str]) -> None:
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": prompt}]
        self.variants = variants

    def answer(self, text: str) -> str:
        self.messages.append({"role": "user", "content": text})
        said = user.reply(self.messages, self.variants).content
        assert said is not None
        self.messages.append({"role": "assistant", "content": said})
        if "###STOP###" in said:
            return "###STOP###"
        if "User Response:" in self.messages[0]["content"]:
            _, said = said.split("Thought:")
            return said.strip()
        return said


def parse_call(reply: Reply) -> Action:
    if not reply.tool_calls:
        assert reply.content is not None
        return Action("respond", {"content": reply.content})
    (call,) = reply.tool_calls
    assert call.id.startswith("call_")
    assert reply.finish_reason == "tool_calls"
    return Action(call.name, json.loads(call.arguments))


def parse_text(reply: Reply, strategy: str) -> Action:
    assert reply.content is not None
    assert reply.content.startswith("Thought:" if strategy == "react" else "Action:")
    assert not reply.tool_calls
    action = json.loads(reply.content.split("Action:")[-1])
    return Action(action["name"], action["arguments"])
