"""Keys are taken out of texts, whole or cut, however they are written."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from emobench.core import redaction
from emobench.core.redaction import (
    hide,
    hide_environment,
    hide_password,
    names_secret,
    redact,
    redact_error,
)

KEY = "sk-test/abc+DEF0123456789.of~nobody=="


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know no key but those of the test."""
    monkeypatch.setattr(redaction, "_keys", frozenset())
    monkeypatch.setattr(redaction, "_forms", ())


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        quote(KEY, safe=""),
        json.dumps(KEY)[1:-1],
        KEY.replace("/", "\\/"),
        base64.b64encode(KEY.encode()).decode(),
    ],
    ids=["plain", "url", "json", "slashes", "base64"],
)
def test_a_key_is_taken_out_however_it_is_written(written: str) -> None:
    hide(KEY)
    assert redact(f"Wrong key {written}, twice: {written}{written}.") == (
        "Wrong key [key], twice: [key][key]."
    )


@pytest.mark.parametrize("left", range((len(KEY) + 1) // 2, len(KEY) + 1))
def test_what_is_left_of_a_cut_key_is_taken_out(left: int) -> None:
    hide(KEY)
    assert redact(f"Bad: {KEY[:left]}") == "Bad: [key]"
    assert redact(f"Bad: {KEY[:left]} [cut]") == "Bad: [key] [cut]"
    assert redact(f"{KEY[-left:]} was bad") == "[key] was bad"


def test_a_key_that_begins_as_another_one_is_taken_out_whole() -> None:
    hide("sk-proj-0123456789", "sk-proj-0123456789-and-more")
    assert redact("a sk-proj-0123456789-and-more b sk-proj-0123456789 c") == "a [key] b [key] c"


@pytest.mark.parametrize("key", ["", "x", "k", "E", "none", "EMPTY", "unused"])
def test_what_is_too_short_for_a_key_stays(key: str) -> None:
    hide(key, None)
    said = f"OpenAIException - Connection error, {key} unused: none"
    assert redact(said) == said


def test_words_and_numbers_of_a_conversation_are_no_keys() -> None:
    # Servers that ask for no key are given such ones, and any variable may be named SORT_KEY.
    hide("anything")
    hide_environment({"SORT_KEY": "reservation", "ZIP_KEY": "19122", "MY_KEY": "2378156"})
    said = "Is there anything else? reservation_id, 19122, #W2378156"
    assert redact(said) == said


@pytest.mark.parametrize("key", ["k3y4u8zz", "a1b2c3", "twenty-six", "abcdefghijklmnop"])
def test_short_keys_are_taken_out(key: str) -> None:
    hide(key)
    assert redact(f"wrong: {key}!") == "wrong: [key]!"


def test_the_password_of_an_address_is_taken_out_and_the_address_stays() -> None:
    hide_password("https://me:pass-%77ord-123@models.example/v1")
    hide_password("http://plain.example:8000/v1")
    hide_password("http://[broken")
    said = "https://me:pass-%77ord-123@models.example/v1: pass-word-123"
    assert redact(said) == "https://me:[key]@models.example/v1: [key]"
    assert redact("http://plain.example:8000/v1") == "http://plain.example:8000/v1"


def test_variables_that_are_named_as_secrets_are_hidden_and_no_others() -> None:
    hide_environment(
        {
            "ANTHROPIC_API_KEY": "sk-ant-0123",
            "HF_TOKEN": "hf_012345",
            "aws_secret": "aws/456789",
            "PGPASSWORD": "correct horse",
            "SSH_KEY": "/home/me/.ssh/key",
            "TOKENIZERS_PARALLELISM": "sometimes",
            "KEYBOARD": "qwertyuiop",
        }
    )
    said = "sk-ant-0123 hf_012345 aws/456789 correct horse"
    assert redact(said) == "[key] [key] [key] [key]"
    kept = "/home/me/.ssh/key sometimes qwertyuiop"
    assert redact(kept) == kept


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer [key]"),
        ("wrong: sk-or-v1-0123456789abcdef0123", "wrong: [key]"),
        ("wrong: hf_ABCDEFGHIJKLMNOPQRST.", "wrong: [key]."),
        ("the task-id of 0123456789abcdef", "the task-id of 0123456789abcdef"),
    ],
)
def test_an_errors_words_lose_what_looks_like_anybodys_key(said: str, shown: str) -> None:
    assert redact_error(said) == shown


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("--hf-token", True),
        ("--api-key", True),
        ("OPENAI_API_KEY", True),
        ("--ssl-keyfile-password", True),
        ("sig.key", True),
        ("--tokenizer", False),
        ("--max-num-batched-tokens", False),
        ("--ssl-keyfile", False),
        ("accessToken", True),
        ("GITHUB_PAT", True),
        ("DB_PASS", True),
        ("GOOGLE_CREDENTIALS", True),
        ("monkey", False),
        ("PATH", False),
        ("BYPASS", False),
    ],
)
def test_which_names_are_of_secrets(name: str, secret: bool) -> None:
    assert names_secret(name) is secret
