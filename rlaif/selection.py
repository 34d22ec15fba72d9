"""Which of a prompt's K responses are judged together: which of the K(K-1)/2 pairs, or all in one list."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pydantic import Field

from rlaif.component import Options as BaseOptions
from rlaif.component import Place, code_hash, construct, load, parse_options, users_code
from rlaif.config import ComparisonsSection
from rlaif.errors import ConfigError
from rlaif.records import Prompt, Response, uniform

SELECTORS = {
    "all": "rlaif.selection:All",
    "random": "rlaif.selection:Random",
    "adjacent": "rlaif.selection:Adjacent",
    "baseline": "rlaif.selection:Baseline",
    "connected": "rlaif.selection:Connected",
    "list": "rlaif.selection:List",
}
SCORES = {"length": "rlaif.selection:length"}

Pairs = list[tuple[int, ...]]  # mostly of two; a longer one is a list that is judged together


class Selector(Protocol):
    """Given a prompt and its two or more responses, the index pairs to judge, or in words why there are none.

    A pure function of its arguments.
    """

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs | str: ...


class All:
    """Every pair."""

    def __init__(self, options: BaseOptions, where: str) -> None:
        pass

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs:
        return list(itertools.combinations(range(len(responses)), 2))


class Random:
    """``n`` pairs, those with the lowest keyed draw: adding a response keeps most of the choice."""

    class Options(BaseOptions):
        n: int = Field(default=6, ge=1)
        seed: int = 0

    def __init__(self, options: Options, where: str) -> None:
        self.options = options

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs:
        return sorted(self.drawn(responses)[: self.options.n])

    def drawn(self, responses: Sequence[Response]) -> Pairs:
        """Every pair, the lowest draw first."""
        every = itertools.combinations(range(len(responses)), 2)
        return sorted(
            every, key=lambda pair: uniform("pair", self.options.seed, *sorted(responses[i].id for i in pair))
        )


class Connected:
    """``n`` pairs by keyed draw that hang together, so that every response can be ranked against every other; fewer than
    K - 1 cannot.

    The pairs with the lowest draws that join two parts come first (Kruskal's tree), then those with the lowest draws.
    """

    class Options(BaseOptions):
        n: int = Field(default=6, ge=1)
        seed: int = 0

    def __init__(self, options: Options, where: str) -> None:
        self.options = options

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs | str:
        count = len(responses)
        if self.options.n < count - 1:
            return f"{self.options.n} pairs cannot connect {count} responses"
        drawn = Random(Random.Options(n=math.comb(count, 2), seed=self.options.seed), "").drawn(responses)
        part = list(range(count))
        tree: Pairs = []
        for i, j in drawn:
            if part[i] != part[j]:
                tree.append((i, j))
                part = [part[i] if each == part[j] else each for each in part]
        others = [pair for pair in drawn if pair not in tree]
        return sorted([*tree, *others[: self.options.n - len(tree)]])


class List:
    """All responses in one list, for a judge that ranks lists or scores replies one by one."""

    def __init__(self, options: BaseOptions, where: str) -> None:
        pass

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs:
        return [tuple(range(len(responses)))]


class Adjacent:
    """Neighbours after sorting by a cheap score: ``length``, or a user's ``package.module:function``."""

    class Options(BaseOptions):
        score: str = "length"

    def __init__(self, options: Options, where: str) -> None:
        self.score: Callable[[Prompt, Response], float] = load(options.score, SCORES, "score", where)
        self.source = code_hash(self.score)

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs:
        with users_code(self.score, f"scoring replies to {prompt.excerpt}"):
            order = sorted(range(len(responses)), key=lambda i: (self.score(prompt, responses[i]), i))
        return [(min(a, b), max(a, b)) for a, b in itertools.pairwise(order)]


class Baseline:
    """Every response against the responses of one model role."""

    class Options(BaseOptions):
        model: str

    def __init__(self, options: Options, where: str) -> None:
        self.role = options.model

    def pairs(self, prompt: Prompt, responses: Sequence[Response]) -> Pairs | str:
        base = [i for i, response in enumerate(responses) if (response.generator or "").startswith(f"{self.role}@")]
        others = [i for i in range(len(responses)) if i not in base]
        if not base or not others:
            return f"no response of {self.role}" if not base else f"no response but those of {self.role}"
        return [(min(a, b), max(a, b)) for a in base for b in others]


def selected(selector: Selector, prompt: Prompt, responses: Sequence[Response]) -> Pairs | str:
    """The pairs of a prompt's responses that are to be judged: at least one, or in words why there are none."""
    if len(responses) < 2:
        return "a single response" if responses else "no response"
    with users_code(selector, f"choosing among replies to {prompt.excerpt}"):
        pairs = selector.pairs(prompt, responses)
        for pair in () if isinstance(pairs, str) else pairs:
            if len(set(pair)) < max(2, len(pair)) or not set(pair) <= set(range(len(responses))):
                raise ValueError(f"{tuple(pair)} is no pair of {len(responses)} replies, counted from 0")
    return pairs or "no pair selected"


def length(prompt: Prompt, response: Response) -> float:
    return float(len(response.text))


def open_selector(section: ComparisonsSection, responses: int, where: Place) -> Selector:
    """The selector a recipe names; by default all pairs for up to four responses, else six at random."""
    name = section.select or ("all" if responses <= 4 else "random")
    kind: Any = load(name, SELECTORS, "selection", where.at("comparisons", "select"))
    if name in ("all", "list") and section.options:
        raise ConfigError(f'{where.at("comparisons", "options")}: "{name}" takes no options.')
    options = parse_options(kind, section.options, where.at("comparisons", "options"))
    selector: Selector = construct(kind, "(options, where)", options, str(where))
    return selector
