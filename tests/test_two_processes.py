"""Two processes on one ledger, against a server that counts: every request is answered once in all."""

from __future__ import annotations

from pathlib import Path

from rlaif.ledger_tools import Reader
from rlaif.ledger_tools.checking import check
from rlaif.ledger_tools.looking import info
from rlaif.mock import MockOptions, start
from rlaif.store import RunFolder
from tests.runs import ledger_rows
from tests.runs import start as start_cli
from tests.tiny import write_jsonl

PAIRS = 120


def test_two_processes_that_label_the_same_pairs_ask_each_question_once_in_all(working_folder: Path) -> None:
    folder = working_folder
    rows = [{"prompt": f"question {i}", "response_a": f"one {i}", "response_b": f"another {i}"} for i in range(PAIRS)]
    write_jsonl(folder / "one.jsonl", rows)
    write_jsonl(folder / "two.jsonl", reversed(rows))  # so that neither only follows the other
    with start(MockOptions(latency="100ms", fault=("503=0.05",))) as server:
        options = f"{{base_url: {server.url}/v1, max_in_flight: 8}}"
        model = f"models.judge={{provider: openai, model: mock-judge, options: {options}}}"
        shared = ("--constitution", "harmless-helpful", "--set", model, "--set", "shard_rows=16")
        processes = [
            start_cli(folder, "judge", "compare-api", f"{name}.jsonl", *shared, "--out", name)
            for name in ("one", "two")
        ]
        for process in processes:
            process.join(120)
        stats = server.stats()
    assert [process.exitcode for process in processes] == [0, 0], (folder / "log").read_text()
    assert (stats["answered"], stats["distinct"], stats["repeats"]) == (2 * PAIRS, 2 * PAIRS, 0)
    assert (ledger_rows(folder), ledger_rows(folder, "claims")) == (2 * PAIRS, 0)
    one, two = (
        {(row.comparison_id, row.shown): row for row in RunFolder(folder / n).read("judgements")}
        for n in ("one", "two")
    )
    assert one == two
    assert len(one) == 2 * PAIRS
    assert {row.outcome for row in one.values()} <= {"ranked", "unreadable"}
    with Reader(folder / ".rlaif" / "ledger.sqlite") as reader:
        assert not check(reader).wrong
        paid = [run.replies for run in info(reader).runs]
    assert sum(paid) == 2 * PAIRS
    assert len(paid) == 2
    assert all(paid)  # each asked some, while the other was asking: one alone would take three seconds
