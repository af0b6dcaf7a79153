"""Which requests go through the site's proxy: none to our own servers, those to hosted endpoints as
the environment says."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.llm.client import needs_proxy, verify_server
from emobench.llm.transport import CallFailed, ModelEndpoint, make_transport
from tests.support.model_server import ModelServer, Reply, answering, proving
from tests.support.peer import HANG_UP, Peer

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proxies of the machine that runs the tests."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())


def send(endpoint: ModelEndpoint, *, through_litellm: bool = False) -> str | None:
    stock = load_benchmark().import_module("envs.user").completion
    transport = make_transport(endpoint, stock, through_litellm=through_litellm)
    return transport.send("user", dict(REQUEST)).message.content


@pytest.mark.parametrize("through_litellm", [False, True])
@pytest.mark.parametrize(
    "variables",
    [
        ("http_proxy",),
        ("HTTP_PROXY",),
        ("all_proxy",),
        ("ALL_PROXY",),
        ("http_proxy", "https_proxy", "all_proxy"),
    ],
    ids=",".join,
)
def test_our_own_servers_are_never_reached_through_a_proxy(
    variables: tuple[str, ...], through_litellm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(ModelServer()) as proxy, answering(ModelServer()) as server:
        for name in variables:
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        server.key, server.prove = "the-key", proving("the-key", "now", "user")
        server.answer = lambda request: Reply("Hello.")
        own = ModelEndpoint("m", server.url, "the-key", incarnation="now", server="user")
        assert own.identity is not None
        verify_server(server.url, "m", "the-key", own.identity)
        assert send(own, through_litellm=through_litellm) == "Hello."
        assert server.requests[0]["messages"] == REQUEST["messages"]
        proved = any("challenge=" in path for path, _ in server.seen)
        assert proxy.seen == [] and proved


def test_nor_by_litellm_through_one_that_it_does_not_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with answering(ModelServer(lambda request: Reply("Hello."))) as server:
        own = ModelEndpoint("m", server.url, "k", incarnation="now", server="user")
        assert send(own, through_litellm=True) == "Hello."


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_hosted_endpoint_is_reached_through_the_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(ModelServer(lambda request: Reply("Through the proxy."))) as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        # litellm keeps a client for each address and key.
        hosted = ModelEndpoint("m", "http://models.example:8000/v1", f"sk-{variable}")
        assert send(hosted) == "Through the proxy."
        assert proxy.seen[0][0] == "http://models.example:8000/v1/chat/completions"


def test_an_endpoint_with_tls_is_reached_by_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", HANG_UP]
    with Peer(refusal) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.removesuffix("/v1"))
        with pytest.raises(CallFailed):
            send(ModelEndpoint("m", "https://models.example/v1", "sk-of-the-endpoint"))
    assert proxy.requests[0].startswith(b"CONNECT models.example:443 ")
    assert b"sk-of-the-endpoint" not in proxy.requests[0]


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    "entries", ["127.0.0.1", "*", "localhost, 127.0.0.1:{port}", "10.0.0.0/8,127.0.0.0/8"]
)
def test_a_hosted_endpoint_in_no_proxy_is_reached_directly(
    entries: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        answering(ModelServer()) as proxy,
        answering(ModelServer(lambda request: Reply("Directly."))) as hosted,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv(variable, entries.format(port=hosted.server_port))
        assert send(ModelEndpoint("m", hosted.url, "sk-key")) == "Directly."
        assert proxy.seen == []


@pytest.mark.parametrize(
    ("url", "no_proxy", "through"),
    [
        ("https://api.example.org/v1", "", True),
        ("https://api.example.org/v1", "example.org", False),
        ("https://api.example.org/v1", ".example.org", False),
        ("https://api.example.org/v1", "ample.org", True),
        ("https://api.example.org/v1", "api.example.org:443", False),
        ("https://api.example.org/v1", "api.example.org:8443", True),
        ("https://10.1.2.3/v1", "10.1.0.0/16", False),
        ("https://10.2.2.3/v1", "10.1.0.0/16,x/y", True),
        ("https://[fd00::1]/v1", "fd00::/8", False),
        ("http://api.example.org/v1", "", False),
    ],
)
def test_what_no_proxy_leaves_out(
    url: str, no_proxy: str, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert needs_proxy(url) is through
