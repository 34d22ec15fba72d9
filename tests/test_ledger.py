"""The ledger: paid for once, never lost, never asked again."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import Sampling
from rlaif.errors import StorageError
from rlaif.ledger import Entry, Ledger, Spent, spent
from rlaif.models import ChatRequest, Identity, Reply, request_key
from rlaif.prompting import redact
from rlaif.records import Message, canonical_json, digest
from tests import make

ROOT = Path(__file__).parent.parent


words_of_keys = st.text('ab,{}:"\\', max_size=4)


def recorded(ledger: Ledger, entry: Entry) -> asyncio.Future[Entry]:
    """A future that has what is stored once it is committed."""
    future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
    ledger.record(entry, future)
    return future


def entry(key: str, text: str = "yes", **fields: Any) -> Entry:
    return Entry(key, "a model", Reply(text=text, prompt_tokens=3, output_tokens=1), **fields)


@pytest.fixture
def ledger(working_folder: Path) -> Ledger:
    return Ledger(working_folder / "deep" / "ledger.sqlite")


# --- replies ----------------------------------------------------------------------------------------------------------


def test_a_reply_is_committed_before_its_caller_sees_it(ledger: Ledger) -> None:
    async def ask() -> int:
        await recorded(ledger, entry("k"))
        other = sqlite3.connect(ledger.path)  # sees only what is committed
        count: int = other.execute("SELECT count(*) FROM replies").fetchone()[0]
        other.close()
        return count

    assert asyncio.run(ask()) == 1


def test_an_entry_comes_back_as_it_was_put_after_reopening(ledger: Ledger) -> None:
    reply = Reply(
        text="naïve \U0001f469‍\U0001f52c\x00",
        finish_reason="length",
        logprobs=(("A", -0.1), (" B", -2.5)),
        token_ids=(1, 2),
    )
    put = Entry("k", "m", reply, '{"a":1}', cost_usd=0.5, seconds=1.5, attempts=2, created=7.0)
    ledger.put([put])
    ledger.close()
    assert Ledger(ledger.path).get(["k"]) == {"k": put}


def test_a_token_of_probability_zero_survives_the_ledger(ledger: Ledger) -> None:
    reply = Reply(logprobs=(("A", 0.0), ("B", float("-inf"))))
    assert ledger.put([Entry("k", "m", reply)])[0].reply == reply


def test_the_first_writer_wins(ledger: Ledger) -> None:
    assert ledger.put([entry("k", "first")])[0].reply.text == "first"
    other = Ledger(ledger.path)
    assert other.put([entry("k", "second"), entry("new", "third")])[0].reply.text == "first"
    assert {key: found.reply.text for key, found in ledger.get(["k", "new"]).items()} == {"k": "first", "new": "third"}


def test_only_wanted_keys_that_are_there_are_found_however_many_are_asked_for(ledger: Ledger) -> None:
    ledger.put([entry(str(i)) for i in range(0, 2000, 2)])
    assert set(ledger.get(str(i) for i in range(1201))) == {str(i) for i in range(0, 1201, 2)}
    assert len(ledger) == 1000


def test_all_replies_of_one_tick_are_one_transaction(ledger: Ledger) -> None:
    statements: list[str] = []
    ledger._db.set_trace_callback(statements.append)

    async def ask() -> None:
        await asyncio.gather(*(recorded(ledger, entry(str(i))) for i in range(200)))

    asyncio.run(ask())
    assert [s for s in statements if s in ("BEGIN IMMEDIATE", "COMMIT")] == ["BEGIN IMMEDIATE", "COMMIT"]
    assert len(ledger) == 200


def test_replies_of_the_next_tick_are_recorded_too(ledger: Ledger) -> None:
    async def ask() -> list[str]:
        return [(await recorded(ledger, entry(str(i), f"reply {i}"))).reply.text for i in range(3)]

    assert asyncio.run(ask()) == ["reply 0", "reply 1", "reply 2"]


def test_a_cancelled_caller_loses_no_one_elses_reply(ledger: Ledger) -> None:
    async def ask() -> str:
        tasks = [asyncio.ensure_future(recorded(ledger, entry(str(i)))) for i in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return (await tasks[1]).key

    assert asyncio.run(ask()) == "1"
    assert set(ledger.get(["0", "1"])) == {"0", "1"}  # it was paid for: kept, though its caller is gone


KILLED = """
import asyncio, pathlib, sys
from rlaif.ledger import Entry, Ledger, Spent, spent
from rlaif.models import Reply

async def main():
    ledger, i = Ledger(pathlib.Path(sys.argv[1])), 0
    while True:
        futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
        for j, future in enumerate(futures):
            ledger.record(Entry(f"{i + j}", "m", Reply(text=f"{i + j}")), future)
        done = await asyncio.gather(*futures)
        i += 5
        print(*(entry.key for entry in done), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("ticks", [1, 7])
def test_no_reply_that_a_caller_saw_is_lost_to_kill_9(working_folder: Path, ticks: int) -> None:
    path = working_folder / "ledger.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    seen = [key for _ in range(ticks) for key in process.stdout.readline().split()]
    os.kill(process.pid, signal.SIGKILL)
    seen += process.stdout.read().split()
    process.wait()
    assert len(seen) >= 5 * ticks
    kept = Ledger(path).get(seen)
    assert {key: found.reply.text for key, found in kept.items()} == {key: key for key in seen}


# --- claims -----------------------------------------------------------------------------------------------------------


def test_what_one_process_claims_another_cannot(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    assert ledger.claim(["a", "b"], 60)
    assert not other.claim(["b", "c"], 60)
    assert other.claim(["c"], 60)  # a refused claim took nothing, not even its free keys


def test_a_process_may_claim_again_what_it_holds(ledger: Ledger) -> None:
    assert ledger.claim(["a"], 60)
    assert ledger.claim(["a", "b"], 60)


def test_an_expired_claim_of_another_machine_is_free(ledger: Ledger) -> None:
    ledger.owner = "elsewhere:1:9-abc"
    assert ledger.claim(["a"], -1)  # its time has run out: its process may be dead
    assert Ledger(ledger.path).claim(["a"], 60)


def test_no_clock_frees_what_a_living_process_of_this_machine_asks(ledger: Ledger) -> None:
    assert ledger.claim(["a"], -3600)  # as if the clock had jumped an hour ahead
    assert not Ledger(ledger.path).claim(["a"], 60)


def test_a_number_that_another_process_has_now_claims_nothing(ledger: Ledger) -> None:
    node, pid, _ = ledger.owner.rsplit(":", 2)
    ledger.owner = f"{node}:{pid}:1-abc"  # began with the machine, and ended since
    assert ledger.claim(["a"], 60)
    assert Ledger(ledger.path).claim(["a"], 60)


def test_an_answer_that_was_paid_for_twice_is_one_reply_and_money_without_one(ledger: Ledger) -> None:
    ledger.open_purse("r")
    ledger.put([entry("a", cost_usd=0.25, run="r")])
    ledger.put([entry("a", cost_usd=0.25, run="r"), entry("b", cost_usd=0.5, run="r")])
    spent, lost = ledger._db.execute("SELECT spent_usd, lost_usd FROM purses WHERE run = 'r'").fetchone()
    assert (spent, lost) == (0.75, 0.25)


def test_each_key_that_is_free_is_claimed_and_none_of_the_others(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    assert ledger.claim_each(["a", "b"], 60) == {"a", "b"}
    assert other.claim_each(["b", "c"], 60) == {"c"}
    ledger.close()
    assert other.claim_each(["a", "b", "c"], 60) == {"a", "b", "c"}  # who leaves holds nothing


def test_a_claim_holds_as_long_as_it_is_renewed(ledger: Ledger) -> None:
    ledger.owner = "elsewhere:1:9-abc"
    assert ledger.claim(["a"], -1)
    ledger.renew(60)
    assert not Ledger(ledger.path).claim(["a"], 60)


def test_a_released_claim_is_free_and_no_one_releases_another_ones(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    assert ledger.claim(["a"], 60)
    other.release(["a"])
    assert not other.claim(["a"], 60)
    ledger.release(["a"])
    assert other.claim(["a"], 60)


def test_a_reply_ends_its_claim(ledger: Ledger) -> None:
    assert ledger.claim(["a"], 60)
    ledger.put([entry("a")])
    other = Ledger(ledger.path)
    assert other.claim_each(["a"], 60) == set()  # who has not seen the reply yet looks for it, and asks nothing
    assert other.claim(["a"], 60)


def test_claims_that_replies_have_ended_are_deleted_when_they_are_renewed(ledger: Ledger) -> None:
    ledger.claim(["a", "b"], 60)
    ledger.put([entry("a")])
    ledger.renew(60)
    assert Ledger(ledger.path).claim_each(["a", "b"], 60) == {"a"}


# --- what can be wrong with the file ----------------------------------------------------------------------------------


def test_another_format_is_refused_by_number(ledger: Ledger) -> None:
    ledger._db.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    with pytest.raises(StorageError, match=r"ledger\.sqlite: ledger format 99, this version reads up to 3\."):
        Ledger(ledger.path)


FIRST_FORMAT = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, context TEXT NOT NULL, reply TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, cost_usd REAL, seconds REAL NOT NULL, attempts INTEGER NOT NULL, created REAL NOT NULL
);
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL);
INSERT INTO meta VALUES ('format', '1');
INSERT INTO replies VALUES ('k', 'a model', '{"asked": 1}', '{"text": "paid for"}', 3, 1, 0.5, 2.0, 1, 1700000000.0);
INSERT INTO claims VALUES ('x', 'elsewhere:1:00', 1700000060.0);
"""


def test_a_ledger_of_the_first_format_is_read_and_written_on(working_folder: Path) -> None:
    path = working_folder / "old.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_FORMAT)
    for _ in range(2):  # the second time there is nothing left to migrate
        ledger = Ledger(path)
        found = ledger.get(["k"])["k"]
        assert found == Entry("k", "a model", Reply(text="paid for"), '{"asked": 1}', 0.5, 2.0, 1, 1700000000.0, "")
        assert ledger.claim(["x"], 60)
        ledger.put([entry("new", run="r")])
        assert ledger.get(["new"])["new"].run == "r"
        ledger.close()


SECOND_FORMAT = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, context TEXT NOT NULL, reply TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, cost_usd REAL, seconds REAL NOT NULL, attempts INTEGER NOT NULL, created REAL NOT NULL,
    run TEXT NOT NULL DEFAULT ''
);
CREATE TABLE owners (owner TEXT PRIMARY KEY, expires REAL NOT NULL);
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE purses (run TEXT PRIMARY KEY, spent_usd REAL NOT NULL, lost_usd REAL NOT NULL, open_usd REAL NOT NULL);
INSERT INTO meta VALUES ('format', '2');
INSERT INTO purses VALUES ('r', 0.5, 0.25, 0.125);
"""


def test_a_ledger_of_the_second_format_keeps_all_it_knows(working_folder: Path) -> None:
    """Contexts that named a judge and ids in full become those of today; others stay."""
    path = working_folder / "old.sqlite"
    of = '"comparison":"c-1","judge":"judge:j@1","principle":"p@2"'
    contexts = [
        "{" + of + ',"question":0,"shown":["r-2","r-1"]}',
        "{" + of + ',"question":3,"shown":["r-1","r-2","r-0"]}',
        '{"sample":"p-1","index":2}',
        "{}",
    ]
    with closing(sqlite3.connect(path)) as old:
        old.executescript(SECOND_FORMAT)
        for number, context in enumerate(contexts):
            row = (digest(number), "m", context, '{"text":"paid for"}', 3, 1, 0.125, 2.0, 1, 1700000000.0 + number, "r")
            old.execute("INSERT INTO replies VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        old.commit()
    ledger = Ledger(path)
    found = ledger.get(map(digest, range(4)))
    asker = '{"asker":{"judge":"judge:j@1","principle":"p@2"},"comparison":"c-1",'
    assert [found[digest(number)].context for number in range(4)] == [
        asker + '"shown":[1,0]}',
        asker + '"question":3,"shown":[1,2,0]}',
        '{"sample":"p-1","index":2}',
        "{}",
    ]
    assert found[digest(1)] == Entry(
        digest(1), "m", Reply(text="paid for"), found[digest(1)].context, 0.125, 2.0, 1, 1700000001.0, "r"
    )
    assert ledger.open_purse("r") == 0.875


CONTEXTS = st.dictionaries(
    st.sampled_from(["asker", "comparison", "shown", "answer", "a"]),
    st.text(max_size=8) | st.lists(st.integers(0, 3), max_size=3) | st.dictionaries(words_of_keys, st.text(max_size=5)),
)


@given(st.lists(CONTEXTS, min_size=1, max_size=4), st.booleans())
def test_a_context_comes_back_as_it_was_given(contexts: list[dict[str, Any]], together: bool) -> None:
    """Whatever it holds, alone or beside others of the same asker."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        entries = [entry(digest(number), context=canonical_json(c)) for number, c in enumerate(contexts)]
        for part in [entries] if together else [[each] for each in entries]:
            ledger.put(part)
        found = ledger.get(each.key for each in entries)
        assert [found[each.key].context for each in entries] == [each.context for each in entries]
        ledger.close()


def test_what_many_replies_have_in_common_stands_once(ledger: Ledger) -> None:
    def about(number: int, principle: str) -> str:
        return canonical_json({"asker": {"judge": "j", "principle": principle}, "comparison": f"c-{number}"})

    other = Ledger(ledger.path)  # another process that meets the same askers
    for number in range(20):
        into = (ledger, other)[number % 2]
        into.put([entry(digest(number), context=about(number, "ab"[number % 3 == 0]), run="r")])
    assert ledger._db.execute("SELECT count(*) FROM askers").fetchone() == (2,)
    assert {len(key) for (key,) in ledger._db.execute("SELECT key FROM replies")} == {32}
    assert [other.get([digest(n)])[digest(n)].context for n in (0, 1)] == [about(0, "b"), about(1, "a")]


def test_an_asker_of_a_transaction_that_failed_is_not_remembered(ledger: Ledger) -> None:
    with pytest.raises(UnicodeEncodeError):
        ledger.put([entry("0", run="new"), entry("1", context="\ud800", run="new")])
    ledger.put([entry("0", run="new")])
    assert ledger.get(["0"])["0"].run == "new"


# --- money ------------------------------------------------------------------------------------------------------------


def test_what_a_run_spent_is_known_after_any_number_of_restarts(ledger: Ledger) -> None:
    assert ledger.open_purse("run") == 0.0
    ledger.put([entry("a", cost_usd=0.25, run="run"), entry("b", cost_usd=0.5, run="another")])
    ledger.charge("run", 0.125)
    assert Ledger(ledger.path).open_purse("run") == 0.375


def test_calls_in_flight_when_a_process_was_killed_count_in_full(ledger: Ledger) -> None:
    ledger.open_purse("run")
    ledger.set_open("run", 2.0)
    ledger.set_open("run", 3.0)
    again = Ledger(ledger.path)
    assert again.open_purse("run") == 3.0
    assert again.open_purse("run") == 3.0  # counted once


def _folder(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("certainly not a database " * 100)


def _below_a_file(path: Path) -> None:
    path.parent.write_text("a file where a folder should be")


@pytest.mark.parametrize("spoil", [_folder, _text, _below_a_file])
def test_a_path_that_cannot_be_a_ledger_is_one_clear_error(working_folder: Path, spoil: Any) -> None:
    path = working_folder / ("sub" if spoil is _below_a_file else "") / "ledger.sqlite"
    spoil(path)
    with pytest.raises(StorageError, match=r"ledger\.sqlite: the ledger cannot be opened: "):
        Ledger(path)


def test_a_full_disk_reaches_every_caller_and_keeps_what_was_recorded(ledger: Ledger) -> None:
    ledger.put([entry("before")])
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk

    async def ask() -> list[Any]:
        big = [entry(str(i), "x" * 20_000) for i in range(3)]
        return await asyncio.gather(*(recorded(ledger, each) for each in big), return_exceptions=True)

    for error in asyncio.run(asyncio.wait_for(ask(), 20)):
        assert isinstance(error, StorageError)
        assert "full" in str(error)
        assert "Free space" in str(error)
    assert set(ledger.get(["before", "0", "1", "2"])) == {"before"}
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.put([entry("after")])[0].key == "after"  # the failed transaction is not left open


def test_an_entry_that_cannot_be_written_reaches_every_caller(ledger: Ledger) -> None:
    async def ask() -> list[Any]:
        entries = [entry("0"), entry("1", context="\ud800")]  # a lone surrogate has no UTF-8
        return await asyncio.gather(*(recorded(ledger, each) for each in entries), return_exceptions=True)

    assert all(isinstance(found, UnicodeEncodeError) for found in asyncio.run(asyncio.wait_for(ask(), 20)))


def test_writers_wait_for_each_other(ledger: Ledger) -> None:
    blocker = sqlite3.connect(ledger.path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")

    async def ask() -> Entry:
        async def unblock() -> None:
            await asyncio.to_thread(time.sleep, 0.1)
            blocker.execute("COMMIT")

        task = asyncio.create_task(asyncio.to_thread(ledger.put, [entry("a")]))
        await unblock()
        return (await task)[0]

    assert asyncio.run(ask()).key == "a"


# --- the request key --------------------------------------------------------------------------------------------------

IDENTITY = Identity("judge", "v1", (("weights", "abc"), ("dtype", "float32")))
REQUEST = ChatRequest(
    messages=(make.user("Which is better? <<f00d reply A>>"),),
    prefill="The better reply is",
    options=("A", "B"),
    sampling=Sampling(temperature=0.0),
    seed=3,
    sample_index=1,
    probe_epoch=0,
    fence="f00d",
)
CHANGES: dict[str, dict[str, Any]] = {
    "a word of a message": {"messages": (make.user("Which is worse? <<f00d reply A>>"),)},
    "the role of a message": {"messages": (make.assistant("Which is better? <<f00d reply A>>"),)},
    "a message more": {"messages": (make.user("Which is better? <<f00d reply A>>"), make.user(""))},
    "prefill": {"prefill": "The better reply is "},
    "options": {"options": ("A", "C")},
    "order of options": {"options": ("B", "A")},
    "temperature": {"sampling": Sampling(temperature=0.1)},
    "top_p": {"sampling": Sampling(temperature=0.0, top_p=0.9)},
    "top_k": {"sampling": Sampling(temperature=0.0, top_k=5)},
    "min_p": {"sampling": Sampling(temperature=0.0, min_p=0.1)},
    "repetition_penalty": {"sampling": Sampling(temperature=0.0, repetition_penalty=1.1)},
    "max_output_tokens": {"sampling": Sampling(temperature=0.0, max_output_tokens=9)},
    "min_output_tokens": {"sampling": Sampling(temperature=0.0, min_output_tokens=9)},
    "stop": {"sampling": Sampling(temperature=0.0, stop=("\n",))},
    "seed": {"seed": 4},
    "no seed": {"seed": None},
    "sample index": {"sample_index": 2},
    "probe epoch": {"probe_epoch": 1},
    "schema of the reply": {"json_schema": "{}"},
}


words = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["f00d", "xf00dx", '"\\\n', "\x7f\u2028", "\ud800"]
)
requests = st.builds(
    ChatRequest,
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=words), min_size=1, max_size=3
    ).map(tuple),
    prefill=words,
    options=st.lists(words, max_size=2).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1.0, 1e-7, 0.3]),
        top_k=st.integers(0, 5),
        stop=st.lists(words, max_size=2).map(tuple),
    ),
    seed=st.none() | st.integers(0, 2**40),
    sample_index=st.integers(0, 3),
    probe_epoch=st.integers(0, 2),
    json_schema=words,
    fence=st.none() | st.just("f00d"),
)


@given(requests)
def test_the_key_is_the_digest_of_all_that_is_not_as_by_default(request: ChatRequest) -> None:
    body = request.model_dump(mode="python", exclude={"fence"}, exclude_defaults=True)
    body = redact(body, request.fence, "{fence}") if request.fence else body
    assert request_key(request, IDENTITY) == digest("rlaif-request-1", list(IDENTITY.facts), body)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_key_changes_with_whatever_could_change_the_answer(change: dict[str, Any]) -> None:
    assert request_key(REQUEST.model_copy(update=change), IDENTITY) != request_key(REQUEST, IDENTITY)


def test_every_field_of_a_request_and_of_sampling_is_covered_above() -> None:
    covered = {name for change in CHANGES.values() for name in change}
    assert covered == set(ChatRequest.model_fields) - {"fence"}
    sampled = [
        change["sampling"].model_dump(exclude_defaults=True) for change in CHANGES.values() if "sampling" in change
    ]
    assert {name for found in sampled for name in found} == set(Sampling.model_fields)


@pytest.mark.parametrize(
    "facts", [(), (("weights", "abd"), ("dtype", "float32")), (("weights", "abc"), ("dtype", "bfloat16"))]
)
def test_the_key_changes_with_every_fact_about_the_model(facts: tuple[tuple[str, str], ...]) -> None:
    assert request_key(REQUEST, Identity("judge", "v1", facts)) != request_key(REQUEST, IDENTITY)


def test_the_key_does_not_change_with_what_people_call_the_model() -> None:
    assert request_key(REQUEST, Identity("nickname", None, IDENTITY.facts)) == request_key(REQUEST, IDENTITY)


@given(st.text("0123456789abcdef", min_size=16, max_size=16))
def test_the_key_does_not_change_with_the_fence_word(word: str) -> None:
    moved = REQUEST.model_copy(update={"messages": (make.user(f"Which is better? <<{word} reply A>>"),), "fence": word})
    assert request_key(moved, IDENTITY) == request_key(REQUEST, IDENTITY)


def test_the_key_of_a_known_request_never_changes() -> None:
    # Were this another value, every reply that anyone has paid for would be asked again.
    assert request_key(REQUEST, IDENTITY) == "15312680322b5ca318751b46b221d1d303feae1c24e136603ad837f5ac51b3e3"


# --- what replies took ------------------------------------------------------------------------------------------------


def test_what_replies_took_is_summed_once_each_and_only_over_those_asked_for(working_folder: Path) -> None:
    path = working_folder / "ledger.sqlite"
    ledger = Ledger(path)
    took = [("a", 10, 1, 0.5, 100.0), ("b", 20, 2, 0.25, 300.0), ("c", 40, 4, None, 200.0), ("d", 80, 8, 9.0, 50.0)]
    ledger.put(
        [
            Entry(
                key, "model", Reply(prompt_tokens=read, output_tokens=written), cost_usd=cost, seconds=1.5, created=at
            )
            for key, read, written, cost, at in took
        ]
    )
    ledger.close()
    before = path.read_bytes()
    found = spent(path, iter(["a", "b", "a", "c", "gone"]))
    assert found == Spent(
        asked=4,
        found=3,
        prompt_tokens=70,
        output_tokens=7,
        priced=2,
        cost_usd=0.75,
        seconds=4.5,
        first=100.0,
        last=300.0,
    )
    assert spent(path, []) == Spent(asked=0)
    assert path.read_bytes() == before


def test_a_ledger_that_is_none_is_not_made(working_folder: Path) -> None:
    with pytest.raises(StorageError, match="the ledger cannot be read"):
        spent(working_folder / "nowhere.sqlite", ["a"])
    assert not (working_folder / "nowhere.sqlite").exists()
