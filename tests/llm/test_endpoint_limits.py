"""Waiting for rate limits, over real HTTP: as long as asked, together, within a budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.stop_signals import Stopped
from emobench.llm.endpoint_limits import Effort, EndpointLimit, EndpointLimits
from emobench.llm.rate_limits import Allowance, Busy
from emobench.llm.transport import CallFailed, ModelEndpoint, Transport, make_transport
from tests.support.model_server import ModelServer, Reply, proving, recording

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
EMPTY = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


def busy(status: int = 429, error: str = "slow down", **headers: str) -> Reply:
    return Reply(
        status=status,
        error=error,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


class Endpoint:
    """A real server that answers as it is told, and notes when it was asked."""

    def __init__(self, server: ModelServer) -> None:
        self.server, self.asked = server, list[float]()
        self.replies: Iterator[Reply] = iter(())
        self.place = ModelEndpoint("m", server.url, "k", timeout_s=20)
        self.limits = EndpointLimits()
        server.answer = self.answer

    def answer(self, request: dict[str, Any]) -> Reply:
        self.asked.append(time.monotonic())
        return next(self.replies, Reply("Hi."))

    def says(self, *replies: Reply) -> None:
        self.replies = iter(replies)

    def says_always(self, reply: Reply) -> None:
        self.replies = iter(lambda: reply, None)

    def may_wait(self, seconds: float) -> None:
        self.place = replace(self.place, rate_limit_wait_s=seconds)

    def transport(self, **changes: Any) -> Transport:
        place = replace(self.place, **changes)
        stock = load_benchmark().import_module("envs.user").completion
        return make_transport(place, stock, through_litellm=False, limit=self.limits.find(place))

    def send(self, **changes: Any) -> Effort:
        """What a call took that was answered."""
        effort = Effort()
        reply = self.transport(**changes).send("assistant", dict(REQUEST), effort)
        assert reply.message.content == "Hi."
        return effort

    def fail(self, **changes: Any) -> tuple[CallFailed, Effort]:
        effort = Effort()
        with pytest.raises(CallFailed) as failed:
            self.transport(**changes).send("assistant", dict(REQUEST), effort)
        assert failed.value.kind == "infra"
        return failed.value, effort


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with recording(lambda request: Reply("Hi.")) as server:
        yield Endpoint(server)


@pytest.mark.parametrize(
    "refusal",
    [
        busy(Retry_After="0.2"),
        busy(retry_after_ms="200"),
        busy(error="Rate limit reached. Please try again in 200ms."),
        busy(x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="200ms"),
        busy(503, Retry_After="0.2"),
        busy(529, Retry_After="0.2"),
    ],
    ids=["seconds", "milliseconds", "words", "reset", "unavailable", "overloaded"],
)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_call_waits_at_least_as_long_as_it_is_asked(
    endpoint: Endpoint, refusal: Reply, provider: str
) -> None:
    endpoint.says(*[refusal] * 4)  # more often than a failure is met
    effort = endpoint.send(provider=provider)
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(endpoint.asked))
    assert (len(endpoint.asked), effort.refusals, effort.retries) == (5, 4, 0)
    assert effort.rate_limit_wait_s >= 0.8


def test_a_server_of_ours_is_waited_for_too(endpoint: Endpoint) -> None:
    endpoint.server.prove = proving("k", "i1", "user")
    endpoint.says(*[busy(503, "overloaded", Retry_After="0.2")] * 3)
    effort = endpoint.send(server="user", incarnation="i1")
    assert (effort.refusals, effort.retries) == (3, 0)
    assert effort.rate_limit_wait_s >= 0.6


def test_a_date_is_waited_for(endpoint: Endpoint) -> None:
    endpoint.says(busy(Retry_After=formatdate(time.time() + 2, usegmt=True)))
    assert endpoint.send().rate_limit_wait_s > 0.9  # dates are whole seconds


def test_without_a_word_on_it_the_wait_doubles(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 0.02)
    endpoint.says(*[busy()] * 6)
    effort = endpoint.send()
    gaps = [later - earlier for earlier, later in pairwise(endpoint.asked)]
    assert all(gap >= 0.01 * 2**number for number, gap in enumerate(gaps))
    assert (effort.refusals, effort.retries) == (6, 0)


def test_a_call_gives_up_when_its_budget_is_spent(endpoint: Endpoint) -> None:
    endpoint.may_wait(0.3)
    endpoint.says_always(busy(Retry_After="0.1"))
    failure, effort = endpoint.fail()
    assert effort.rate_limit_wait_s >= 0.2
    assert effort.refusals >= 2
    assert failure.status == 429
    assert "HTTP 429: slow down" in str(failure)
    assert "rate_limit_wait_min" in str(failure)


def test_nobody_waits_for_what_is_beyond_the_budget(endpoint: Endpoint) -> None:
    """As for a day's allowance."""
    endpoint.may_wait(60)
    endpoint.says(busy(error="Requests per day. Please try again in 9h54m.", Retry_After="0"))
    assert endpoint.fail()[1].rate_limit_wait_s == 0
    failure, _ = endpoint.fail()
    assert "Requests per day" in str(failure), "whoever comes later is told why"
    assert len(endpoint.asked) == 1, "and does not ask"


@pytest.mark.parametrize(
    ("refusal", "budget_s"),
    [
        (busy(error=EMPTY), 60),
        (busy(error="Your credit balance is too low", Retry_After="30"), 60),
        (busy(Retry_After="30", x_should_retry="false"), 60),
        (busy(503, "loading"), 60),
        (busy(Retry_After="30"), 0),
    ],
    ids=["quota", "balance", "never", "loading", "no budget"],
)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_what_no_waiting_heals_is_a_failure_like_others(
    endpoint: Endpoint, refusal: Reply, budget_s: float, provider: str
) -> None:
    endpoint.may_wait(budget_s)
    endpoint.says_always(refusal)
    _, effort = endpoint.fail(provider=provider)
    assert (len(endpoint.asked), effort.retries, effort.refusals) == (3, 2, 0)
    assert effort.rate_limit_wait_s == 0


def test_failures_between_rate_limits_are_still_counted(endpoint: Endpoint) -> None:
    down = Reply(status=500, error="x")
    endpoint.says(down, busy(), down, busy(), Reply("Hi."))
    effort = endpoint.send()
    assert (effort.retries, effort.refusals) == (2, 2)
    endpoint.says(down, busy(), down, busy(), down)
    assert endpoint.fail()[0].status == 500


def test_who_shares_the_endpoint_shares_the_pause(endpoint: Endpoint) -> None:
    """One has heard it: the others do not go and ask, also those of the other role."""
    endpoint.says(busy(Retry_After="0.5"))
    threads = [threading.Thread(target=endpoint.send) for _ in range(4)]
    threads[0].start()
    while not endpoint.limits.find(endpoint.place).words:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    first, *rest = endpoint.asked
    assert len(rest) == 4
    assert min(rest) - first >= 0.5


def test_another_model_or_key_is_not_paused(endpoint: Endpoint) -> None:
    endpoint.may_wait(60)
    endpoint.says(busy(Retry_After="3600"))
    endpoint.fail()
    assert endpoint.send(model="other").rate_limit_wait_s == 0
    assert endpoint.send(api_key="other").rate_limit_wait_s == 0


@pytest.mark.parametrize("words", ["", "Please try again in 20 minutes."])
def test_a_stop_ends_the_wait_at_once(
    endpoint: Endpoint, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 600.0)
    stop, waits = threading.Event(), threading.Event()
    endpoint.limits = EndpointLimits(stop, lambda line: waits.set())
    endpoint.says_always(busy(error=words))

    def end() -> None:
        waits.wait(20)
        stop.set()

    stopper = threading.Thread(target=end)
    stopper.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        endpoint.transport().send("assistant", dict(REQUEST))
    stopper.join()
    assert time.monotonic() - began < 20
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (busy(Retry_After="0.1"), "calls wait 0 s, as it asks"),
        (busy(), "calls wait 0 s, then longer, since it does not say how long"),
    ],
)
def test_a_log_says_it_once(endpoint: Endpoint, refusal: Reply, said: str) -> None:
    lines: list[str] = []
    endpoint.limits = EndpointLimits(progress=lines.append)
    endpoint.says(*[refusal] * 3)
    endpoint.send()
    assert lines == [f"rate limit of m at {endpoint.server.url}: {said}"]


def test_those_who_waited_come_back_one_after_the_other() -> None:
    """All at once they would be too many again."""
    limit, began = EndpointLimit("m"), time.monotonic()
    ends: list[float] = []

    def wait() -> None:
        assert limit.wait_for_turn(Effort(), 60)
        ends.append(time.monotonic() - began)

    def refuse() -> None:
        limit.wait_after(Busy(0.4), "", Effort(), 60)

    first = threading.Thread(target=refuse)
    first.start()
    while limit._resumes < began:
        time.sleep(0.001)
    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in (first, *threads):
        thread.join()
    assert min(ends) >= 0.4
    assert max(ends) - min(ends) > 0.02


def test_what_an_endpoint_says_drives_how_many_converse(endpoint: Endpoint) -> None:
    """Replies raise the limit while it is used up; a refusal lowers it, and a scarce allowance
    holds it."""
    controller = endpoint.limits.find(endpoint.place).controller
    before = controller.limit

    def converse(calls: int) -> int:
        endpoint.limits.note_in_use(controller.limit)
        for _ in range(calls):
            endpoint.send()
        return controller.limit

    assert converse(3) > before
    endpoint.says(busy(Retry_After="0.01"))
    assert converse(1) < before
    scarce = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "600"}
    endpoint.limits = EndpointLimits()
    controller = endpoint.limits.find(endpoint.place).controller
    endpoint.says_always(Reply("Hi.", headers=scarce))
    assert converse(3) == before


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_what_is_left_is_read_of_each_reply(endpoint: Endpoint, provider: str) -> None:
    endpoint.says(
        Reply(
            "Hi.",
            headers={
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "15",
                "x-ratelimit-reset-requests": "45s",
            },
        )
    )
    reply = endpoint.transport(provider=provider).send("assistant", dict(REQUEST))
    assert reply.allowance == Allowance(0.25, 45)
