"""What an endpoint repeats of its key is in no error and in no reply, by either transport."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.redaction import hide
from emobench.llm.client import Answer, ChatClient, Unreachable
from emobench.llm.transport import CallFailed, ModelEndpoint, Reply, make_transport
from tests.support import model_server
from tests.support.model_server import ModelServer, answering
from tests.support.peer import HANG_UP, Peer

KEY = "sk-proj-Zm9vYmFy/Lm5vdC1h+LXJlYWwta2V5Lg"
REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}

pytestmark = pytest.mark.usefixtures("no_pauses")


def send(server: ModelServer, through_litellm: bool) -> Reply:
    stock = load_benchmark().import_module("envs.user").completion
    endpoint = ModelEndpoint("m", server.url, KEY)
    transport = make_transport(endpoint, stock, through_litellm=through_litellm)
    return transport.send("assistant", dict(REQUEST))


def as_page(body: bytes) -> bytes:
    return b"<html>" + body + b"</html>"


def escaped(body: bytes) -> bytes:
    return body.replace(b"/", b"\\/").replace(b"Z", b"\\u005a")


@pytest.mark.parametrize("through_litellm", [False, True])
@pytest.mark.parametrize("rewrite", [bytes, as_page, escaped])
@pytest.mark.parametrize("before", [0, *range(440, 500, 9)])
def test_an_error_holds_no_part_of_the_key_wherever_it_is_cut(
    before: int, rewrite: Any, through_litellm: bool
) -> None:
    error = f"{'x' * before} wrong key {KEY}"
    with answering(ModelServer(lambda _: model_server.Reply(status=401, error=error))) as server:
        server.rewrite = rewrite
        with pytest.raises(CallFailed) as failed:
            send(server, through_litellm)
    said = str(failed.value)
    assert "[k" in said or "x" * 300 in said
    assert not any(part in said for part in (KEY[:20], KEY[-20:], KEY[10:30]))


@pytest.mark.parametrize("through_litellm", [False, True])
@pytest.mark.parametrize("rewrite", [bytes, escaped])
def test_a_reply_holds_no_key(rewrite: Any, through_litellm: bool) -> None:
    said = model_server.Reply(f"It is {KEY}.", [("find", f'{{"key": "{KEY}"}}')])
    with answering(ModelServer(lambda _: said)) as server:
        server.rewrite = rewrite
        message = send(server, through_litellm).message
    assert message.content == "It is [key]."
    assert message.tool_calls is not None
    assert message.tool_calls[0]["function"]["arguments"] == '{"key": "[key]"}'


def test_what_is_no_http_does_not_tell_the_key() -> None:
    with (
        Peer([f"{KEY} is no HTTP\r\n\r\n".encode(), HANG_UP]) as peer,
        pytest.raises(Unreachable, match=r"\[key\] is no HTTP") as failed,
    ):
        ChatClient(peer.url, KEY, 60).get("/models")
    assert KEY[:20] not in str(failed.value)


def test_a_short_key_leaves_the_words_of_an_error_as_they_are() -> None:
    """It said "OpenAIE[key]ception" for the key x."""
    with answering(ModelServer(lambda _: model_server.Reply(status=401, error="no x"))) as server:
        endpoint = ModelEndpoint("m", server.url, "x")
        stock = load_benchmark().import_module("envs.user").completion
        with pytest.raises(CallFailed, match="OpenAIException - no x"):
            make_transport(endpoint, stock, through_litellm=True).send("user", dict(REQUEST))


def test_an_answer_that_is_no_json_holds_no_key() -> None:
    hide("sk-of-a-page/0123456789")
    answer = Answer(502, b"<html>Bad key sk-of-a-page/0123456789</html>")
    assert answer.decode() == answer.describe_error() == "<html>Bad key [key]</html>"
