"""Any provider that litellm knows, asked as `ChatClient` asks an OpenAI-compatible URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from emobench.llm.client import Answer, Unreachable
from emobench.llm.transport import TIMED_OUT, CallFailed, LitellmTransport, ModelEndpoint


class LitellmClient:
    """One endpoint through litellm; `completion` is litellm's function."""

    def __init__(self, endpoint: ModelEndpoint, completion: Callable[..., Any]) -> None:
        self._transport = LitellmTransport(endpoint, completion)

    def chat(self, request: dict[str, Any]) -> Answer:
        """Return the provider's answer in OpenAI's format. Raises Unreachable."""
        try:
            reply = self._transport.send_once("assistant", request, is_last=True)
        except CallFailed as error:
            if error.status in (0, TIMED_OUT):
                timed_out = error.status == TIMED_OUT
                raise Unreachable(str(error), timed_out=timed_out) from error
            answer = _build_answer(error.status, {"error": {"message": str(error)}})
            return replace(answer, busy=error.busy)
        choice = reply.choices[0]
        message = {"content": choice.message.content, "tool_calls": choice.message.tool_calls}
        choices = [{"message": message, "finish_reason": choice.finish_reason}]
        return _build_answer(200, {"choices": choices, "usage": reply.usage})

    def close(self) -> None:
        """Do nothing: nothing is kept open."""


def _build_answer(status: int, data: object) -> Answer:
    return Answer(status, json.dumps(data, default=str).encode())
