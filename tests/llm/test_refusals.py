"""What a server's words say about a refused request, as servers and providers put it."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.llm.refusals import (
    has_made_up_call,
    is_context_overflow,
    is_of_content,
    remove_calls,
)

TOOLS = [{"type": "function", "function": {"name": "find_user", "parameters": {}}}]


def asked(*messages: dict[str, Any], tools: Any = TOOLS) -> dict[str, Any]:
    opening = [{"role": "system", "content": "Policy."}, {"role": "user", "content": "Hi."}]
    return {"model": "m", "messages": [*opening, *messages], "tools": tools, "tool_choice": "auto"}


def calling(name: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "Your input exceeds the context window of this model. context_length_exceeded",
        "prompt is too long: 208310 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
        "the request exceeds the available context size. try increasing the context size",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Please reduce the length of the messages or completion.",
        "Current length is 9000 while limit is 8192",
        "max_model_len",
    ],
)
def test_a_conversation_that_is_too_long(words: str) -> None:
    assert is_context_overflow(400, words)
    assert is_context_overflow(413, words)
    assert not is_context_overflow(500, words)


@pytest.mark.parametrize(
    "words",
    [
        "Your credit balance is too low to access the API. Please go to Plans & Billing.",
        "The model `gpt-9` does not exist or you do not have access to it.",
        "LLM Provider NOT provided. Pass in the LLM provider you are trying to call.",
        "<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>",
        "Request body too large",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "registry.ollama.ai/library/gemma does not support tools",
        "Invalid schema for function 'find_user': 'object' is not valid under any of the schemas",
        "An assistant message with 'tool_calls' must be followed by tool messages",
        "Unrecognized request argument supplied: seed",
        "Unsupported parameter: 'parallel_tool_calls'",
        "max_tokens is too large",
        "Unsupported content type",
        "Invalid tool call id: call_0",
        "Unrecognized request arguments supplied: function_call, tools",
    ],
)
def test_words_that_every_conversation_would_hear(words: str) -> None:
    assert not is_context_overflow(400, words)
    for request in (asked(), asked(calling("find_user")), asked(calling("fly"))):
        assert not is_of_content(400, words, request)


@pytest.mark.parametrize(
    "words",
    [
        "invalid tool call arguments in message 3",
        "Invalid value for 'messages[2].tool_calls[0].function.arguments': not a JSON object",
        "The arguments of the tool call are no valid JSON",
        "Failed to parse tool call",
        "error parsing a function call",
        "Failed to call a function. Please adjust your prompt. See 'failed_generation'",
        "tool call validation failed: attempted to call tool 'fly' which was not in request.tools",
        "Failed to parse <function=fly>",
        'cannot execute {"name": "fly", "arguments": {}}',
        "unknown tool: 'fly'",
    ],
)
def test_a_tool_call_is_the_agents_content(words: str) -> None:
    assert is_of_content(400, words, asked())
    assert not is_of_content(400, words, asked(tools=None)), "no user has any"
    assert not is_of_content(500, words, asked())


def test_a_call_of_a_tool_that_was_offered_is_not_made_up() -> None:
    words = 'cannot execute {"name": "find_user", "arguments": {}}'
    assert not is_of_content(400, words, asked())
    assert not has_made_up_call(asked(calling("find_user")), words)


def test_what_a_filter_stops_is_content() -> None:
    words = "The response was filtered due to Azure OpenAI's content management policy."
    assert is_of_content(400, words, asked())
    assert not is_of_content(403, words, asked())


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_message_without_words_is_content_where_the_server_names_it(content: str | None) -> None:
    request = asked({"role": "assistant", "content": content})
    words = "messages: text content blocks must be non-empty"
    assert is_of_content(400, words, request)
    assert not is_of_content(400, words, asked(calling("find_user")))
    assert not is_of_content(400, "credit balance too low", request)


@pytest.mark.parametrize(
    "words",
    [
        "messages.3: all messages must have non-empty content except for the optional final one",
        "Assistant message must have either content or tool_calls, but not none",
        "Each message must have at least one content element.",
        "The text field in the ContentBlock object at messages.2.content.0 is blank.",
        "Invalid value for 'content': expected a string, got null.",
    ],
)
def test_how_servers_name_a_message_without_words(words: str) -> None:
    assert is_of_content(400, words, asked({"role": "assistant", "content": ""}))


@pytest.mark.parametrize(
    "words",
    [
        '<html><head><meta http-equiv="Content-Type" content="text/html"></head>empty</html>',
        "Your account balance is empty",
        "Unsupported content type",
        "The content type must be application/json",
    ],
)
def test_words_that_name_no_message_without_words(words: str) -> None:
    assert not is_of_content(400, words, asked({"role": "assistant", "content": ""}))


def test_a_tool_that_answers_with_nothing_is_not_the_agent() -> None:
    """tau-bench's own `think` does."""
    answered = asked(calling("find_user"), {"role": "tool", "content": ""})
    assert not is_of_content(400, "messages.3: content must be non-empty", answered)


def test_a_made_up_call_that_the_server_answered_is_no_reason_of_a_later_500() -> None:
    gone_on = asked(calling("fly"), {"role": "tool", "content": "?"}, calling("find_user"))
    assert not has_made_up_call(gone_on, "Internal Server Error")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: invalid function 'flash_fwd'",
        "RuntimeError: failed to call function 'forward'",
        "undefined function 'x'",
    ],
)
def test_a_500_that_names_a_function_of_the_servers_own(words: str) -> None:
    assert not has_made_up_call(asked(), words)


def test_what_counts_as_made_up() -> None:
    assert has_made_up_call(asked(calling("fly")), "Internal Server Error")
    assert has_made_up_call(asked(calling("find_user"), calling("fly")), "")
    assert has_made_up_call(asked(), "Failed to parse: <function=fly>")
    assert not has_made_up_call(asked(), "CUDA error: invalid device function")
    assert not has_made_up_call(asked(), "tool parser 'hermes' crashed in function 'extract'")
    assert not has_made_up_call(asked(calling("fly"), tools=None), "")


def test_the_request_that_a_server_which_works_answers() -> None:
    request = remove_calls(asked(calling("fly"), {"role": "tool", "content": "Unknown action"}))
    assert request == {"model": "m", "messages": asked()["messages"]}
