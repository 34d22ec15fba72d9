"""What a model costs: which entry a name finds, whose table counts, and what is refused where nobody knows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rlaif.checking import open_road
from rlaif.component import Place
from rlaif.errors import ConfigError
from rlaif.ledger import Ledger
from rlaif.models import ChatRequest, Identity, Reply, request_key
from rlaif.models.gateway import Gateway
from rlaif.models.prices import SHIPPED, Prices, need_prices, price_lines, read_prices
from rlaif.models.scripted import ScriptedModel
from rlaif.models.spending import LongRates, Price
from tests import make
from tests.models.asking import model

OPENAI, ANTHROPIC = "api.openai.com", "api.anthropic.com"
TABLE = """
api.openai.com:
  as_of: 2026-01-01
  batch: 0.5
  models:
    small-4: {input: 1, output: 2}
    small-4-2025-04-14: {input: 3, output: 4}
    "small-4*": {input: 5, output: 6, batch: 1}
    "team/*-7b": {input: 7, output: 8}
    "*": {input: 9, output: 10}
"""
FOUND = {
    "a family": ("small-4", 1),
    "its own snapshot before the family's": ("small-4-2025-04-14", 3),
    "another snapshot": ("small-4-2025-11-03", 1),
    "a snapshot without dashes": ("small-4-20251103", 1),
    "a snapshot as a cloud writes it": ("small-4@20251103", 1),
    "the newest": ("small-4-latest", 1),
    "a variant, by the pattern": ("small-4-vision", 5),
    "a dated variant": ("small-4-vision-2025-11-03", 5),
    "nearly a date": ("small-4-2025-11", 5),
    "a pattern with its star in the middle": ("team/judge-7b", 7),
    "dots are no wildcards": ("smallx4", 9),
    "what begins otherwise": ("a-small-4", 9),
}
SHIPPED_PRICES = {
    "gpt-4.1-mini-2025-04-14": (OPENAI, 0.4, 1.6),
    "gpt-4o-2024-05-13": (OPENAI, 5, 15),
    "gpt-4o-2024-11-20": (OPENAI, 2.5, 10),
    "gpt-5-mini-2025-08-07": (OPENAI, 0.25, 2),
    "claude-haiku-4-5-20251001": (ANTHROPIC, 1, 5),
    "claude-opus-4-20250514": (ANTHROPIC, 15, 75),
    "claude-opus-4-6": (ANTHROPIC, 5, 25),
    "claude-opus-5-5": (ANTHROPIC, 4, 20),
}
UNKNOWN = {
    "a variant that nobody entered": (OPENAI, "gpt-5-ultra"),
    "a tuned model": (OPENAI, "ft:gpt-4o-mini:team::1"),
    "another provider's name for it": (OPENAI, "openai/gpt-4.1"),
    "a name cut short": (OPENAI, "gpt-4."),
    "another host": ("gateway.example", "gpt-4.1"),
    "a host that only begins so": ("api.openai.com.example", "gpt-4.1"),
    "this machine": ("127.0.0.1:8000", "gpt-4.1"),
}


def table(text: str) -> Prices:
    Path("prices.yaml").write_text(text)
    return Prices([read_prices(Path("prices.yaml"))])


@pytest.mark.parametrize("name", FOUND)
def test_a_name_finds_the_entry_that_says_most_of_it(name: str) -> None:
    asked, price = FOUND[name]
    assert table(TABLE).listed(OPENAI, asked)[0].price.input == price


def test_what_a_host_says_holds_for_those_of_its_models_that_say_nothing_else() -> None:
    (family,), (pattern,) = (table(TABLE).listed(OPENAI, name) for name in ("small-4", "small-4-x"))
    assert (family.price.batch, pattern.price.batch) == (0.5, 1.0)
    assert str(family.as_of) == "2026-01-01"


@pytest.mark.parametrize("name", SHIPPED_PRICES)
def test_shipped_prices(name: str) -> None:
    host, given, written = SHIPPED_PRICES[name]
    (quote,) = Prices.load(Path()).listed(host, name)
    assert (quote.price.input, quote.price.output) == (given, written)
    assert Prices.load(Path()).listed(f"{host}:443", name) == [quote]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_entered_has_no_price(name: str) -> None:
    assert Prices.load(Path()).listed(*UNKNOWN[name]) == []


def test_every_shipped_entry_is_dated_and_has_a_source_and_a_possible_price() -> None:
    quotes = read_prices(SHIPPED)
    assert len(quotes) > 40
    for quote in quotes:
        assert quote.as_of, quote.name
        assert quote.source.startswith("https://"), quote.name
        for rates in filter(None, (quote.price, quote.price.long)):
            assert 0 < rates.input < rates.output, quote.name
            assert rates.cached_input is None or rates.cached_input < rates.input, quote.name
            assert rates.cache_write is None or rates.cache_write > rates.input, quote.name
        assert quote.price.batch == 0.5


# --- whose table counts -----------------------------------------------------------------------------------------------


def openai(name: str = "gpt-4.1-mini", **options: Any) -> Any:
    return model("openai", name, **{"api_key_env": "", **options})


def test_a_table_in_the_working_folder_is_looked_into_first_and_said_aloud() -> None:
    shipped = Prices.load(Path())
    Path("prices.yaml").write_text(
        'api.openai.com: {models: {"gpt-4*": {input: 7, output: 8}, gpt-new: {input: 1, output: 1}}}'
    )
    prices = Prices.load(Path())
    models = {
        "judge": openai(),
        "new": openai("gpt-new"),
        "other": openai("gpt-5-mini"),
        "unknown": openai("gpt-9"),
        "here": openai("gpt-9", base_url="http://127.0.0.1:8000/v1"),
    }
    assert shipped.of(models["judge"]) == Price(0.4, 1.6, cached_input=0.1, batch=0.5, cached_from=1024)
    assert prices.of(models["judge"]) == Price(7, 8)
    assert prices.of(models["other"]) == shipped.of(models["other"])
    assert prices.say(models) == [
        "models.judge: the price of gpt-4.1-mini is that of prices.yaml, instead of the shipped one.",
        "models.new: the price of gpt-new is that of prices.yaml.",
        "models.unknown: no price is known of gpt-9: what its calls cost is not counted.",
    ]


def test_the_price_in_a_recipe_wins_and_belongs_to_no_request() -> None:
    plain, priced = openai(), openai(price={"input": 1, "output": 2, "batch": 0.25}, tokenizer="somewhere")
    assert Prices.load(Path()).of(priced) == Price(1, 2, batch=0.25)
    assert priced.identity == plain.identity
    request = ChatRequest(messages=(make.user("Hi"),))
    assert request_key(request, priced.identity) == request_key(request, plain.identity)


def test_endpoints_that_do_not_cost_the_same_have_no_price() -> None:
    Path("prices.yaml").write_text(
        "a.example: {models: {m: {input: 1, output: 2}}}\n"
        "b.example: {models: {m: {input: 1, output: 2}, n: {input: 1, output: 3}}}\n"
    )
    prices = Prices.load(Path())

    def of(name: str, *hosts: str) -> Price | None:
        first, *rest = [f"http://{host}/v1" for host in hosts]
        return prices.of(openai(name, base_url=first, endpoints=[{"base_url": url} for url in rest]))

    assert of("m", "a.example") == of("m", "a.example", "b.example") == Price(1, 2)
    assert of("m", "a.example", "c.example") is None
    assert of("n", "b.example", "a.example") is None


class Own:
    """A model of a user's."""

    identity = Identity("own", None, ())
    price = Price(1, 2)

    async def complete(self, request: ChatRequest) -> Reply:
        return Reply(text="A", prompt_tokens=3, output_tokens=4)


def test_what_runs_here_costs_nothing_and_a_users_class_says_what_it_costs() -> None:
    scripted = ScriptedModel(f"{__name__}:answer", ScriptedModel.Options(), where="x", notice=print)
    prices = Prices.load(Path())
    assert prices.of(scripted) is None
    assert prices.of(Own()) == Price(1, 2)
    need_prices({"judge": scripted}, prices, Place("p.yaml"))


def answer(request: ChatRequest) -> str:
    return "A"


BAD_TABLES = {
    "no host": ("https://api.openai.com/v1: {models: {}}", "prices.yaml: https://api.openai.com/v1: expected a host, such as api.openai.com."),
    "no models": ("a.example: {price: 1}", 'prices.yaml: a.example: "models" is missing; unknown key "price".'),
    "half a price": ("a.example: {models: {m: {input: 1}}}", 'prices.yaml: a.example: m: "price.output" is missing'),
    "another word for it": (
        "a.example: {models: {m: {input: 1, output: 2, cached: 3}}}",
        'prices.yaml: a.example: m: unknown key "price.cached". Did you mean "cached_from"?',
    ),
    "a negative price": ("a.example: {models: {m: {input: -1, output: 2}}}", "greater than or equal to 0 (found -1)"),
    "a discount in per cent": ("a.example: {models: {m: {input: 1, output: 2, batch: 50}}}", "less than or equal to 1"),
    "twice": ("a.example: {models: {m: {input: 1, output: 2}, m: {input: 1, output: 3}}}", '"m" is given twice'),
    "nothing": ("", "prices.yaml: the file is empty."),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_mistake_in_a_table_is_one_line(name: str) -> None:
    text, message = BAD_TABLES[name]
    with pytest.raises(ConfigError) as caught:
        table(text)
    assert message in str(caught.value)


# --- costs ------------------------------------------------------------------------------------------------------------


def test_a_long_prompt_costs_more_in_all_its_tokens_request_by_request() -> None:
    price = Price(1.0, 10.0, long=LongRates(2.0, 20.0, above=1000))
    at, above = Reply(prompt_tokens=1000, output_tokens=10), Reply(prompt_tokens=1001, output_tokens=10)
    assert price.cost(at) == pytest.approx((1000 * 1 + 10 * 10) / 1e6)
    assert price.cost(above) == pytest.approx((1001 * 2 + 10 * 20) / 1e6)
    assert price.most(1000, 10) == pytest.approx(price.cost(at))
    assert price.most(1001, 10) == pytest.approx(price.cost(above))


def test_the_most_of_a_request_is_never_less_than_what_a_shorter_one_costs() -> None:
    cheaper = Price(4.0, 40.0, long=LongRates(2.0, 20.0, above=1000))
    assert cheaper.most(1001, 10) >= cheaper.cost(Reply(prompt_tokens=1000, output_tokens=10))


def test_a_batch_costs_its_share() -> None:
    price, reply = Price(1.0, 10.0, batch=0.5), Reply(prompt_tokens=100, output_tokens=10)
    assert price.cost(reply, batch=True) == pytest.approx(price.cost(reply) / 2)
    assert price.most(100, 10, batch=True) == pytest.approx(price.most(100, 10) / 2)
    assert Price(1.0, 10.0).cost(reply, batch=True) == Price(1.0, 10.0).cost(reply)


# --- budgets ----------------------------------------------------------------------------------------------------------


def refusal(opened: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        need_prices({"judge": opened}, Prices.load(Path()), Place("p.yaml"))
    return str(caught.value)


def test_a_budget_with_a_model_of_unknown_price_is_refused_and_says_what_to_write() -> None:
    assert refusal(openai("gpt-4.1-mnii")) == (
        "p.yaml: models.judge: budget_usd needs a price, and none is known of gpt-4.1-mnii at api.openai.com. Did you mean "
        '"gpt-4.1-mini"? Write options: {price: {input: USD, output: USD}} for a million tokens (0 and 0: it is free), or an '
        "entry under api.openai.com in prices.yaml."
    )
    assert "at 127.0.0.1:8000." in refusal(openai("gpt-4.1", base_url="http://127.0.0.1:8000/v1"))
    need_prices({"judge": openai("any", price={"input": 0, "output": 0})}, Prices.load(Path()), Place("p.yaml"))  # free


def test_a_budget_with_a_model_whose_tokens_nothing_bounds_is_refused() -> None:
    assert "models.judge: budget_usd cannot be kept with own: nothing bounds the tokens" in refusal(Own())


def test_a_gateway_with_a_budget_asks_no_model_without_a_price() -> None:
    async def ask(prices: Any) -> Any:
        gateway = Gateway(Ledger(Path("ledger.sqlite")), run="r", budget_usd=1.0, prices=prices)
        try:
            return await gateway.ask(Own(), ChatRequest(messages=(make.user("Hi"),)), {})
        finally:
            await gateway.close()

    with pytest.raises(ConfigError, match="no price is known of own"):
        asyncio.run(ask(lambda model: None))
    _, reply = asyncio.run(ask(Prices.load(Path()).of))
    assert reply.text == "A"


def test_a_recipe_is_refused_before_anything_is_asked() -> None:
    recipe = "pairs: p.jsonl\nlabels: judges\nbudget_usd: 1\nmodels: {judge: {provider: openai, model: m, options: "
    Path("p.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert "p.yaml: models.judge: budget_usd needs a price" in complaint(
        recipe + '{base_url: "http://127.0.0.1:9/v1"}}}\n'
    )
    assert complaint(recipe + "{price: {input: 1}}}}\n") == 'p.yaml: models.judge.options: "price.output" is missing'


def complaint(recipe: str) -> str:
    Path("p.yaml").write_text(recipe)
    with pytest.raises(ConfigError) as caught:
        open_road("p.yaml", out=Path("out"))
    return str(caught.value)


def test_prices_are_shown_with_where_they_are_from() -> None:
    Path("prices.yaml").write_text(
        "gateway.example: {as_of: 2026-11-01, models: {gpt-4.1-mini: {input: 3, output: 4}}}"
    )
    shown = "\n".join(price_lines(Prices.load(Path()), "gpt-4.1-mini"))
    assert "gateway.example gpt-4.1-mini" in shown
    assert "prices.yaml, 2026-11-01" in shown
    assert "shipped, 2026-09-07, https://developers.openai.com/api/docs/pricing" in shown
    whole = "\n".join(price_lines(Prices.load(Path())))
    assert "all of a prompt above 100,000 tokens" in whole
    with pytest.raises(ConfigError, match="no price is known of"):
        list(price_lines(Prices.load(Path()), "gpt-5-ultra"))
