"""Labels made of other sources' labels: which part labels what, at what rate labels are turned, and that nothing else changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from rlaif.catalogue import Catalogue
from rlaif.component import Options, Place
from rlaif.errors import ConfigError, DataError
from rlaif.labels import LabelContext, open_source
from rlaif.labels.judges import judges_of
from rlaif.labels.mixed import Blend, source_of
from rlaif.models.gateway import Gateway
from rlaif.records import Comparison, Judgement, Preference
from rlaif.store import RunFolder
from tests import make
from tests.runs import rlaif
from tests.tiny import write_jsonl

HERE = "tests.test_mixed_labels"


class Said:
    """Says that the first response is better with probability 0.9, under a name; greedy: of everything at once, when all is
    read."""

    class Options(Options):
        name: str = "one"
        greedy: bool = False

    def __init__(self, options: Options, context: LabelContext) -> None:
        self.options: Any = options
        self.checked: list[str] = []
        self.seen: list[int] = []

    def signature(self) -> Any:
        return self.options.name

    def per_comparison(self) -> int | None:
        return 1

    def check(self, comparisons: Iterable[Comparison]) -> None:
        self.checked = [each.id for each in comparisons]

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        waiting = [batch async for batch in batches] if self.options.greedy else batches
        async for batch in _each(waiting):
            self.seen.append(len(batch))
            yield [make.judgement(each, 0.9, labeller=f"human:{self.options.name}") for each in batch]


class Panel(Said):
    """Three of one opinion."""

    async def label(self, batches: AsyncIterator[list[Comparison]]) -> AsyncIterator[list[Judgement]]:
        async for batch in batches:
            yield [make.judgement(each, 0.9, labeller=f"human:{name}") for each in batch for name in "xyz"]


async def _each(batches: Any) -> AsyncIterator[list[Comparison]]:
    if isinstance(batches, list):
        for batch in batches:
            yield batch
    else:
        async for batch in batches:
            yield batch


COMPARISONS = [
    make.comparison(f"yes {i} {j}", f"no {i} {j}", question=f"Is it {i}?") for i in range(300) for j in range(2)
]


def opened(source: str, seed: int = 0, **options: Any) -> Any:
    gateway: Gateway = None  # type: ignore[assignment]
    context = LabelContext(Place("recipe.yaml"), Catalogue(), gateway, {}, None, None, "train", None, b"s", seed)
    return open_source(source, options, context, Place("recipe.yaml").at("labels"))


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"source": f"{HERE}:Said", "options": {"name": name, **options}}


def labels(source: Any, comparisons: list[Comparison] = COMPARISONS, size: int = 7) -> list[list[Judgement]]:
    async def batches() -> AsyncIterator[list[Comparison]]:
        for start in range(0, len(comparisons), size):
            yield comparisons[start : start + size]

    async def collected() -> list[list[Judgement]]:
        return [found async for found in source.label(batches())]

    return asyncio.run(asyncio.wait_for(collected(), 20))


def labellers(found: list[list[Judgement]]) -> dict[str, str]:
    return {each.comparison_id: each.labeller for batch in found for each in batch}


def blend(first: float, *, by: str = "prompt", greedy: tuple[bool, bool] = (False, False), seed: int = 0) -> Any:
    shares = (first, 1 - first)
    parts = [
        {**part(name, greedy=g), "share": share} for name, g, share in zip(("one", "two"), greedy, shares, strict=True)
    ]
    return opened("blend", seed, parts=parts, by=by)


@pytest.mark.parametrize("greedy", [(False, False), (True, False), (False, True), (True, True)])
def test_each_comparison_is_labelled_by_one_part_in_the_order_of_its_batch(greedy: tuple[bool, bool]) -> None:
    """However far ahead a part reads before it answers, as one that asks in jobs reads everything."""
    source = blend(0.25, greedy=greedy)
    found = labels(source)
    assert [[each.comparison_id for each in batch] for batch in found] == [
        [each.id for each in COMPARISONS[start : start + 7]] for start in range(0, len(COMPARISONS), 7)
    ]
    by_prompt: dict[str, set[str]] = {}
    said = labellers(found)
    for each in COMPARISONS:
        by_prompt.setdefault(each.prompt.id, set()).add(said[each.id])
    assert all(len(who) == 1 for who in by_prompt.values())
    assert sum(who == {"human:one"} for who in by_prompt.values()) / 300 == pytest.approx(0.25, abs=0.06)
    assert source.parts[0].seen == [
        sum(source.part_of(each.prompt.id, each.id) == 0 for each in COMPARISONS[start : start + 7])
        for start in range(0, 600, 7)
    ]


def test_noise_on_noise_adds_up_and_a_blend_in_a_blend_has_its_share() -> None:
    """Turned once of two draws of 0.25: 2·0.25·0.75 of the labels."""
    noisy = {"source": "noisy", "options": {"of": part("one"), "rate": 0.25}}
    found = [each for batch in labels(opened("noisy", of=noisy, rate=0.25)) for each in batch]
    plain = {each.comparison_id: each.ranking for batch in labels(opened(f"{HERE}:Said", name="one")) for each in batch}
    assert sum(each.ranking != plain[each.comparison_id] for each in found) / 600 == pytest.approx(0.375, abs=0.06)
    inner = {"source": "blend", "options": {"parts": [{**part(name), "share": 1} for name in ("two", "three")]}}
    outer = opened("blend", parts=[{**part("one"), "share": 1}, {**inner, "share": 1}])
    shares = Counter(labellers(labels(outer)).values())
    assert {who: pytest.approx(count / 600, abs=0.06) for who, count in shares.items()} == {
        "human:one": 0.5, "human:two": 0.25, "human:three": 0.25,
    }  # fmt: skip


def test_of_a_panel_as_many_labels_are_turned_as_of_one_labeller() -> None:
    """All that is said of a comparison, whoever says it."""
    found = [each for batch in labels(opened("noisy", of={"source": f"{HERE}:Panel"}, rate=0.25)) for each in batch]
    by_comparison: dict[str, set[Any]] = {}
    for each in found:
        by_comparison.setdefault(each.comparison_id, set()).add(each.ranking)
    assert all(len(rankings) == 1 for rankings in by_comparison.values())
    first = {each.id: each.responses[0].id for each in COMPARISONS}
    turned = [rankings for name, rankings in by_comparison.items() if first[name] not in next(iter(rankings))[0]]
    assert len(turned) / 600 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("by", ["prompt", "comparison"])
def test_a_training_is_told_which_part_labelled_a_preference(by: str) -> None:
    source = blend(0.5, by=by)
    parts = dict(zip((f"{HERE}:Said 1", f"{HERE}:Said 2"), ("human:one", "human:two"), strict=True))
    said = labellers(labels(source))
    shares = [{**part(name), "share": 1} for name in ("one", "two")]
    noisy = opened("noisy", of={"source": "blend", "options": {"parts": shares, "by": by}}, rate=0.1)
    for whole in (source, noisy):
        of = source_of(whole)
        assert of
        for each in COMPARISONS:
            a, b = (response.messages for response in each.responses)
            row = Preference(
                prompt=each.prompt.messages, chosen=a, rejected=b, p=0.9, weight=1.0, prompt_id=each.prompt.id,
                comparison_id=each.id,
            )  # fmt: skip
            assert parts[of(row)] == said[each.id]
    judges = {"source": "judges", "options": {"judges": ["longest"]}, "share": 1}
    judged = opened("blend", parts=[{**part("one"), "share": 1}, judges])
    assert judged.names == [f"{HERE}:Said", "judges"]
    assert source_of(opened(f"{HERE}:Said", name="one")) is None


def test_a_larger_share_takes_over_comparisons_and_gives_none_back() -> None:
    small, large = (labellers(labels(blend(share))) for share in (0.25, 0.5))
    assert {key for key, who in small.items() if who == "human:one"} < {
        key for key, who in large.items() if who == "human:one"
    }
    assert labellers(labels(blend(0.25, seed=1))) != small
    assert labellers(labels(blend(0.25), COMPARISONS[::-1], size=100)) == small


def test_comparisons_of_one_prompt_may_go_to_different_parts() -> None:
    said = labellers(labels(blend(0.5, by="comparison")))
    both = [said[a.id] != said[b.id] for a, b in zip(COMPARISONS[::2], COMPARISONS[1::2], strict=True)]
    assert sum(both) / len(both) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("greedy", [(False, False), (True, False)])
def test_what_ends_the_input_with_an_error_is_raised(greedy: tuple[bool, bool]) -> None:
    async def batches() -> AsyncIterator[list[Comparison]]:
        yield COMPARISONS[:5]
        raise DataError("the file ends here")

    async def collected() -> list[Any]:
        return [found async for found in blend(0.5, greedy=greedy).label(batches())]

    with pytest.raises(DataError, match="the file ends here"):
        asyncio.run(asyncio.wait_for(collected(), 20))


def test_every_part_checks_the_comparisons() -> None:
    source = blend(0.5)
    source.check(iter(COMPARISONS[:4]))
    assert [each.checked for each in source.parts] == [[c.id for c in COMPARISONS[:4]]] * 2


def test_labels_are_turned_round_at_the_rate_and_keep_how_sure_they_are() -> None:
    before = [each for batch in labels(opened(**part_of_noise(0.0))) for each in batch]
    assert before == [each for batch in labels(opened(f"{HERE}:Said", name="one")) for each in batch]
    after = [each for batch in labels(opened(**part_of_noise(0.25))) for each in batch]
    turned = [a.ranking == b.ranking[::-1] for a, b in zip(after, before, strict=True)]
    assert sum(turned) / len(turned) == pytest.approx(0.25, abs=0.05)
    assert all(a.ranking in (b.ranking, b.ranking[::-1]) and a.p == b.p for a, b in zip(after, before, strict=True))
    more = [each for batch in labels(opened(**part_of_noise(0.4))) for each in batch]
    assert all(m.ranking == a.ranking for m, a, t in zip(more, after, turned, strict=True) if t)


def part_of_noise(rate: float) -> dict[str, Any]:
    return {"source": "noisy", "of": part("one"), "rate": rate}


def test_ties_and_failures_are_not_turned() -> None:
    tie = make.judgement(COMPARISONS[0], 0.5)
    failed = Judgement(comparison_id="x", labeller="human:one", shown=None, outcome="unreadable", reason="no words")
    source = opened("noisy", of=part("one"), rate=0.5)
    assert [source._turned(each) for each in (tie, failed)] == [tie, failed]


def test_signatures_tell_what_labels_depend_on() -> None:
    found = [
        blend(0.5).signature(),
        blend(0.4).signature(),
        blend(0.5, by="comparison").signature(),
        blend(0.5, seed=1).signature(),
        opened("blend", parts=[{**part("one"), "share": 1}, {**part("three"), "share": 1}]).signature(),
        opened("noisy", of=part("one"), rate=0.1).signature(),
        opened("noisy", of=part("one"), rate=0.2).signature(),
    ]
    assert len({repr(each) for each in found}) == len(found)
    assert blend(0.5).signature() == blend(0.5).signature()


def test_a_source_in_a_source_in_a_source_and_its_judges() -> None:
    longest = {"source": "judges", "options": {"judges": ["longest"]}}
    inner = {"source": "noisy", "options": {"of": longest, "rate": 0.3}, "share": 2}
    source = opened("blend", parts=[inner, {**part("one"), "share": 1}])
    assert isinstance(source, Blend)
    assert source.ends == pytest.approx([2 / 3, 1.0])
    assert [judge.entry.name for judge in judges_of(source)] == ["longest"]
    assert source.caveats[-1] == "Labels were turned round at random, 30% of them."
    assert source.per_comparison() is None  # the judge is asked in two orders


@pytest.mark.parametrize(
    ("source", "options", "line"),
    [
        (
            "blend",
            {"parts": [{"source": "human", "share": 1}]},
            'labels.options: "parts": Tuple should have at least 2 items',
        ),
        (
            "noisy",
            {"of": {"source": "judegs"}, "rate": 0.1},
            'labels.options.of.source: label source "judegs" is not known. Did you mean "judges"?',
        ),
        (
            "noisy",
            {"of": {"source": "human"}, "rate": 0.7},
            'labels.options: "rate": must be less than or equal to 0.5 (found 0.7)',
        ),
        (
            "noisy",
            {"of": part("one", nam="x"), "rate": 0.1},
            'labels.options.of.options: unknown key "nam". Did you mean "name"?',
        ),
    ],
)
def test_wrong_parts_are_one_line(source: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        opened(source, **options)
    assert line in str(error.value)


def test_a_run_is_labelled_by_people_and_a_judge(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i}", "response_a": "short", "response_b": "rather longer", "label": "a"}
        for i in range(40)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        "pairs: pairs.jsonl\n"
        "labels:\n"
        "  source: blend\n"
        "  options:\n"
        "    parts:\n"
        "      - {source: human, share: 0.5}\n"
        "      - {source: noisy, options: {of: {source: judges, options: {judges: [longest]}}, rate: 0.0}, share: 0.5}\n"
    )
    planned = rlaif(tmp_path, "plan", "recipe.yaml")
    assert "not planned" not in planned
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "out")
    run = RunFolder(tmp_path / "out")
    who = [row.labeller.partition("@")[0] for row in run.read("judgements")]
    assert set(who) == {"human:unnamed-1", "judge:longest"}
    assert 10 <= who.count("human:unnamed-1") <= 30
    chosen = {row.comparison_id: row.chosen[0].content for row in run.read("preferences")}
    by_people = {row.comparison_id for row in run.read("judgements") if row.labeller.startswith("human")}
    assert all(said == ("short" if key in by_people else "rather longer") for key, said in chosen.items())
    rlaif(tmp_path, "run", "recipe.yaml", "--out", "out")  # nothing is labelled again
    assert len(list(run.read("judgements"))) == len(who)
