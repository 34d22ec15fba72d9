"""What a plan says, derived by hand on small recipes, and what the runs then really asked and paid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.checking import open_road
from rlaif.errors import UserError
from rlaif.mock import MockOptions, MockServer
from rlaif.models.spending import Price
from rlaif.plan import Line, Plan, plan_pipeline, told
from rlaif.plan import plan as plan_road
from tests.runs import rlaif
from tests.tiny import write_jsonl

PRICE = Price(1.0, 10.0)
FENCE, FORMAT = 16, 16 * 2 + 512  # characters of a fence; tokens that a chat of one message adds, at most
TEMPLATE = "=== user\n{{fence}}\n{{prompt}}\n{{response_1}}\n{{response_2}}\n{{fence}}\nA or B?"
PAIRS = [("Boil an egg?", "Yes.", "No, never."), ("Name a colour.", "Blue.", "Red, or é."), ("Why?", "So.", "Because.")]
LONGEST = 7  # tokens of a reply, at most


def characters(pair: tuple[str, str, str]) -> int:
    return 2 * FENCE + sum(map(len, pair)) + len("\n\n\n\n\nA or B?")


def size(pair: tuple[str, str, str]) -> int:
    """Bytes of UTF-8."""
    return characters(pair) + len("".join(pair).encode()) - len("".join(pair))


EACH = [characters(pair) for pair in PAIRS]
MOST = [size(pair) + FORMAT for pair in PAIRS]


def recipe(url: str = "http://127.0.0.1:9/v1", judge: str = "", options: Any = None, **sections: Any) -> str:
    """A recipe of three pairs and one judge behind an API, written into the working folder."""
    for folder in ("judges", "prompts/templates"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    template()
    Path("judges/mine.yaml").write_text(
        f"{judge or 'protocol: pairwise-text'}\noptions: {{template: bare, tie: null}}\n"
        f"sampling: {{temperature: 1.0, max_output_tokens: {LONGEST}}}\n"
    )
    write_jsonl(
        Path("pairs.jsonl"), [dict(zip(("prompt", "response_a", "response_b"), pair, strict=True)) for pair in PAIRS]
    )
    price = {"input": PRICE.input, "output": PRICE.output}
    model = {
        "provider": "openai",
        "model": "mock-judge",
        "options": {"base_url": url, "price": price, **(options or {})},
    }
    whole = {
        "pairs": "pairs.jsonl",
        "models": {"judge": model},
        "labels": {"source": "judges", "options": {"judges": ["mine"]}},
        **sections,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump({name: value for name, value in whole.items() if value is not None}))
    return "recipe.yaml"


def template(after: str = "", before: str = "") -> None:
    Path("prompts/templates/bare.txt").write_text(before + TEMPLATE + after)


def planned(*settings: str, **more: Any) -> Plan:
    return asyncio.run(plan_pipeline("recipe.yaml", settings, **more))


def only(found: Plan) -> Line:
    (line,) = found.lines
    return line


async def run(*settings: str, out: str = "out", until: Any = "preferences") -> None:
    road = open_road("recipe.yaml", settings, out=Path(out))
    try:
        await road.run(until)
    finally:
        road.gateway.ledger.close()


def on_mock(test: Callable[[MockServer], Awaitable[Any]], **options: Any) -> Any:
    async def serve() -> Any:
        async with MockServer(MockOptions(**options)) as server:
            return await test(server)

    return asyncio.run(serve())


def test_figures_by_hand() -> None:
    recipe()
    line = only(planned())
    assert (line.stage, line.judge, line.role, line.model) == ("judgements", "mine", "judge", "openai:mock-judge")
    assert (line.items, line.calls, line.least_calls, line.paid) == (6, 6, 6, 0)
    assert line.prompt_tokens == round(2 * sum(EACH) / 4)
    assert line.most_prompt_tokens == 2 * sum(MOST)
    assert line.output_tokens == line.most_output_tokens == 6 * LONGEST
    assert line.usd == pytest.approx((2 * sum(EACH) / 4 * 1 + 6 * LONGEST * 10) / 1e6)
    assert line.most_usd == pytest.approx((2 * sum(MOST) * 1 + 6 * LONGEST * 10) / 1e6)


def test_a_plan_asks_nothing_and_leaves_nothing() -> None:
    async def test(server: MockServer) -> int:
        recipe(f"{server.url}/v1")
        before = files()
        await plan_pipeline("recipe.yaml")
        assert files() == before
        return int(server.stats()["requests"])

    assert on_mock(test) == 0


def test_a_plan_needs_no_key_and_prices_what_the_run_will_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    home, other = "https://api.openai.com/v1", "https://gateway.example/v1"
    recipe(home, options={"price": None, "endpoints": [{"api_key_env": "SECOND_KEY"}]})
    named = "models.judge.model=gpt-4.1-mini"
    assert only(planned(named)).usd
    elsewhere = f"models.judge.options.endpoints=[{{base_url: {other}}}]"
    assert only(planned(named, elsewhere)).usd is None  # nobody knows what it costs there
    with pytest.raises(UserError, match="expected the beginning of an address"):
        planned(named, "models.judge.options.endpoints=[{base_url: nowhere}]")


def files() -> set[Path]:
    return set(Path().rglob("*"))


@pytest.mark.parametrize(
    "judge", ["protocol: pairwise-text", "protocol: pairwise-votes", "both_orders: false\nprotocol: pairwise-text"]
)
def test_what_a_run_then_asks_and_pays_is_within_the_plan(judge: str) -> None:
    async def test(server: MockServer) -> None:
        recipe(f"{server.url}/v1", judge)
        line = only(await plan_pipeline("recipe.yaml"))
        await run()
        stats = server.stats()
        cost = (stats["billed"]["prompt"] * PRICE.input + stats["billed"]["completion"] * PRICE.output) / 1e6
        assert line.least_calls <= stats["answered"] <= line.calls
        assert (line.least_calls == line.calls) == ("votes" not in judge)
        assert 0 < stats["billed"]["prompt"] <= line.most_prompt_tokens
        assert 0 < stats["billed"]["completion"] <= line.most_output_tokens
        assert 0 < cost <= line.most_usd
        again = only(await plan_pipeline("recipe.yaml"))
        assert (again.calls, again.paid, again.usd, again.most_usd) == (0, stats["answered"], 0.0, 0.0)

    on_mock(test)


FIVE = {"source": "judges", "options": {"judges": ["mine"], "principles": "average"}}
TOLD = "\nPrefer the reply of kind 0."


def five_principles() -> None:
    Path("prompts/constitutions").mkdir(parents=True)
    principles = [{"id": f"p{i}", "text": f"Prefer the reply of kind {i}."} for i in range(5)]
    Path("prompts/constitutions/five.yaml").write_text(yaml.safe_dump({"principles": principles}))


def test_what_a_first_run_paid_for_is_left_out_and_says_how_long_replies_are() -> None:
    """Two of three pairs are judged under five principles in both orders: twenty replies, from which lengths are known."""

    async def test(server: MockServer) -> None:
        recipe(f"{server.url}/v1", constitution="five", labels=FIVE)
        template("\n{{principle}}")
        whole = only(await plan_pipeline("recipe.yaml"))
        assert (whole.calls, whole.paid, whole.output_tokens) == (30, 0, 30 * LONGEST)
        await run("pairs.limit=2")
        rest = await plan_pipeline("recipe.yaml")
        line, mean = only(rest), server.stats()["billed"]["completion"] / 20
        assert (line.calls, line.paid) == (10, 20)
        assert line.most_prompt_tokens == 10 * (MOST[2] + len(TOLD))
        assert mean < LONGEST
        assert line.output_tokens == round(10 * mean)
        assert line.most_output_tokens == 10 * LONGEST
        assert f"judgements: a reply has {mean:.0f} tokens, as the 20 in the ledger have on average." in rest.notes

    five_principles()
    Path("script.jsonl").write_text(json.dumps({"match": ".", "reply": "[[A]]"}) + "\n")
    on_mock(test, script="script.jsonl")


def test_equal_requests_are_one_call() -> None:
    """A template that tells no principle asks the same under all of them."""

    async def test(server: MockServer) -> None:
        recipe(f"{server.url}/v1", constitution="five", labels=FIVE)
        line = only(await plan_pipeline("recipe.yaml"))
        await run()
        assert (line.items, line.calls, server.stats()["answered"]) == (30, 6, 6)

    five_principles()
    on_mock(test)


def test_votes_are_counted_from_the_least_to_the_most() -> None:
    recipe(judge="protocol: pairwise-votes")
    line = only(planned())
    assert (line.items, line.least_calls, line.calls) == (6, 6 * 3, 6 * 5)
    assert line.prompt_tokens == round(2 * sum(EACH) / 4 * 4)  # four votes: the middle of three and five
    assert line.most_prompt_tokens == 5 * 2 * sum(MOST)


def test_a_second_order_that_may_be_spared_is_counted_at_most() -> None:
    async def test(server: MockServer) -> None:
        labels = {"source": "judges", "options": {"judges": ["compare-logprobs-api"]}}
        recipe(f"{server.url}/v1", labels=labels)
        texts = [("quality=0.9", "quality=0.1"), ("quality=0.2", "quality=0.8")]
        rows = [{"prompt": f"Question {i}", "response_a": a, "response_b": b} for i in range(60) for a, b in texts]
        write_jsonl(Path("pairs.jsonl"), rows)
        await run(out="pilot")
        before = server.stats()["answered"]
        forget()
        sparing = "labels.options.second_order={measured_in: pilot, margin: 0.1}"
        line = only(await plan_pipeline("recipe.yaml", [sparing]))
        assert (line.least_calls, line.calls, line.output_tokens) == (120, 240, 180)
        await run(sparing, out="spared")
        assert 120 <= server.stats()["answered"] - before < 200

    on_mock(test, skill=1.0)


def forget() -> None:
    for path in Path(".rlaif").glob("ledger.sqlite*"):
        path.unlink()


def test_of_many_rows_some_are_rendered_and_all_are_counted() -> None:
    recipe()
    rows = [{"prompt": f"Question {i:03d}", "response_a": "Yes.", "response_b": "No!!"} for i in range(100)]
    write_jsonl(Path("pairs.jsonl"), rows)
    each = characters(("Question 000", "Yes.", "No!!"))

    async def drawn() -> Plan:
        road = open_road("recipe.yaml", out=Path("out"))
        try:
            return await plan_road(road, drawn=10)
        finally:
            road.gateway.ledger.close()

    found = asyncio.run(drawn())
    line = only(found)
    assert (line.items, line.calls) == (200, 200)
    assert line.prompt_tokens == round(200 * each / 4)
    assert line.most_prompt_tokens == 200 * (each + FORMAT)
    assert any(note.startswith("10 of 100 comparisons were rendered") for note in found.notes)
    assert only(planned(limit=30)).calls == 60


# --- responses that are still to be sampled ---------------------------------------------------------------------------


def sampling(url: str = "http://127.0.0.1:9/v1") -> None:
    write_jsonl(Path("prompts.jsonl"), [{"prompt": f"Question {i}?"} for i in range(4)])
    price = {"input": 2.0, "output": 20.0}
    speaker = {"provider": "openai", "model": "mock-policy", "options": {"base_url": url, "price": price}}
    recipe(url, pairs=None, prompts="prompts.jsonl", responses={"models": ["speaker"], "samples": 3, "sampling": {"max_output_tokens": 20}})  # fmt: skip
    whole = yaml.safe_load(Path("recipe.yaml").read_text())
    whole["models"]["speaker"] = speaker
    Path("recipe.yaml").write_text(yaml.safe_dump(whole))


def test_responses_to_come_count_at_their_full_length() -> None:
    sampling()
    found = planned()
    sampled, judged = found.lines
    assert (sampled.stage, sampled.role, sampled.items, sampled.calls) == ("responses", "speaker", 12, 12)
    assert sampled.most_prompt_tokens == 12 * (len("Question 0?") + FORMAT)
    assert sampled.most_usd == pytest.approx((12 * (len("Question 0?") + FORMAT) * 2 + 12 * 20 * 20) / 1e6)
    assert judged.calls == 4 * 3 * 2  # three pairs of three responses, both orders
    stands_in = characters(("Question 0?", "x" * 80, "x" * 80))  # 20 tokens of four characters
    assert judged.prompt_tokens == round(24 * stands_in / 4)
    assert judged.most_prompt_tokens == 24 * (stands_in + FORMAT)
    assert any("count with 20 tokens each" in note for note in found.notes)


def test_sampled_responses_are_planned_with_as_they_are() -> None:
    async def test(server: MockServer) -> None:
        sampling(f"{server.url}/v1")
        await run(until="comparisons")
        asked = server.stats()["answered"]
        sampled, judged = (await plan_pipeline("recipe.yaml")).lines
        assert (sampled.calls, sampled.paid) == (0, 12)
        await run()
        stats = server.stats()
        assert judged.calls == stats["answered"] - asked
        assert (await plan_pipeline("recipe.yaml")).lines[1].paid == judged.calls

    on_mock(test)


def test_the_win_rate_is_planned_on_the_prompts_that_are_judged(policy_folder: Path) -> None:
    write_jsonl(Path("prompts.jsonl"), [{"prompt": f"Question {i}?"} for i in range(30)])
    recipe(
        pairs=None,
        prompts="prompts.jsonl",
        responses={"samples": 2, "sampling": {"max_output_tokens": 20}},
        held_out=0.5,
        policies=["dpo"],
        evaluation={"judges": ["mine"], "judged": 3},
    )
    whole = yaml.safe_load(Path("recipe.yaml").read_text())
    whole["models"]["policy"] = str(policy_folder)
    Path("recipe.yaml").write_text(yaml.safe_dump(whole))
    found = planned()
    sampled, judged, before, after, contest = found.lines
    assert [(line.stage, line.calls) for line in (before, after)] == [
        ("answers of start", before.items),
        ("answers of dpo", before.items),
    ]
    assert (sampled.role, sampled.calls, sampled.usd, sampled.seconds) == ("policy", 60, 0.0, None)
    assert judged.calls == 60
    assert (contest.stage, contest.items, contest.calls) == ("win rate of dpo", 6, 6)
    assert contest.most_prompt_tokens is not None
    lengths = [note.partition(":")[0] for note in found.notes if "is taken to have 20 tokens" in note]
    assert lengths == ["responses, answers of start, answers of dpo"]  # one line for all of them


# --- tokens, time, money ----------------------------------------------------------------------------------------------


def test_a_named_tokenizer_counts_the_prompts(policy_folder: Path) -> None:
    from transformers import AutoTokenizer

    recipe(options={"tokenizer": str(policy_folder)})
    found = planned()
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    prompts = []
    for prompt, a, b in PAIRS:  # fences differ, and are as long
        for first, second in ((a, b), (b, a)):
            fence = "0" * FENCE
            text = f"{fence}\n{prompt}\n{first}\n{second}\n{fence}\nA or B?"
            prompts.append(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
            )
    by_hand = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts)
    assert only(found).prompt_tokens == pytest.approx(by_hand, rel=0.1)
    assert by_hand != pytest.approx(2 * sum(EACH) / 4, rel=0.1)  # what would have been estimated
    assert any("are counted by its tokenizer" in note for note in found.notes)
    assert only(found).most_prompt_tokens == 2 * sum(MOST)


TIMES = {
    "calls in flight": ({"max_in_flight": 2}, 3 * 2.0, "2 in flight"),
    "one round": ({"max_in_flight": 100}, 2.0, "100 in flight"),
    "requests": ({"requests_per_minute": 3}, 120.0, "3 requests a minute"),
    "tokens": ({"tokens_per_minute": 1000}, 60 * (2 * sum(MOST) + 6 * LONGEST) / 1000, "1,000 tokens a minute"),
}


@pytest.mark.parametrize("name", TIMES)
def test_the_time_is_what_the_tightest_limit_allows(name: str) -> None:
    options, seconds, limit = TIMES[name]
    recipe(options={"requests_per_minute": 1000, **options})
    line = only(planned())
    assert (line.seconds, line.limit) == (pytest.approx(seconds), limit)


def test_latency_is_as_it_is_given() -> None:
    recipe(options={"max_in_flight": 2})
    assert only(planned(latency_seconds=5.0)).seconds == 15.0


def test_what_caching_could_save_is_told_and_never_counted() -> None:
    """Three comparisons in both orders under one principle of 4,400 characters: five of six prefixes are read."""
    recipe(constitution="long", options={"price": {"input": 1.0, "output": 10.0, "cached_input": 0.1, "cache_write": 1.25, "cached_from": 1024}})  # fmt: skip
    template(before="=== system\nJudge by this:\n{{principle}}\n")
    Path("prompts/constitutions").mkdir(parents=True)
    Path("prompts/constitutions/long.yaml").write_text(
        yaml.safe_dump({"principles": [{"id": "p", "text": "be kind " * 550}]})
    )
    found = planned()
    line = only(found)
    prefix = (len("Judge by this:\n") + 4400) / 4
    assert line.prefix_tokens == round(prefix)
    assert line.cached_usd == pytest.approx(prefix * (5 * 0.9 - 0.25) / 1e6)
    assert line.usd == pytest.approx((2 * sum(EACH) / 4 + 6 * prefix + 6 * LONGEST * 10) / 1e6)
    assert any("could save" in text for text in told(found))
    short = planned("models.judge.options.price.cached_from=2000")
    assert only(short).cached_usd == 0
    assert any("fewer than the 2,000" in text for text in told(short))


def test_batches_cost_their_share() -> None:
    recipe(options={"price": {"input": 1.0, "output": 10.0, "batch": 0.5}})
    line = only(planned())
    assert line.usd is not None
    assert line.batch_usd == pytest.approx(line.usd / 2)
    assert only(planned("models.judge.options.price.batch=1")).batch_usd == pytest.approx(line.usd)


def test_a_recipe_that_asks_in_batches_is_planned_at_their_price() -> None:
    recipe(options={"price": {"input": 1.0, "output": 10.0, "batch": 0.5}})
    single = only(planned())
    assert single.usd
    assert single.most_usd
    whole = planned("models.judge.options.batch=true", f"budget_usd={0.6 * single.most_usd}")
    line = only(whole)
    assert (line.usd, line.most_usd) == (pytest.approx(single.usd / 2), pytest.approx(single.most_usd / 2))
    assert whole.enough
    assert line.seconds is None
    assert any("in batches, most within a day" in text for text in told(whole))


def last(*settings: str) -> str:
    return list(told(planned(*settings)))[-1]


def test_whether_the_budget_suffices_is_the_last_word() -> None:
    recipe()
    line = only(planned())
    assert line.usd is not None
    assert line.most_usd is not None
    assert last() == "No budget_usd is set."
    assert last(f"budget_usd={line.most_usd * 1.01}").endswith("enough, even at most, where no attempt is lost.")
    assert last(f"budget_usd={line.usd * 1.01}").endswith("enough for what is expected, not at most.")
    assert last(f"budget_usd={line.usd * 0.9}").endswith(
        "not enough for what is expected; what does not fit is not asked."
    )


def test_an_unknown_price_is_a_question_mark_and_no_number() -> None:
    recipe(options={"price": None})
    found = planned()
    assert (only(found).usd, only(found).most_usd, found.usd) == (None, None, None)
    assert last().startswith("No price is known of models.judge: write options.price")
    assert found.figures()["plan.usd"].value is None


def test_a_persons_own_price_table_is_said_aloud() -> None:
    recipe(options={"price": None})
    Path("prices.yaml").write_text('"127.0.0.1:9": {models: {"mock-*": {input: 3, output: 30}}}')
    found = planned("budget_usd=1")
    assert found.notes[0] == "models.judge: the price of mock-judge is that of prices.yaml."
    assert only(found).most_usd == pytest.approx((2 * sum(MOST) * 3 + 6 * LONGEST * 30) / 1e6)


def test_what_cannot_be_asked_is_said_and_not_counted() -> None:
    recipe(options={"reasoning": True})
    Path("judges/mine.yaml").write_text(
        "protocol: pairwise-text\noptions: {template: bare}\nsampling: {temperature: 0.5}\n"
    )
    found = planned()
    assert only(found).calls == 0
    assert any(note.startswith("judgements: 6 requests cannot be asked of openai:mock-judge: this model takes no temp") for note in found.notes)  # fmt: skip
    assert found.blocked == ("judgements by openai:mock-judge",)
    assert list(told(found))[-1].startswith(
        "It cannot be walked as it stands: nothing can be asked for judgements by openai"
    )


def test_people_and_rules_ask_no_model() -> None:
    recipe(labels={"source": "judges", "options": {"judges": ["longest"]}})
    assert list(told(planned())) == ["No model is asked anything."]
    write_jsonl(Path("pairs.jsonl"), [{"prompt": "a", "response_a": "b", "response_b": "c", "label": "a"}])
    recipe(labels={"source": "human"})
    assert planned().lines == ()


def test_figures_have_the_usual_form() -> None:
    recipe()
    found = planned()
    figures = found.figures()
    assert figures["plan.judgements.mine.calls"].model_dump() == {"value": 6, "low": 6, "high": 6, "n": 6}
    assert figures["plan.usd"].value == found.usd
    assert figures["plan.usd"].high == found.most_usd


def test_samples_for_the_scale_of_rewards_and_answers_to_held_out_prompts_are_planned_as_they_are_asked(
    policy_folder: Path,
) -> None:
    rows = [{"prompt": f"Question {i}?", "response_a": "Yes.", "response_b": "No.", "label": "a"} for i in range(24)]
    write_jsonl(Path("pairs.jsonl"), rows)
    sampling = {"max_output_tokens": 4}
    whole = {
        "models": {"policy": str(policy_folder)},
        "pairs": "pairs.jsonl",
        "labels": "human",
        "held_out": 0.25,
        "reward_model": {"options": {"normalise_on": 40, "learning_rate": 1e-3}, "sampling": sampling},
        "policies": [{"name": "best-of-n", "options": {"n": 3}}],
        "evaluation": {"prompts": 4, "sampling": sampling},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(whole))
    asked = sum(line.calls for line in planned().lines)
    text = rlaif(Path(), "run", "recipe.yaml", "--out", "run")
    assert f": {asked} asked, " in text
    assert sum(line.calls for line in planned().lines) == 0  # all of it is in the ledger now
