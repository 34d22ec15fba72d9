"""Sets and lists that live in a temporary file."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from rlaif.ondisk import Kept, Lists, Seen
from tests.make import AWKWARD

names = st.sampled_from([*AWKWARD, "\ud83d"])


@given(st.lists(names))
def test_lists_are_those_of_a_dictionary(rows: list[str]) -> None:
    items = [(name, [number, None, name]) for number, name in enumerate(rows)]
    kept = Lists(items)
    assert bool(kept) == bool(rows)
    asked = [*AWKWARD, "never added"]
    assert kept.of(asked) == {name: [item for other, item in items if other == name] for name in asked}


def test_a_name_is_new_once() -> None:
    seen = Seen()
    assert [seen.add(name) for name in ("a", "b", "a", "A", "b")] == [True, True, False, True, False]


def test_two_sets_know_nothing_of_each_other() -> None:
    one, other = Seen(), Seen()
    assert one.add("a")
    assert other.add("a")


def test_what_is_remembered_takes_no_memory_of_the_process() -> None:
    """Python's set of 50,000 such names takes more than 4 MB."""
    tracemalloc.start()
    seen = Seen()
    for number in range(50_000):
        seen.add(f"c-{number:020d}")
    kept = Lists((f"c-{number:020d}", [number, "ann"]) for number in range(50_000))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 200_000
    assert kept.of(["c-00000000000000000007"]) == {"c-00000000000000000007": [[7, "ann"]]}


def test_what_is_kept_can_be_gone_through_again_and_again() -> None:
    kept: Kept[object] = Kept()
    for item in ([1, "\ud83d"], None, {"a": (2,)}):
        kept.add(item)
    assert list(kept) == list(kept) == [[1, "\ud83d"], None, {"a": (2,)}]
    assert list(Kept()) == []
