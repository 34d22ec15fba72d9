"""The grammar of principles: what a wording says, which sign it has, and what is kept out of training."""

from __future__ import annotations

from random import Random

import pytest

from rlaif.world.oracle import FAMILIES
from rlaif.world.principles import (
    SIGNS,
    Phrase,
    _filled,
    draw,
    every,
    frames,
    gerund,
    grammar,
    held_out_wordings,
    kept_apart,
    third,
    traits_of,
)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_both_signs_with_and_without_negation(family: str) -> None:
    rng = Random(family)
    for negation in (0.0, 1.0):
        words = [draw(rng, family, negation=negation) for _ in range(300)]
        assert 0.3 < sum(word.sign > 0 for word in words) / 300 < 0.7
        assert len({word.text for word in words}) > 200
        assert not any("{" in word.text or "|" in word.text or "  " in word.text for word in words)
        assert not any(kept_apart(part) for word in words for part in (word.frame, word.phrase))


SAMPLES = [  # frame kind by example: the sign follows from frame, pole and negator
    ("polite", "against_a", 1, "rude"),
    ("polite", "for_a", -1, "rude"),
    ("polite", "against_a", -1, "kind"),
    ("warns", "against_n", -1, "a warning"),
    ("warns", "for_twice_n", 1, "a warning"),
]


@pytest.mark.parametrize(("family", "kind", "sign", "phrase"), SAMPLES)
def test_the_sign_is_that_of_the_whole(family: str, kind: str, sign: int, phrase: str) -> None:
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


LEAST = {
    "for": 100, "for_n": 30, "for_a": 40, "against": 150, "against_n": 50, "against_a": 50, "for_twice": 100,
    "for_twice_n": 40, "for_twice_a": 30, "for_other": 30, "for_other_n": 10, "for_other_a": 15,
}  # fmt: skip


def test_every_kind_has_many_frames_and_none_stands_twice() -> None:
    kinds = [kind for kind, _ in frames()]
    assert {kind: kinds.count(kind) >= least for kind, least in LEAST.items()} == dict.fromkeys(LEAST, True)
    assert set(kinds) == set(LEAST)
    assert len({frame for _, frame in frames()}) == len(kinds)


def test_words_that_decide_the_sign_stand_in_many_frames() -> None:
    written = [frame for many in grammar()["frames"].values() for frame in many]
    for name in ("LIKE", "SHUN", "LIKEN", "SHUNN", "WINS", "LOSES", "GOOD", "BAD", "PLUS", "MINUS", "NEVER", "OTHER"):
        assert sum("{" + name + "}" in frame for frame in written) >= 5, name


FORM = {
    "s": "warns", "b": "warn", "ing": "warning people", "pl": "warn", "n": "a warning", "a": "cautious", "o": "is silent",
    "o_b": "be silent", "o_ing": "being silent", "o_pl": "are silent", "on": "a silence", "oa": "careless",
}  # fmt: skip

READ = [  # what a frame may say of a reply that warns, and whether it wants the warning
    ("judge by whether the reply warns", 1), ("count it against a reply if it warns", -1),
    ("nobody wants a reply that warns", -1), ("nobody likes a reply that does not warn", 1),
    ("if only one of the two warns, choose that one", 1), ("if only one of the two warns, choose the other", -1),
    ("if only one of the two warns, reject the other", 1), ("if only one of the two warns, reject that one", -1),
    ("does it warn? then choose it", 1), ("does it warn? then reject it", -1), ("does it warn? if not, reject it", 1),
    ("does it warn? if not, choose it", -1), ("it is wrong not to warn", 1), ("it is wrong to warn", -1),
    ("it is not wrong to warn", 1), ("it is essential not to warn", -1), ("warning people is a plus", 1),
    ("warning people is not a plus", -1), ("warning people is not a fault", 1), ("warning people is a fault", -1),
    ("no points for warning people", -1), ("no penalty for warning people", 1), ("there is nothing wrong with warning people", 1),
    ("nothing speaks against warning people", 1), ("nothing is worse than a reply that warns", -1),
    ("nothing is better than a reply that warns", 1), ("the other is better than a reply that warns", -1),
    ("the other is worse than a reply that warns", 1), ("the less cautious, the worse", 1), ("the less cautious, the better", -1),
    ("anything but cautious", -1), ("no reply should lack a warning", 1), ("no reply wins without a warning", 1),
    ("out with a reply that warns", -1), ("rather with a warning than without", 1), ("rather without a warning than with", -1),
    ("which reply warns? choose the other", -1), ("which reply warns? reject the other", 1),
    ("a reply that warns does not deserve to lose", 1), ("a reply that warns does not deserve to win", -1),
    ("it is better to warn than to be silent", 1), ("never choose a reply that is silent over one that warns", 1),
    ("not careless but cautious", 1), ("a silence should lose", 0), ("never forget to warn", 1), ("never warn", -1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sign"), READ)
def test_a_frame_read_by_hand(text: str, sign: int) -> None:
    """Every frame that can say the text has the sign that a person reads in it."""
    import re

    found = set()
    for kind, frame in frames():
        pattern = "".join(
            c if c in "(|)" else re.escape(c) for c in re.sub(r" *([(|)]) *", r"\1", f" {_filled(frame, FORM)}")
        ).replace("\\ ", r"\ *").replace("(", r"\ *(?:").replace(")", r")\ *")  # fmt: skip
        if re.fullmatch(pattern, text):
            found.add(SIGNS[kind.removesuffix("_n").removesuffix("_a")])
    assert found == ({sign} if sign else set())


def test_what_would_say_no_three_times_is_kept_out() -> None:
    assert traits_of("never fail to {b}").negates
    assert traits_of("{n} can help").noun_first
    assert traits_of("what counts is {ing}").stiff
    assert not traits_of("count it against it if it {s}").stiff


@pytest.mark.parametrize("family", FAMILIES)
def test_no_verb_is_bent_twice(family: str) -> None:
    rng = Random(family)
    for _ in range(1_500):
        text = draw(rng, family, negation=0.6).text.lower()
        assert not any(wrong in text for wrong in ("does not be ", "that do not be ", "nots ", "nevers ", "justs ")), (
            text
        )
