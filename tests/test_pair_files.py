"""Files of pairs as people have them: every form a pair may take, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.conversations import common_start
from rlaif.errors import DataError
from rlaif.pairs import Vote, read_pair, read_pairs
from rlaif.records import Exclusion, Message
from rlaif.sampling import ReadPairs
from tests.make import assistant, sound, system, user
from tests.test_inputs import HH, read
from tests.tiny import write_jsonl


def better(row: dict[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Prompt, and the two texts of a row: the one its votes' p speaks of, the other."""
    pair = read_pair("x line 1", row)
    of = sound(pair)
    first, second = sorted(of.responses, key=lambda response: response.id != pair.first)
    return of.prompt.messages, first.text, second.text


def turns(*messages: Message) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]


HI = (user("Hi"),)
PAIRS: dict[str, tuple[dict[str, Any], tuple[Message, ...], str, str]] = {
    "prompt and two texts": ({"prompt": "Hi", "chosen": "good", "rejected": "bad"}, HI, "good", "bad"),
    "prompt and two turns": (
        {"prompt": turns(*HI), "chosen": turns(assistant("good")), "rejected": turns(assistant("bad"))},
        HI, "good", "bad",
    ),
    "prompt and two whole transcripts": (
        {"prompt": "Hi", "chosen": turns(*HI, assistant("good")), "rejected": turns(*HI, assistant("bad"))},
        HI, "good", "bad",
    ),
    "prompt, transcripts, and messages that repeat the chosen one": (
        {
            "prompt": "Hi",
            "messages": turns(*HI, assistant("good")),
            "chosen": turns(*HI, assistant("good")),
            "rejected": turns(*HI, assistant("bad")),
        },
        HI, "good", "bad",
    ),
    "prompt null": ({"prompt": None, "messages": turns(*HI), "chosen": "good", "rejected": "bad"}, HI, "good", "bad"),
    "two whole transcripts": (
        {"chosen": turns(*HI, assistant("good")), "rejected": turns(*HI, assistant("bad"))},
        HI, "good", "bad",
    ),
    "transcripts with a system message": (
        {"chosen": turns(system("s"), *HI, assistant("good")), "rejected": turns(system("s"), *HI, assistant("bad"))},
        (system("s"), *HI), "good", "bad",
    ),
    "the HH text form": (
        {"chosen": HH + "Past nine.", "rejected": HH + "No idea."},
        (user("Is it late?"), assistant("Yes."), user("How late?")), "Past nine.", "No idea.",
    ),
    "HH responses that begin alike": (
        {"chosen": HH + "Past nine.", "rejected": HH + "Past ten."},
        (user("Is it late?"), assistant("Yes."), user("How late?")), "Past nine.", "Past ten.",
    ),
    "an item": (
        {"prompt": "Hi", "response_a": "one", "response_b": "two", "label": "b"},
        HI, "one", "two",
    ),
    "an item with messages": (
        {"messages": turns(*HI), "response_a": "one", "response_b": "two"},
        HI, "one", "two",
    ),
    "an item with a lone letter": ({"prompt": "Hi", "response_a": "A", "response_b": "B"}, HI, "A", "B"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_form_becomes_one_comparison(name: str) -> None:
    row, messages, first, second = PAIRS[name]
    assert better(row) == (messages, first, second)


VOTES: dict[str, tuple[dict[str, Any], list[Vote]]] = {
    "a": ({"label": "a"}, [Vote(None, 1.0, None)]),
    "B": ({"label": " B "}, [Vote(None, 0.0, None)]),
    "tie": ({"label": "tie"}, [Vote(None, 0.5, None)]),
    "1": ({"label": 1}, [Vote(None, 1.0, None)]),
    "human_labels empty beside a label": ({"human_labels": "", "label": "b"}, [Vote(None, 0.0, None)]),
    "null": ({"label": None}, [Vote(None, None, None)]),
    "empty, as CSV has it": ({"label": ""}, [Vote(None, None, None)]),
    "none": ({}, []),
    "p": ({"p": 0.7}, [Vote(None, 0.7, None)]),
    "p as text": ({"p": "0.25"}, [Vote(None, 0.25, None)]),
    "p empty beside a label": ({"p": "", "label": "b"}, [Vote(None, 0.0, None)]),
    "p before the label": ({"p": 0.7, "label": "b"}, [Vote(None, 0.7, None)]),
    "an annotator": ({"label": "a", "annotator": "ann"}, [Vote("ann", 1.0, None)]),
    "a numbered annotator": ({"label": "a", "annotator": 7}, [Vote("7", 1.0, None)]),
    "a first shown": ({"label": "a", "order": "ba"}, [Vote(None, 1.0, "ba")]),
    "several in a list": (
        {"human_labels": ["a", "b", "tie", None]},
        [Vote("1", 1.0, None), Vote("2", 0.0, None), Vote("3", 0.5, None), Vote("4", None, None)],
    ),
    "several by name": ({"human_labels": {"ann": "a", "bo": "b"}}, [Vote("ann", 1.0, None), Vote("bo", 0.0, None)]),
}


@pytest.mark.parametrize("name", VOTES)
def test_every_label_form_becomes_votes(name: str) -> None:
    row, votes = VOTES[name]
    pair = read_pair("x", {"prompt": "Hi", "response_a": "one", "response_b": "two", **row})
    assert list(pair.votes) == votes


@pytest.mark.parametrize(
    ("row", "message"),
    {
        "an unknown label": ({"label": "left"}, "x line 1: label 'left'; expected \"a\", \"b\", \"tie\" or null."),
        "one of several": ({"human_labels": ["a", 3]}, 'x line 1: label 3; expected "a", "b", "tie" or null.'),
        "labels that are no list": (
            {"human_labels": "a;b"},
            "x line 1: human_labels is 'a;b'; expected a list of labels, or a mapping from annotator to label.",
        ),
        "a wrong order": (
            {"label": "a", "order": "first"},
            "x line 1: order is 'first'; expected \"ab\" or \"ba\", which was shown first, or null.",
        ),
        "p above 1": ({"p": 1.5}, "x line 1: p is 1.5; expected the probability, 0 to 1, that response_a is better."),
        "p is NaN": (
            {"p": float("nan")},
            "x line 1: p is nan; expected the probability, 0 to 1, that response_a is better.",
        ),
        "p is a word": (
            {"p": "high"},
            "x line 1: p is 'high'; expected the probability, 0 to 1, that response_a is better.",
        ),
    }.values(),
)  # fmt: skip
def test_a_label_no_one_could_mean_is_one_line(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        read_pair("x line 1", {"prompt": "Hi", "response_a": "one", "response_b": "two", **row})
    assert str(error.value) == message


def test_a_file_that_holds_no_pairs_is_one_line() -> None:
    with pytest.raises(DataError) as error:
        read_pair("x line 1", {"prompt": "Hi", "chosen": "good"})
    assert str(error.value) == (
        "x line 1: not a pair. Found prompt, chosen; expected chosen and rejected, or response_a and response_b with a "
        "label."
    )
    with pytest.raises(DataError, match=r"^x line 1: no prompt column\. Found response_a, response_b; expected one of"):
        read_pair("x line 1", {"response_a": "one", "response_b": "two"})


def test_names_in_capitals_are_said_to_be_those() -> None:
    with pytest.raises(DataError) as error:
        read_pair("x line 2", {"Prompt": "Hi", "Chosen": "good", " rejected": "bad"})
    assert str(error.value) == (
        "x line 2: not a pair. Found Prompt, Chosen,  rejected; expected chosen and rejected, or response_a and "
        'response_b with a label. Names are taken as written: rename "Prompt" to "prompt", "Chosen" to "chosen", '
        '" rejected" to "rejected".'
    )
    with pytest.raises(
        DataError, match=r'prompts\.column\. Names are taken as written: rename "Question" to "question"\.$'
    ):
        read({"Question": "Hi"})


NO_PAIR: dict[str, tuple[dict[str, Any], str]] = {
    "identical responses": ({"prompt": "Hi", "chosen": "same", "rejected": "same"}, "identical responses"),
    "identical transcripts": ({"chosen": HH + "Yes.", "rejected": HH + "Yes."}, "identical responses"),
    "identical items": ({"prompt": "Hi", "response_a": "same", "response_b": "same"}, "identical responses"),
    "an empty prompt": ({"prompt": " ", "chosen": "good", "rejected": "bad"}, "empty prompt"),
    "no prompt": (
        {"chosen": "good", "rejected": "bad"},
        "no prompt and no shared beginning",
    ),
    "transcripts that share nothing": (
        {"chosen": turns(user("a"), assistant("b")), "rejected": turns(user("c"), assistant("d"))},
        "no prompt and no shared beginning",
    ),
    "no response": ({"prompt": "Hi", "chosen": None, "rejected": "bad"}, "chosen: no response (null)"),
    "no turns": ({"chosen": [], "rejected": turns(*HI, assistant("bad"))}, "no prompt and no shared beginning"),
    "no second response": ({"prompt": "Hi", "response_a": "one", "response_b": None}, "response_b: no response (null)"),
    "a response by the user": (
        {"prompt": "Hi", "chosen": turns(user("good")), "rejected": "bad"},
        "a response that is not the assistant's",
    ),
    "half a surrogate pair": (
        {"prompt": "Hi", "chosen": "\ud83d", "rejected": "bad"},
        "chosen: text that is not valid Unicode",
    ),
    "a number": ({"prompt": "Hi", "chosen": 3, "rejected": "bad"}, "chosen: expected text or a list of turns, found int"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PAIR)
def test_a_row_that_is_no_pair_is_excluded_with_its_reason(name: str) -> None:
    row, reason = NO_PAIR[name]
    pair = read_pair("x line 1", row)
    assert pair.comparison == reason
    (excluded,) = ReadPairs().of(pair)
    assert isinstance(excluded, Exclusion)
    assert (excluded.outcome, excluded.reason) == ("filtered", reason)


def test_a_row_given_twice_is_one_comparison_and_one_exclusion() -> None:
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two"}
    stage = ReadPairs()
    first = list(stage.of(read_pair("x line 1", row)))
    assert [type(record).__name__ for record in first] == ["Prompt", "Response", "Response", "Comparison"]
    (second,) = stage.of(read_pair("x line 2", row))
    assert isinstance(second, Exclusion)
    assert (second.outcome, second.reason) == ("filtered", "another row of the same pair")


AGAIN = "the same row again, no annotator named: read as another person's votes"
JOINED = "another row of the same pair: its votes are joined"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    {
        "equal and unnamed": ({"label": "a"}, {"label": "a"}, AGAIN),
        "unnamed, of another mind": ({"label": "a"}, {"label": "b"}, JOINED),
        "two people": ({"label": "a", "annotator": "ann"}, {"label": "a", "annotator": "bo"}, JOINED),
        "unnamed after named": ({"label": "a", "annotator": "ann"}, {"label": "a"}, JOINED),
    }.values(),
)
def test_a_row_whose_votes_are_joined_is_counted_as_that(
    first: dict[str, str], second: dict[str, str], reason: str
) -> None:
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two"}
    stage = ReadPairs()
    list(stage.of(read_pair("x line 1", row | first)))
    (found,) = stage.of(read_pair("x line 2", row | second))
    assert isinstance(found, Exclusion)
    assert (found.outcome, found.reason) == ("joined", reason)


def test_a_second_pair_of_the_same_prompt_adds_only_what_is_new() -> None:
    stage = ReadPairs()
    list(stage.of(read_pair("x line 1", {"prompt": "Hi", "chosen": "good", "rejected": "bad"})))
    more = list(stage.of(read_pair("x line 2", {"prompt": "Hi", "chosen": "good", "rejected": "worse"})))
    assert [type(record).__name__ for record in more] == ["Response", "Comparison"]


words = st.text(alphabet="abc ", max_size=8)


@given(prompt=st.text(alphabet="abc", min_size=1, max_size=5), a=words, b=words)
def test_which_column_a_response_stands_in_changes_neither_the_comparison_nor_its_order(
    prompt: str, a: str, b: str
) -> None:
    one = read_pair("x", {"prompt": prompt, "chosen": a, "rejected": b})
    other = read_pair("x", {"prompt": prompt, "chosen": b, "rejected": a})
    if a == b:
        assert one.comparison == other.comparison == "identical responses"
        return
    assert sound(one).id == sound(other).id
    assert [r.id for r in sound(one).responses] == [r.id for r in sound(other).responses]
    assert one.first != other.first
    assert better({"prompt": prompt, "chosen": a, "rejected": b})[1:] == (a, b)


@given(st.lists(st.booleans(), min_size=2, max_size=60, unique=False))
def test_the_order_responses_are_stored_in_says_nothing_about_which_was_chosen(swaps: list[bool]) -> None:
    plain = [("good", "bad") for _ in swaps]
    swapped = [(r, c) if swap else (c, r) for (c, r), swap in zip(plain, swaps, strict=True)]

    def stored(sides: list[tuple[str, str]]) -> list[str]:
        return [
            sound(read_pair("x", {"prompt": f"{i}", "chosen": c, "rejected": r})).responses[0].text
            for i, (c, r) in enumerate(sides)
        ]

    assert stored(plain) == stored(swapped)


@given(
    shared=st.lists(st.sampled_from([user("a"), assistant("b"), system("s")]), max_size=5),
    a=st.lists(st.sampled_from([user("a"), assistant("x"), assistant("y")]), max_size=3),
    b=st.lists(st.sampled_from([user("a"), assistant("x"), assistant("y")]), max_size=3),
)
def test_the_shared_beginning_is_a_prompt_that_both_answer(
    shared: list[Message], a: list[Message], b: list[Message]
) -> None:
    one, other = [*shared, *a], [*shared, *b]
    n = common_start(one, other)
    assert 0 <= n <= min(len(one), len(other))
    assert one[:n] == other[:n]
    if n:
        assert one[n - 1].role != "assistant"
        assert one[n].role == other[n].role == "assistant"


def test_the_limit_of_pairs_counts_rows() -> None:
    source = str(write_jsonl(Path("p.jsonl"), [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(4)]))
    assert len(list(read_pairs(source, limit=3))) == 3
    assert len(list(read_pairs(source))) == 4
