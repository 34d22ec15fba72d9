"""Votes of one judge on one showing: shares, when to stop asking, and what a vote that is missing does."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.catalogue import Catalogue
from rlaif.config import PreferencesSection, Principle, Sampling
from rlaif.errors import CallError, CallFailed, CallRefused, ConfigError
from rlaif.judging import ProtocolContext, Question, Showing, Verdict
from rlaif.judging.pairwise_logprobs import PairwiseLogprobs
from rlaif.judging.pairwise_votes import PairwiseVotes
from rlaif.labels import requests_per_comparison
from rlaif.mock import MockServer
from rlaif.models import ChatRequest, Reply, request_key
from rlaif.preferences import reconcile
from rlaif.store import RunFolder
from tests import make
from tests.mock.serving import chat, post, serving
from tests.runs import rlaif
from tests.test_judging import PAIR, Answering, label, labels, showing, write_judge
from tests.tiny import write_jsonl

WARM = Sampling(temperature=1.0)
ALL = {"early_stop": False}


def judge(**options: Any) -> PairwiseVotes:
    context = ProtocolContext("judge x", Catalogue(Path.cwd()), True, "Judge well.", WARM)
    return PairwiseVotes(PairwiseVotes.Options(**options), context)


def spoken(vote: str) -> Reply:
    """A, B or C (a tie) as the model says it; R: the provider refuses, F: the call fails; else nothing to be read."""
    if vote == "R":
        raise CallRefused("the provider declined to answer")
    if vote in "Ff":
        raise CallFailed("the server is down", retryable=vote == "F")
    return Reply(text=f"[[{vote}]]" if vote in "ABC" else "Hard to say.")


def polled(said: str, protocol: PairwiseVotes) -> tuple[Verdict, list[int]]:
    """The verdict where the i-th vote is the i-th letter of ``said``, and which votes were asked."""
    asked: list[int] = []

    async def ask(question: Question) -> Reply:
        asked.append(question.sample_index)
        return spoken(said[question.sample_index])

    return asyncio.run(protocol.judge(showing(), ask)), asked


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "p", "readable"),
    [
        ("AAAAA", 1.0, 1.0),
        ("BBBBB", 0.0, 1.0),
        ("ABABA", 3 / 5, 1.0),
        ("ABCBA", (2 + 0.5) / 5, 1.0),
        ("CCCCC", 0.5, 1.0),
        ("ABxAA", 3 / 4, 4 / 5),
        ("ABxxR", 1 / 2, 2 / 5),
        ("AABB", 1 / 2, 1.0),
        ("B", 0.0, 1.0),
    ],
)
def test_p_is_the_share_of_the_votes_that_could_be_read(said: str, p: float, readable: float) -> None:
    verdict, asked = polled(said, judge(votes=len(said), minimum_readable=0.4, **ALL))
    assert asked == list(range(len(said)))
    assert verdict.p == pytest.approx((p, 1 - p))
    assert verdict.option_mass == pytest.approx(readable)
    assert verdict.probabilistic == (len(said) > 1)


def test_structured_votes_are_read_as_structured() -> None:
    protocol = judge(structured=True, **ALL)
    votes = ["A", "B", "A", "[[B]]", "A"]

    async def ask(question: Question) -> Reply:
        assert question.json_schema
        return Reply(text=json.dumps({"reasoning": "[[B]]", "verdict": votes[question.sample_index]}))

    verdict = asyncio.run(protocol.judge(showing(), ask))
    assert verdict.p == pytest.approx((3 / 4, 1 / 4))
    assert verdict.option_mass == pytest.approx(4 / 5)


# --- when to stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("AAABB", 3),  # three of five cannot be outvoted
        ("AABAB", 4),  # 2:1, so one more could settle it, and does
        ("AABBA", 5),
        ("CCCAA", 5),  # no one leads, and two votes are left: both are asked
        ("ACCCA", 5),
        ("ACAAA", 4),  # 2:0 with two left is a tie yet; 3:0 with one left is settled
        ("AAxAA", 4),
        ("xxxAA", 3),  # too few can be read, whatever the last two say
        ("AABB", 4),
        ("AAA", 2),
        ("AB", 2),
        ("A", 1),
    ],
)
def test_voting_stops_once_it_is_decided(said: str, asked: int) -> None:
    assert polled(said, judge(votes=len(said)))[1] == list(range(asked))


POLLS = st.text("ABCxR", min_size=1, max_size=11)


@given(POLLS, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_stopping_early_never_changes_which_reply_wins(said: str, minimum: float) -> None:
    def outcome(early: bool) -> tuple[float | None, int]:
        protocol = judge(votes=len(said), minimum_readable=minimum, early_stop=early)
        try:
            verdict, asked = polled(said, protocol)
        except CallRefused:
            return None, 0
        return (
            None if verdict.p is None else math.copysign(1, round(verdict.p[0] - 0.5, 9)) * (verdict.p[0] != 0.5)
        ), len(asked)

    early, few = outcome(True)
    whole, many = outcome(False)
    assert few <= many or many == 0
    if early is None:
        assert whole is None  # it stops without a verdict only where all votes would have had none
    elif whole is not None:
        assert early == whole


@given(st.integers(1, 9), st.booleans(), st.booleans(), st.sampled_from(["C", None]))
def test_votes_for_whichever_is_shown_first_end_at_one_half(
    votes: int, early: bool, form: bool, tie: str | None
) -> None:
    protocol = judge(votes=votes, early_stop=early, structured=form, tie=tie)

    async def ask(question: Question) -> Reply:
        return Reply(text='{"reasoning": "", "verdict": "A"}' if question.json_schema else "[[A]]")

    judgements = []
    for flipped in (False, True):
        shown = PAIR.responses[::-1] if flipped else PAIR.responses
        verdict = asyncio.run(protocol.judge(Showing(PAIR.prompt, shown, None, "", "f00d"), ask))
        assert verdict.p == (1, 0)
        judgements.append(make.judgement(PAIR, 0.0 if flipped else 1.0, flipped=flipped))
    preference, provenance = reconcile(PAIR, PAIR.responses, judgements, PreferencesSection())  # type: ignore[arg-type]
    assert (preference.p, provenance.outcome) == (0.5, "tie")


# --- votes that are missing -------------------------------------------------------------------------------------------


def test_too_few_readable_votes_are_no_verdict() -> None:
    verdict, _ = polled("AAxxx", judge(**ALL))
    assert (verdict.p, verdict.option_mass) == (None, pytest.approx(0.4))
    assert verdict.reason == "too few votes could be read: no verdict in the reply"
    assert polled("AAxxx", judge(minimum_readable=0.4, **ALL))[0].p == (1, 0)
    assert polled("xxxxx", judge(minimum_readable=0, **ALL))[0].p is None


@pytest.mark.parametrize("said", ["RRRRR", "ARRRx", "RRRxx"])
def test_a_showing_of_which_the_provider_refuses_most_is_refused(said: str) -> None:
    with pytest.raises(CallRefused):
        polled(said, judge(**ALL))


@pytest.mark.parametrize(("said", "retryable"), [("AAAAF", True), ("fAAAF", True), ("AfAAA", False), ("RRFRR", True)])
def test_a_vote_whose_call_failed_fails_the_showing(said: str, retryable: bool) -> None:
    with pytest.raises(CallFailed) as caught:
        polled(said, judge(**ALL))
    assert caught.value.retryable == retryable


def test_all_votes_of_a_wave_are_waited_for_before_a_failure_is_told() -> None:
    answered = []

    async def ask(question: Question) -> Reply:
        if question.sample_index == 0:
            raise CallFailed("the server is down", retryable=True)
        await asyncio.sleep(0.01)
        answered.append(question.sample_index)
        return Reply(text="[[A]]")

    with pytest.raises(CallError):
        asyncio.run(judge(**ALL).judge(showing(), ask))
    assert answered == [1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"votes": 0}, {"minimum_readable": 1.5}, {"votes": 2.5}])
def test_impossible_votes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PairwiseVotes.Options(**options)


def test_votes_at_temperature_zero_are_a_mistake() -> None:
    write_judge("mine", protocol="pairwise-votes")
    with pytest.raises(ConfigError, match=r"mine\.yaml: sampling\.temperature is 0, so that all votes would be one"):
        labels()
    with pytest.raises(AssertionError, match=r"sampling\.temperature is 0"):
        rlaif(Path.cwd(), "check", "judges/mine.yaml")


# --- as a label source ------------------------------------------------------------------------------------------------


def write_votes(**options: Any) -> None:
    write_judge("mine", protocol="pairwise-votes", options={**ALL, **options}, sampling={"temperature": 1.0})


def test_each_vote_is_a_sample_of_its_own_with_the_runs_seed() -> None:
    write_votes()
    source, model = labels(lambda request: "[[A]]" if request.sample_index < 3 else "[[B]]")
    found = label(source, PAIR)
    assert Counter(request.sample_index for request in model.requests) == dict.fromkeys(range(5), 2)
    assert {request.seed for request in model.requests} == {0}
    assert [judgement.p for judgement in found] == [pytest.approx((0.6, 0.4))] * 2
    assert len({key for judgement in found for key in judgement.reply_keys}) == 10


class Late(Answering):
    """Answers the last question first."""

    async def complete(self, request: ChatRequest) -> Reply:
        await asyncio.sleep(0.02 * (5 - request.sample_index))
        return await super().complete(request)


def test_a_judgement_names_its_replies_in_the_order_asked_whichever_came_first() -> None:
    write_votes()
    source, model = labels(kind=Late)
    found = label(source, PAIR)
    assert model.requests[0].sample_index == 4
    for judgement, requests in zip(found, _by_showing(model.requests), strict=True):
        assert judgement.reply_keys == tuple(request_key(request, model.identity) for request in requests)


def _by_showing(requests: list[ChatRequest]) -> list[list[ChatRequest]]:
    """Requests by the order of the replies they show, the pair's own first; in each by sample index."""
    flipped = [
        request.messages[-1].content.index("Magic") < request.messages[-1].content.index("poles")
        for request in requests
    ]
    ordered = sorted(zip(flipped, requests, strict=True), key=lambda item: (item[0], item[1].sample_index))
    return [[request for side, request in ordered if side is which] for which in (False, True)]


def test_one_refused_vote_is_not_cast_and_its_reply_is_still_named() -> None:
    write_votes()
    refused = Reply(finish_reason="refused")
    source, _ = labels(lambda request: refused if request.sample_index == 1 else "[[A]]")
    for judgement in label(source, PAIR):
        assert (judgement.outcome, judgement.option_mass) == ("ranked", pytest.approx(0.8))
        assert len(judgement.reply_keys) == 5


def test_a_failed_vote_leaves_no_label_and_asking_again_asks_only_what_is_missing() -> None:
    write_votes()

    def down(request: ChatRequest) -> str:
        if request.sample_index == 2:
            raise CallFailed("the server is down", retryable=True)
        return "[[A]]"

    source, _ = labels(down)
    found = label(source, PAIR)
    assert {(judgement.outcome, judgement.retryable, judgement.p) for judgement in found} == {("failed", True, None)}
    assert [len(judgement.reply_keys) for judgement in found] == [4, 4]
    source, model = labels()
    assert [judgement.outcome for judgement in label(source, PAIR)] == ["ranked", "ranked"]
    assert [request.sample_index for request in model.requests] == [2, 2]


SPEAKER = '''
def speak(request):
    """Five votes: three for the good reply, one for the other, a tie."""
    text = request.messages[-1].content
    good, bad = ("A", "B") if text.index("GOOD") < text.index("BAD") else ("B", "A")
    return f"I think so. [[{(good, bad, good, good, 'C')[request.sample_index]}]]"
'''


@pytest.mark.parametrize(("options", "p", "calls"), [(ALL, 0.7, 5), ({}, 0.75, 4)])
def test_a_run_by_votes_ends_in_soft_labels(
    working_folder: Path, options: dict[str, Any], p: float, calls: int
) -> None:
    (working_folder / "speaker.py").write_text(SPEAKER)
    write_jsonl(working_folder / "pairs.jsonl", [{"prompt": "one", "response_a": "GOOD", "response_b": "BAD"}])
    write_judge("mine", protocol="pairwise-votes", options=options, sampling={"temperature": 1.0})
    rlaif(working_folder, "judge", "mine", "pairs.jsonl", "--model", "scripted:speaker:speak", "--out", "run")
    run = RunFolder(working_folder / "run")
    (preference,) = run.read("preferences")
    assert (preference.chosen[0].content, preference.p) == ("GOOD", pytest.approx(p))
    assert [len(judgement.reply_keys) for judgement in run.read("judgements")] == [calls, calls]


# --- votes and log-probabilities of one model -------------------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True])
def test_the_share_of_sampled_votes_is_within_binomial_error_of_the_log_probability(form: bool) -> None:
    """The mock server's judge by the shipped templates over HTTP, at temperature 1, the verdict alone."""
    n = 400
    of = make.comparison("quality=0.55", "quality=0.45")
    shown = Showing(of.prompt, of.responses, Principle(id="p", text="Prefer the truth."), "Judge well.", "f00d" * 4)
    context = ProtocolContext("judge x", Catalogue(Path.cwd()), True, "Judge well.", WARM)
    template = "compare-two-form" if form else "compare-two-letter"
    votes = judge(
        votes=n, template=template, tie=None, **ALL, **({"structured": True, "reasoning": False} if form else {})
    )
    logprobs = PairwiseLogprobs(PairwiseLogprobs.Options(template="compare-two-letter"), context)

    async def test(_: MockServer, session: aiohttp.ClientSession) -> tuple[Verdict, Verdict]:
        async def ask(question: Question) -> Reply:
            messages = [{"role": message.role, "content": message.content} for message in question.messages]
            body = chat(seed=question.sample_index, temperature=1) | {"messages": messages, "model": "mock-judge"}
            if question.options:
                body |= {"logprobs": True, "top_logprobs": 20}
            if question.json_schema:
                wanted = {"name": "verdict", "strict": True, "schema": json.loads(question.json_schema)}
                body |= {"response_format": {"type": "json_schema", "json_schema": wanted}}
            status, answer, _ = await post(session, body)
            assert status == 200, answer
            (choice,) = answer["choices"]
            top = choice["logprobs"]["content"][0]["top_logprobs"] if question.options else []
            listed = tuple((token["token"], token["logprob"]) for token in top)
            return Reply(text=choice["message"]["content"], logprobs=listed)

        return await votes.judge(shown, ask), await logprobs.judge(shown, ask)

    # skill 1: the mock's judge has no opinion of its own, which would hang on the words of the template
    sampled, measured = serving(test, skill=1)
    assert sampled.p
    assert measured.p
    p = measured.p[0]
    assert 0.1 < p < 0.9
    assert sampled.option_mass == 1
    assert abs(sampled.p[0] - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_progress_and_plans_know_how_many_requests_a_comparison_takes_at_most() -> None:
    write_judge("mine", protocol="pairwise-votes", options={"votes": 7}, sampling={"temperature": 1.0})
    source, _ = labels(judges=("mine", "longest"))
    assert (source.per_comparison(), source.requests_per_comparison()) == (4, 14)  # rules ask nobody
    assert requests_per_comparison(source) == 14
    alone, _ = labels(judges=("longest",))
    assert (alone.requests_per_comparison(), requests_per_comparison(alone)) == (0, 2)
