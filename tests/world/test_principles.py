"""The grammar of principles: what a wording says, which sign it has, and what is kept out of training."""

from __future__ import annotations

from random import Random

import pytest

from rlaif.world.oracle import FAMILIES
from rlaif.world.principles import Phrase, chosen, draw, every, gerund, held_out_wordings, kept_apart, third


def test_verbs_are_inflected() -> None:
    assert [third(v) for v in ("give", "deny", "address", "say", "have", "be", "go")] == [
        "gives", "denies", "addresses", "says", "has", "is", "goes",
    ]  # fmt: skip
    assert [gerund(v) for v in ("give", "deny", "stop", "be", "lie", "see")] == [
        "giving", "denying", "stopping", "being", "lying", "seeing",
    ]  # fmt: skip


def test_a_phrase_in_every_form() -> None:
    assert Phrase("does", "use kind words").forms() == {
        "b": "use kind words", "s": "uses kind words", "ing": "using kind words", "pl": "use kind words",
    }  # fmt: skip
    assert Phrase("is", "rude").forms() == {
        "b": "be rude",
        "s": "is rude",
        "ing": "being rude",
        "pl": "are rude",
        "a": "rude",
    }
    assert Phrase("has", "a warning").forms()["n"] == "a warning"


def test_choices_within_choices() -> None:
    assert sorted(every("a (b|c (d|)) e")) == ["a b e", "a c d e", "a c e"]
    assert chosen(Random(0), "a (b) c") == "a b c"


@pytest.mark.parametrize("family", FAMILIES)
def test_both_signs_with_and_without_negation(family: str) -> None:
    rng = Random(family)
    for negation in (0.0, 1.0):
        words = [draw(rng, family, negation=negation) for _ in range(300)]
        assert 0.3 < sum(word.sign > 0 for word in words) / 300 < 0.7
        assert len({word.text for word in words}) > 200
        assert not any("{" in word.text or "|" in word.text or "  " in word.text for word in words)
        assert not any(any(word.held_out) for word in words)


SAMPLES = [  # frame kind by example: the sign follows from frame, pole and negator
    ("polite", "against_a", 1, "rude"),
    ("polite", "for_a", -1, "rude"),
    ("polite", "against_a", -1, "kind"),
    ("warns", "against_n", -1, "a warning"),
    ("warns", "for_twice_n", 1, "a warning"),
]


@pytest.mark.parametrize(("family", "kind", "sign", "phrase"), SAMPLES)
def test_the_sign_is_that_of_the_whole(family: str, kind: str, sign: int, phrase: str) -> None:
    from rlaif.world.principles import frames

    rng = Random(kind)
    mine = {frame for k, frame in frames() if k == kind}
    found = [
        w for w in (draw(rng, family, negation=0.8) for _ in range(20_000)) if w.phrase == phrase and w.frame in mine
    ]
    assert found
    assert {word.sign for word in found} == {sign}
    assert {word.pole for word in found} == {1 if phrase in ("kind", "a warning") else -1}


def test_what_is_held_out_can_be_asked_for() -> None:
    rng = Random(5)
    assert all(kept_apart(draw(rng, "polite", negation=0.5, new_frame=True).frame) for _ in range(50))
    assert all(kept_apart(draw(rng, "polite", negation=0.5, new_phrase=True).phrase) for _ in range(50))


def test_the_held_out_wordings_are_the_ones_written_before_training() -> None:
    import hashlib
    import importlib.resources

    data = importlib.resources.files("rlaif.world").joinpath("held_out_wordings.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith("b418af167b5132ec")
    words = list(held_out_wordings())
    assert {word.family for word in words} == set(FAMILIES)
    rng = Random(6)
    drawn = {draw(rng, family, negation=0.5).text for family in FAMILIES for _ in range(1_000)}
    assert len(drawn & {word.text for word in words}) <= 2  # by chance only
