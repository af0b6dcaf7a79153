from __future__ import annotations

import pytest

from emobench.scripted import user
from emobench.scripted.user import PHRASES, choose_phrase, hear, to_first_person
from tests.support.tau_loop import PROMPT, REACT_PROMPT

INSTRUCTION = (
    "You are Ada Lovelace in 12345. You want to return your lamp. If the agent asks, "
    "you'd prefer a refund to your card. You are terse."
)


def say(*agent: str, prompt: str = PROMPT, variants: dict[str, str] | None = None) -> str:
    system = {"role": "system", "content": prompt.format(instruction=INSTRUCTION)}
    heard = [{"role": "user", "content": text} for text in agent]
    content = user.reply([system, *heard], variants or {}).content
    assert content is not None
    return content


def test_turns_reveal_the_whole_instruction_in_the_first_person() -> None:
    first = say("Hi! How can I help you today?")
    second = say("Hi!", "Who are you?")
    third = say("Hi!", "Who are you?", "More?")
    assert first == "Hi! I want to return my lamp. If you ask, I'd prefer a refund to my card."
    assert second == "I am Ada Lovelace in 12345."
    assert third == "I am terse. That is everything."


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("I will do this. Shall I proceed (yes/no)?", "Yes, please go ahead."),
        ("Done. Is there anything else I can help you with?", "###STOP###"),
        ("Hold on.", "I have told you everything I know. Please go on."),
    ],
)
def test_answers_after_the_request_is_told(last: str, expected: str) -> None:
    assert say("Hi!", "?", "?", last) == expected


def test_no_dialogue_goes_on_for_ever() -> None:
    assert say(*["Hold on."] * (user.MAX_TURNS + 1)) == "###STOP###"


def test_without_an_instruction_it_says_hello() -> None:
    prompt = "You are a user interacting with an agent.\nRules:\n- Just generate one line."
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": "Hi!"}]
    assert user.reply(messages, {}).content == "Hello! I would like some help, please."


def test_react_format_survives_the_stock_parser() -> None:
    said = say("Hi!", prompt=REACT_PROMPT)
    _, rest = said.split("Thought:")
    _, response = rest.split("User Response:")
    assert response.strip().startswith("Hi! I want to return my lamp.")


@pytest.mark.parametrize("variant", [*PHRASES, "home-made.v2"])
def test_the_variant_is_heard_in_every_turn(variant: str) -> None:
    suffix = f"\n\nYou are full of {variant}."
    variants = {"control": "", variant: suffix.strip(), "other": "Never there."}
    for turn in range(1, 5):
        said = say(*["Go on."] * turn, prompt=PROMPT + suffix, variants=variants)
        assert hear(said)[0] == variant
        assert choose_phrase(variant, turn - 1) in said
        assert hear(say(*["Go on."] * turn, variants=variants))[0] == "control"


def test_the_longest_contained_variant_wins() -> None:
    variants = {"short": "You are cross.", "long": "You are cross. Very cross."}
    said = say("Hi!", prompt=PROMPT + "\n" + variants["long"], variants=variants)
    assert hear(said)[0] == "long"


@pytest.mark.parametrize(
    "end",
    [
        "\n- Try to make the conversation as natural as possible, and stick to the personalities "
        "in the instruction.\n",
        "\n<the user response (this will be parsed and sent to the agent)>",
    ],
)
def test_a_variant_that_it_does_not_know_is_refused(end: str) -> None:
    """It was added to the sweep after this server began: not played as control, nor as another
    one whose text it contains."""
    variants = {"control": "", "cross": "You are cross.", "padded": " You are loud. \n"}
    for suffix, heard in (
        ("", "control"),
        ("You are cross.", "cross"),
        ("You are loud.", "padded"),
    ):
        said = say("Hi!", prompt=f"{PROMPT}{end}\n\n{suffix}", variants=variants)
        assert hear(said)[0] == heard
    for suffix in ("You are cross. Very cross.", "You are calm."):
        with pytest.raises(user.UnknownVariant, match="without that variant"):
            say("Hi!", prompt=f"{PROMPT}{end}\n\n{suffix}", variants=variants)


def test_verifier_and_reflection_prompts() -> None:
    head = "You are a supervisor of the Agent in the conversation. ...\n# Transcript:\nAgent: x\n"
    verify = f"{head}\n# Response:\nHi Response: there\n\n-----\n\nClassification:"
    assert user.reply([{"role": "user", "content": verify}], {}).content == "true"
    reflect = (
        f"{head}\n# Response:\nHi there\n\n# Format:\n\nReflection:\n<the reflection>\n\n"
        "Response:\n<the response>"
    )
    content = user.reply([{"role": "user", "content": reflect}], {}).content
    assert content is not None
    _, response = content.split("Response:")
    assert response.strip() == "Hi there"


def test_first_person_keeps_the_facts() -> None:
    said = to_first_person(
        "You name is Bo. Your order is #W1. You're sure the agent has to ask you."
    )
    assert said == "My name is Bo. My order is #W1. I'm sure you have to ask me."
