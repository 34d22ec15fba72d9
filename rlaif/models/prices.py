"""What models behind APIs cost: ``options.price`` of a recipe, then ``prices.yaml`` in the working folder, then the table
that is shipped beside this file.

A name is priced by an entry of its own or of its family (its dated snapshots), never by a name that it merely begins
with: a variant that nobody entered has no price, and under a budget it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlaif.catalogue import mapping_of, read_bytes, text_of
from rlaif.component import Options, Place, parse_model
from rlaif.errors import ConfigError, did_you_mean
from rlaif.models import BatchModel
from rlaif.models.spending import Price, Rates

FILE = "prices.yaml"
SHIPPED = Path(__file__).with_name(FILE)
SNAPSHOT = r"(?:-latest|[-@]\d{4}-?\d\d-?\d\d)?"
ABOUT = ("as_of", "source", "note")  # of an entry, beside its price


@dataclass(frozen=True)
class Quote:
    """A price, and where it is from."""

    price: Price
    host: str
    name: str  # as the table has it: a model, or a pattern of several
    place: str  # the file, or the key of a recipe
    as_of: date | None = None
    source: str = ""
    note: str = ""

    @cached_property
    def own(self) -> int:
        """Characters of the name that stand for themselves."""
        return len(self.name.replace("*", ""))

    def fits(self, host: str, model: str) -> bool:
        """Whether it is the price of this model at this host, given with or without its port."""
        return self.host in (host, host.partition(":")[0]) and _pattern(self.name).fullmatch(model) is not None


@lru_cache(maxsize=4096)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, name.split("*"))) + SNAPSHOT)


class _Listed(Options):
    """One entry as it is parsed."""

    price: Price
    as_of: date | None = None
    source: str = ""
    note: str = ""


class _Host(Options):
    """A host's entries, and what those have in common that say nothing else."""

    models: dict[str, dict[str, Any]]
    source: str = ""
    as_of: date | None = None
    batch: float | None = None
    cached_from: int | None = None


def read_prices(path: Path) -> list[Quote]:
    """The entries of a price table. Raises ConfigError with the file, the host and the model."""
    quotes = []
    for host, value in mapping_of(path, text_of(path, read_bytes(path))).items():
        if "/" in str(host):
            raise ConfigError(
                f"{path}: {host}: expected a host, such as {urlsplit(str(host)).netloc or 'api.openai.com'}."
            )
        of_host: _Host = parse_model(_Host, value, f"{path}: {host}")
        common = of_host.model_dump(exclude={"models"}, exclude_none=True)
        for name, entry in of_host.models.items():
            whole = {**common, **entry}
            about = {key: whole.pop(key) for key in ABOUT if key in whole}
            listed: _Listed = parse_model(_Listed, {"price": whole, **about}, f"{path}: {host}: {name}")
            quotes.append(Quote(listed.price, str(host), name, str(path), listed.as_of, listed.source, listed.note))
    return quotes


class Prices:
    """Price tables in the order in which they are looked into."""

    def __init__(self, tables: Sequence[Sequence[Quote]]) -> None:
        self.tables = tables

    @classmethod
    def load(cls, folder: Path) -> Prices:
        """The folder's own table where it has one, then the shipped one."""
        path = folder / FILE
        own = [read_prices(path)] if path.is_file() and path.resolve() != SHIPPED.resolve() else []
        return cls([*own, read_prices(SHIPPED)])

    def __iter__(self) -> Iterator[Quote]:
        return (quote for table in self.tables for quote in table)

    def listed(self, host: str, model: str) -> list[Quote]:
        """What each table that knows the model says of it: the first one counts."""
        fitting = ([quote for quote in table if quote.fits(host, model)] for table in self.tables)
        return [max(quotes, key=lambda quote: quote.own) for quotes in fitting if quotes]

    def quote(self, model: Any) -> Quote | None:
        """What an opened model costs. None: nobody knows, or its endpoints do not cost the same."""
        own = getattr(getattr(model, "options", None), "price", None) or getattr(model, "price", None)
        if own:
            return Quote(own, "", model.identity.name, "options.price")
        listed = [self.listed(host, model.model) for host in getattr(model, "hosts", ())]
        found = [quotes[0] for quotes in listed if quotes]
        same = len(found) == len(listed) and len({quote.price for quote in found}) == 1
        return found[0] if same else None

    def of(self, model: Any) -> Price | None:
        """The price of an opened model. None: it costs nothing, or nobody knows."""
        quote = self.quote(model) if is_paid(model) else None
        return quote.price if quote else None

    def say(self, models: Mapping[str, Any]) -> list[str]:
        """Of which models, by role, the price is from a person's own table, or not known, for that person to read."""
        lines = []
        for role, model in models.items():
            quote = self.quote(model) if is_paid(model) else None
            if quote and quote.host and quote.place != str(SHIPPED):
                shipped = len(self.listed(quote.host, model.model)) > 1
                rest = ", instead of the shipped one" if shipped else ""
                lines.append(f"models.{role}: the price of {model.model} is that of {quote.place}{rest}.")
            elif quote is None and getattr(model, "remote", False):
                lines.append(f"models.{role}: no price is known of {model.model}: what its calls cost is not counted.")
        return lines


def is_paid(model: Any) -> bool:
    """Whether a call to it may cost money: not in this process, where models and scripts are free."""
    return not isinstance(model, BatchModel) and not getattr(model, "free", False)


def need_prices(models: Mapping[str, Any], prices: Prices, where: Place) -> None:
    """Under a budget the most that a call can cost has to be known. Raises ConfigError."""
    for role, model in models.items():
        if not is_paid(model):
            continue
        at = where.at("models", role)
        if prices.quote(model) is None:
            raise ConfigError(f"{at}: {unpriced(model, prices)}")
        if not hasattr(model, "upper_bound"):
            raise ConfigError(
                f"{at}: budget_usd cannot be kept with {model.identity.name}: nothing bounds the tokens of a request. Give "
                "its class a method upper_bound(request) -> (prompt tokens, output tokens), or leave budget_usd out."
            )


def unpriced(model: Any, prices: Prices) -> str:
    """Why a budget cannot be kept with this model, and what to write."""
    hosts = dict.fromkeys(getattr(model, "hosts", ()))
    at = f" at {', '.join(hosts)}" if hosts else ""
    name = getattr(model, "model", model.identity.name)
    known = [quote.name for quote in prices if any(quote.fits(host, quote.name) for host in hosts)]
    host = next(iter(hosts), "HOST")
    return (
        f"budget_usd needs a price, and none is known of {name}{at}.{did_you_mean(name, known)} Write options: {{price: "
        f"{{input: USD, output: USD}}}} for a million tokens (0 and 0: it is free), or an entry under {host} in {FILE}."
    )


def price_lines(prices: Prices, model: str | None = None) -> Iterator[str]:
    """The table for a person, or the entries that apply to one model. Raises ConfigError where there are none."""
    if model is None:
        quotes = list(prices)
    else:
        hosts = dict.fromkeys(quote.host for quote in prices)
        quotes = [listed[0] for host in hosts if (listed := prices.listed(host, model))]
    if not quotes:
        known = did_you_mean(str(model), [quote.name for quote in prices])
        raise ConfigError(f'prices: no price is known of "{model}".{known} Enter it in {FILE}, or as options.price.')
    yield f"{'US dollars for a million tokens':<46}{'input':>8}{'output':>8}{'cached':>8}{'written':>9}{'batch':>7}"
    for quote in quotes:
        price = quote.price
        name = f"{quote.host} {quote.name}"
        yield f"{name:<46}{_rates(price)}{f'x {price.batch:g}' if price.batch < 1 else '-':>7}  {_origin(quote)}"
        if price.long:
            yield f"{f'  all of a prompt above {price.long.above:,} tokens':<46}{_rates(price.long)}"
        if quote.note:
            yield f"  {quote.note}"


def _rates(rates: Rates) -> str:
    cached, written = ("-" if value is None else f"{value:g}" for value in (rates.cached_input, rates.cache_write))
    return f"{rates.input:>8g}{rates.output:>8g}{cached:>8}{written:>9}"


def _origin(quote: Quote) -> str:
    """Where a price is from and of when, as far as its table says."""
    place = "shipped" if quote.place == str(SHIPPED) else quote.place
    return ", ".join(part for part in (place, str(quote.as_of or ""), quote.source) if part)
