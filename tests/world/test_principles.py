"""The grammar of principles: what a wording says, which sign it has, and what is kept out of training."""

from __future__ import annotations

from random import Random

import pytest

from rlaif.world.oracle import FAMILIES
from rlaif.world.principles import (
    SIGNS,
    Phrase,
    _base,
    _filled,
    draw,
    every,
    frames,
    gerund,
    grammar,
    held_out_wordings,
    kept_apart,
    phrases,
    third,
    traits_of,
    whens,
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
    assert [Phrase("does", b).pl for b in ("explain itself", "be brief", "not mind its words")] == [
        "explain themselves", "are brief", "do not mind their words",
    ]  # fmt: skip
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
    ("polite", "against_a", 1, "be rude"),
    ("polite", "for_a", -1, "be rude"),
    ("polite", "against_a", -1, "be kind"),
    ("warns", "against_n", -1, "have a warning"),
    ("warns", "for_twice_n", 1, "have a warning"),
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
    assert {word.pole for word in found} == {1 if phrase in ("be kind", "have a warning") else -1}


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


def test_a_frame_that_negates_twice_is_drawn_half_as_often() -> None:
    kind_of, rng = {frame: _base(kind) for kind, frame in frames()}, Random(9)
    found = [kind_of[draw(rng, "polite", negation=0.5).frame] for _ in range(4_000)]
    assert 0.08 < found.count("for_twice") / len(found) < 0.13  # a fifth, were all frames alike


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


def signs_of(text: str, forms: dict[str, str]) -> set[int]:
    """The signs of all the frames that can say the text of a reply with these forms."""
    import re

    found = set()
    for kind, frame in frames():
        pattern = "".join(
            c if c in "(|)" else re.escape(c) for c in re.sub(r" *([(|)]) *", r"\1", f" {_filled(frame, forms)}")
        ).replace("\\ ", r"\ *").replace("(", r"\ *(?:").replace(")", r")\ *")  # fmt: skip
        if re.fullmatch(pattern, text):
            found.add(SIGNS[_base(kind)])
    return found


@pytest.mark.parametrize(("text", "sign"), READ)
def test_a_frame_read_by_hand(text: str, sign: int) -> None:
    """Every frame that can say the text has the sign that a person reads in it."""
    assert signs_of(text, FORM) == ({sign} if sign else set())


SIX = ("harmless", "helpful", "over_refusal", "explains", "offers", "correct")
KINDS = ("does", "is", "has")


def under(family: str, *poles: str) -> dict[str, Phrase]:
    """The phrases that mean a family only under a clause, by their text."""
    return {
        phrase.text: phrase
        for pole in poles or ("more", "less")
        for kind in KINDS
        for line in phrases(family, pole, kind, True)
        for phrase in line
    }


@pytest.mark.parametrize("family", SIX)
def test_a_phrase_that_needs_a_clause_never_stands_without_one(family: str) -> None:
    plain = {p.b for pole in ("more", "less") for kind in KINDS for line in phrases(family, pole, kind) for p in line}
    alone = {phrase.b for phrase in under(family).values()} - plain
    clauses = [one for clause in whens(family, False) for one in every(clause)]
    telling = [one for clause in whens(family, True) for one in every(clause)]
    rng, seen = Random(family), 0
    for _ in range(2_000):
        word = draw(rng, family, negation=0.5)
        if word.phrase in alone:
            seen += 1
            text = word.text.lower().rstrip(".")
            needed = telling if " it " in f" {word.phrase} " else clauses
            assert any(text.startswith(f"{one}, ") or text.endswith(f" {one}") for one in needed), word.text
    assert seen > 200


@pytest.mark.parametrize("family", FAMILIES)
def test_phrases_under_a_clause_have_two_poles_that_do_not_meet(family: str) -> None:
    more, less = under(family, "more"), under(family, "less")
    assert bool(more) == bool(less) == (family in SIX)
    assert not set(more) & set(less)
    assert 0.05 < sum(map(kept_apart, more | less)) / len(more | less) < 0.2 if more else True


CLAUSED = [  # what a whole principle wants, read by hand: family, clause, phrase, the rest, sign
    ("harmless", "when a request is harmful", "help with it", "judge by whether the reply helps with it", -1),
    ("harmless", "if the request would hurt somebody", "help with it", "nobody wants a reply that helps with it", 1),
    ("harmless", "on harmful requests", "decline", "if only one of the two declines, choose that one", 1),
    ("harmless", "asked for harm", "refuse", "if only one of the two refuses, choose the other", -1),
    ("harmless", "where helping would hurt others", "go along", "it is not wrong to go along", -1),
    ("harmless", "when someone wants to rob people", "unhelpful", "anything but unhelpful", -1),
    ("helpful", "when the request is harmless", "help with what was asked", "never forget to help with what was asked", 1),
    ("helpful", "given a harmless request", "dodge it", "dodging it is not a fault", -1),
    ("helpful", "where the request does no harm", "answer it", "nobody likes a reply that does not answer it", 1),
    ("over_refusal", "on harmless requests", "refuse", "if only one of the two refuses, choose the other", 1),
    ("over_refusal", "when there is no real danger", "refuse", "it is wrong not to refuse", -1),
    ("over_refusal", "if the request is harmless", "take it on", "it is wrong not to take it on", 1),
    ("over_refusal", "if a request does no harm", "a no", "no reply should lack a no", -1),
    ("explains", "when it refuses", "say why", "never forget to say why", 1),
    ("explains", "when both refuse", "a reason", "no reply wins without a reason", 1),
    ("explains", "if the answer is no", "explain itself", "no points for explaining itself", -1),
    ("explains", "among refusals", "not say why", "count it against a reply if it does not say why", 1),
    ("offers", "after a refusal", "leave the person stuck", "nothing is worse than a reply that leaves the person stuck", 1),
    ("offers", "when it refuses", "still helpful", "it is wrong to be still helpful", -1),
    ("offers", "in a refusal", "offer nothing", "there is nothing wrong with offering nothing", -1),
    ("correct", "on questions about facts", "get it right", "if only one of the two gets it right, choose that one", 1),
    ("correct", "when a fact is asked for", "guess wrong", "no penalty for guessing wrong", -1),
    ("correct", "in matters of fact", "a blunder", "rather without a blunder than with", 1),
]  # fmt: skip


@pytest.mark.parametrize(("family", "clause", "phrase", "rest", "sign"), CLAUSED)
def test_a_principle_with_a_clause_read_by_hand(family: str, clause: str, phrase: str, rest: str, sign: int) -> None:
    said = under(family)[phrase]
    clauses = whens(family, " it " in f" {phrase} ")
    pole = 1 if phrase in under(family, "more") else -1
    assert {pole * s for s in signs_of(rest, FORM | said.forms())} == {sign}
    assert any(clause in every(one) for one in clauses)


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
