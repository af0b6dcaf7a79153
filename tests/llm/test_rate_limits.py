"""What endpoints say of their limits, in the forms of providers and gateways."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.llm.rate_limits import Allowance, Busy, read_allowance, read_busy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "words", "wait_s"),
    [
        ({"retry-after": "20"}, "", 20),
        ({"retry-after": "0.75"}, "", 0.75),
        ({"retry-after": "0"}, "", 0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT"}, "", 90),
        ({"retry-after": "Sunday, 22-Nov-26 12:01:30 GMT"}, "", 90),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, "", 0),
        # By the clock of the server, which may be another one.
        (
            {
                "retry-after": "Sun, 22 Nov 2026 14:01:30 GMT",
                "date": "Sun, 22 Nov 2026 14:00:00 GMT",
            },
            "",
            90,
        ),
        ({"retry-after": "2", "retry-after-ms": "1640"}, "", 2),
        ({"x-ms-retry-after-ms": "1640"}, "", 1.64),
        ({"retry-after": "6m0s"}, "", 360),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": ""}, "", None),
        ({"retry-after": "-5"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "9" * 5000}, "", None),
        ({}, "Rate limit reached. Please try again in 6m0s. Visit", 360),
        ({}, "Please try again in 120ms.", 0.12),
        ({}, "Please retry after 26 seconds.", 26),
        ({}, "Please retry in 10h17m5.723541104s.", 37_025.723541104),
        ({}, '"retryDelay": "34s"', 34),
        ({}, "Please try again in 1 minute 5 seconds.", 65),
        ({}, "Please try again in a while", None),
        ({"retry-after": "1"}, "Please try again in 20s.", 20),
    ],
)
@pytest.mark.parametrize("status", [429, 529])
def test_how_long_to_wait(
    headers: dict[str, str], words: str, wait_s: float | None, status: int
) -> None:
    busy = read_busy(status, headers, words, NOW)
    assert busy is not None
    assert busy.wait_s == (None if wait_s is None else pytest.approx(wait_s))


OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "17.5s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:34Z",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "28000",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:04Z",
}
ENVOY = {
    "x-ratelimit-limit": "10, 10;w=60",
    "x-ratelimit-remaining": "0",
    "x-ratelimit-reset": "41",
}
KONG = {"ratelimit-limit": "10", "ratelimit-remaining": "0", "ratelimit-reset": "41"}
OPENROUTER = {**ENVOY, "x-ratelimit-reset": str(int(NOW + 41) * 1000)}
EPOCH = {**ENVOY, "x-ratelimit-reset": str(int(NOW + 41))}


@pytest.mark.parametrize(
    ("headers", "reset_s"),
    [
        (OPENAI, 17.5),
        (ANTHROPIC, 34),
        (ENVOY, 41),
        (KONG, 41),
        (OPENROUTER, 41),
        (EPOCH, 41),
        ({**ENVOY, "x-ratelimit-reset": "6h0m0s"}, 21_600),
        ({"x-ratelimit-remaining": "0"}, None),
    ],
)
def test_the_scarcest_allowance(headers: dict[str, str], reset_s: float | None) -> None:
    assert read_allowance(headers, NOW) == Allowance(0.0, reset_s)
    # A reset is when all of it is back: nobody is made to wait for hours by it alone.
    assert read_busy(429, headers, "", NOW) == Busy(None if reset_s is None else min(reset_s, 60))
    assert read_busy(429, {**headers, "retry-after": "3"}, "", NOW) == Busy(3)


def test_an_allowance_that_is_not_spent_makes_nobody_wait() -> None:
    headers = {**OPENAI, "x-ratelimit-remaining-tokens": "1500"}
    assert read_allowance(headers, NOW) == Allowance(0.01, 17.5)
    assert read_busy(429, headers, "", NOW) == Busy(None)
    assert read_allowance({"x-ratelimit-remaining": "5"}, NOW) is None
    assert read_allowance({"content-type": "application/json"}, NOW) is None


@pytest.mark.parametrize("status", [200, 400, 402, 403, 500, 502])
def test_other_answers_are_no_matter_of_time(status: int) -> None:
    assert read_busy(status, {"retry-after": "3"}, "", NOW) is None


def test_a_server_that_is_away_is_one_where_it_says_for_how_long() -> None:
    assert read_busy(503, {}, "loading", NOW) is None
    assert read_busy(503, {"retry-after": "3"}, "overloaded", NOW) == Busy(3)


@pytest.mark.parametrize(
    ("words", "headers", "busy"),
    [
        ('{"error": {"message": "no", "code": "insufficient_quota"}}', {}, None),
        ("You exceeded your current quota, please check your plan and billing details.", {}, None),
        # Google says so of any limit.
        ("You exceeded your current quota. Please retry in 20.5s.", {}, Busy(20.5)),
        ("You exceeded your current quota. limit: 0, model: m. Please retry in 20s.", {}, None),
        ("insufficient_quota", {"retry-after": "5"}, None),
        ("Your credit balance is too low", {}, None),
        ("billing_hard_limit_reached", {}, None),
        ("enforced_spend_limit_reached", {}, None),
        ("Rate limit reached for requests", {"x-should-retry": "false"}, None),
        ("Rate limit reached for requests", {"x-should-retry": "true"}, Busy(None)),
        ("Rate limit reached: limit: 30000, used 29000", {}, Busy(None)),
    ],
)
def test_an_empty_account_is_no_rate_limit(
    words: str, headers: dict[str, str], busy: Busy | None
) -> None:
    assert read_busy(429, headers, words, NOW) == busy


NAMES = st.sampled_from(["retry-after", "retry-after-ms", "date", *OPENAI, *ANTHROPIC, *ENVOY])
VALUES = st.text(max_size=40) | st.from_regex(r"[0-9.:TZhmsd ,;+-]{0,30}", fullmatch=True)


@given(st.dictionaries(NAMES, VALUES), st.text(max_size=60) | VALUES.map("try again in {}".format))
def test_no_header_breaks_anything(headers: dict[str, str], words: str) -> None:
    busy = read_busy(429, headers, words, NOW)
    assert busy is None or busy.wait_s is None or busy.wait_s >= 0
    allowance = read_allowance(headers, NOW)
    assert allowance is None or 0 <= allowance.left <= 1
