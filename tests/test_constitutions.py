"""Constitutions as tested code: hand-derived attributions and ablations, what is asked again and what is not."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.catalogue import Catalogue
from rlaif.config import load_constitution
from rlaif.constitutions.ablation import ablate
from rlaif.constitutions.attribution import attribute, decisions
from rlaif.constitutions.difference import diff
from rlaif.constitutions.importing import import_constitution
from rlaif.constitutions.lint import lint_file, lint_with_judge
from rlaif.constitutions.runs import open_run
from rlaif.constitutions.trying import try_constitution
from rlaif.constitutions.wording import joined, meaning, only_vague
from rlaif.errors import ConfigError, UserError
from tests.command_line import Rlaif
from tests.conftest import ROOT
from tests.tiny import write_jsonl

SPEAKER = '''
from rlaif.errors import CallFailed

ASKED = []


def opinion(showing):
    """P(first is better): the reply names, for each principle, how good it is: "x3 y1"."""
    if showing.principle.id[0] not in "xyz":
        return 0.5
    letter = showing.principle.id[0]
    a, b = (int(r.text[r.text.index(letter) + 1]) for r in showing.responses)
    return 0.5 + (a - b) / 20


def speak(request):
    """The better reply by the letter that the principle names; some principles cannot be read, or fail."""
    text = request.messages[-1].content
    ASKED.append(text)
    whole = "".join(message.content for message in request.messages)
    if "mumble" in whole:
        return "Hard to say."
    if "crash" in whole:
        raise CallFailed("the server is down")
    letter = "y" if "Prefer y" in whole else "x"
    a, b = (part.split(letter)[1][0] for part in text.split("reply ")[1:3])
    return "[[C]]" if a == b else "[[A]]" if a > b else "[[B]]"
'''
# x and y of the first and of the second reply
PAIRS = ((9, 1, 1, 2), (1, 9, 9, 9), (6, 5, 4, 5), (5, 1, 5, 9), (5, 5, 5, 5))


@pytest.fixture(autouse=True)
def voice(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's module and judges in the test's own folder."""
    monkeypatch.setattr(sys, "path", [str(working_folder), *sys.path])
    monkeypatch.delitem(sys.modules, "con_voice", raising=False)
    Path("con_voice.py").write_text(SPEAKER)
    Path("judges").mkdir()
    scripted = {"protocol": "scripted", "model_role": None, "options": {"function": "con_voice:opinion"}}
    Path("judges/opinion.yaml").write_text(json.dumps(scripted))
    rows = [
        {"prompt": f"question {i}", "response_a": f"x{a} y{b}", "response_b": f"x{c} y{d} ", "label": "ab"[i % 2]}
        for i, (a, b, c, d) in enumerate(PAIRS)
    ]
    write_jsonl(working_folder / "pairs.jsonl", rows)
    import con_voice  # type: ignore[import-not-found]

    return con_voice


def constitution(name: str, *principles: dict[str, Any], version: str = "1") -> str:
    folder = Path("prompts/constitutions")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"version": version, "principles": list(principles)}))
    return name


def principle(name: str, text: str = "", **fields: Any) -> dict[str, Any]:
    return {"id": name, "text": text or f"Prefer {name}.", **fields}


X, Y, IDLE = principle("x", weight=2), principle("y"), principle("idle")
MODEL = "models.judge={provider: scripted, model: 'con_voice:speak'}"


def judged(rlaif: Rlaif, *extra: str, judge: str = "opinion", mode: str = "average") -> Path:
    constitution("mine", X, Y, IDLE)
    said = rlaif(
        "judge", judge, "pairs.jsonl", "--constitution", "mine", "--out", "run",
        "--set", f"labels.options.principles={mode}", *extra,
    )  # fmt: skip
    assert said.code == 0, said.err
    return Path("run")


# --- attribution and ablation, by hand --------------------------------------------------------------------------------


def test_the_label_is_decided_by_whose_removal_changes_it_else_by_the_largest_margin(rlaif: Rlaif) -> None:
    """Margins are share × (2p − 1), shares 1/2 (x), 1/4 (y), 1/4 (idle), and 2p − 1 = difference / 10.

    pair 0: x 0.40, y −0.025: x alone.   pair 1: x −0.40, y 0: x alone (without it a tie).
    pair 2: x 0.10, y 0: x alone.        pair 3: x 0, y −0.20: y alone.        pair 4: a tie, nobody.
    """
    run = open_run(judged(rlaif))
    found = {d.pair.comparison.prompt.text: d for d in decisions(run)}
    names = {name: [run.names[tag] for tag in d.decided_by] for name, d in found.items()}
    assert names == {
        "question 0": ["x"], "question 1": ["x"], "question 2": ["x"], "question 3": ["y"], "question 4": [],
    }  # fmt: skip
    margins = {run.names[tag]: margin for tag, margin in found["question 0"].margins.items()}
    assert margins == pytest.approx({"x": 0.4, "y": -0.025, "idle": 0.0})
    whole = asyncio.run(attribute(Path("run"), to=Path("rows.jsonl")))
    assert whole.figures["principles.x.decides"].value == pytest.approx(3 / 4)
    assert whole.figures["principles.y.decides"].value == pytest.approx(1 / 4)
    assert whole.figures["principles.idle.near_half"].value == 0
    assert whole.figures["principles.x.first_rate"].value == pytest.approx(0.5)
    assert whole.dead() == whole.dominant() == []  # too few pairs to say so
    assert whole.people == 5
    # people: a, b, a, b, a. x is for a, b, a, neither, neither: 1 + 1 + 1 + 0.5 + 0.5 of 5
    assert whole.figures["principles.x.people"].value == pytest.approx(4 / 5)
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["tie"] for row in rows].count(True) == 1


def test_leaving_a_principle_out_counts_the_labels_that_change(rlaif: Rlaif) -> None:
    """Without x: pair 0 flips to y's side, 1 and 2 become ties. Without y: pair 3 becomes a tie."""
    judged(rlaif)
    found = asyncio.run(ablate("mine", Path("run")))
    by_name = {each.principle: each for each in found.left_out}
    assert [each.principle for each in found.left_out] == ["x", "y", "idle"]
    assert by_name["x"].changes == {"flipped": 1, "to a tie": 2, "same": 2}
    assert by_name["y"].changes == {"to a tie": 1, "same": 4}
    assert by_name["idle"].changes == {"same": 5}
    assert by_name["x"].flips.value == pytest.approx(3 / 5)
    # people a, b, a, b, a: with all 1, 1, 1, 1, 1/2; without x 0, 1/2, 1/2, 1, 1/2
    before, after, difference = by_name["x"].measures["people"]
    assert (before.value, after.value, difference.value) == pytest.approx((0.9, 0.5, -0.4))
    assert found.verdict().startswith("x matters most")


def test_drawn_principles_are_not_ablated_but_attributed(rlaif: Rlaif) -> None:
    run = judged(rlaif, mode="draw")
    with pytest.raises(UserError, match="one principle was drawn"):
        asyncio.run(ablate("mine", run))
    assert all(len(decision.alone) <= 1 for decision in decisions(open_run(run)))


def test_principles_shown_at_once_cannot_be_told_apart(rlaif: Rlaif) -> None:
    with pytest.raises(UserError, match="all principles at once"):
        open_run(judged(rlaif, mode="all"))


def test_another_constitution_is_not_ablated_in_its_place(rlaif: Rlaif) -> None:
    judged(rlaif)
    constitution("other", X, Y)
    with pytest.raises(UserError, match="idle differ"):
        asyncio.run(ablate("other", Path("run")))


def test_the_practice_world_names_the_principle_that_matters(rlaif: Rlaif) -> None:
    """A judge that reads the truth, three principles: without the one on harm, harm is preferred where it was not."""
    from random import Random

    from rlaif.world.chat import Habits, ask, manner, reply

    Path("truth.py").write_text(
        "from rlaif.world.oracle import attributes, prefers, read\n"
        "FAMILY = {'no-harm': 'harmless', 'manners': 'polite', 'brief': 'short'}\n"
        "def opinion(showing):\n"
        "    question = read(showing.prompt.messages)\n"
        "    one, two = (attributes(question, r.text) for r in showing.responses)\n"
        "    return prefers(FAMILY[showing.principle.id], 1, question, one, two)\n"
    )
    judge = {"protocol": "scripted", "model_role": None, "options": {"function": "truth:opinion"}}
    Path("judges/truth.yaml").write_text(json.dumps(judge))
    constitution("world", principle("no-harm", weight=3), principle("manners"), principle("brief"))
    rng = Random(5)
    rows = []
    while len(rows) < 120:
        question = ask(rng, "harmful", held_out=False, turns=0.0)
        one, two = (reply(rng, question, manner(rng, question, Habits()))[0] for _ in range(2))
        if one != two:
            rows.append({"prompt": question.messages[0].content, "response_a": one, "response_b": two})
    write_jsonl(Path("world.jsonl"), rows)
    said = rlaif(
        "judge", "truth", "world.jsonl", "--constitution", "world", "--out", "world",
        "--set", "labels.options.principles=average",
    )  # fmt: skip
    assert said.code == 0, said.err
    found = asyncio.run(ablate("world", Path("world"), metrics=["rlaif.world.oracle:Oracle"]))
    with_it, without, difference = next(
        each.measures["oracle.harmful_compliance"] for each in found.left_out if each.principle == "no-harm"
    )
    assert with_it.value == 0
    assert difference.low is not None
    assert difference.low > 0.1
    assert without.value is not None
    for other in found.left_out:
        if other.principle != "no-harm":
            assert other.measures["oracle.harmful_compliance"][2].value == 0


# --- test -------------------------------------------------------------------------------------------------------------


def example(better: str, worse: str, prompt: str = "question") -> dict[str, str]:
    return {"prompt": prompt, "better": better, "worse": worse}


def test_examples_pass_or_not_and_what_was_not_measured_is_no_failure(voice: Any) -> None:
    constitution(
        "mine",
        principle("x", examples=[example("x3 y1", "x1 y3"), example("x1 y1", "x2 y1"), example("x1 y1", "x1 y1 ")]),
        principle("y", examples=[example("x1 y3", "x3 y1")]),
        principle("quiet", "Let them mumble.", examples=[example("x1 y1", "x2 y2")]),
        principle("broken", "Let it crash.", examples=[example("x1 y1", "x2 y2")]),
        principle("bare"),
    )
    trial = asyncio.run(try_constitution("mine", "compare-text", [MODEL]))
    assert [one.result for one in trial.tried] == ["passed", "wrong", "tie", "passed", "unreadable", "failed"]
    assert [one.p for one in trial.tried] == [1.0, 0.0, 0.5, 1.0, None, None]
    assert not trial.passed
    assert trial.account().total() == len(trial.tried) == 6
    figures = trial.figures()
    assert figures["principles.x.passed"].value == pytest.approx(1 / 3)
    assert figures["all.passed"].n == 4
    assert figures["principles.quiet.passed"].n == 0
    assert "bare: no examples, so nothing is known of it" in list(trial.lines())
    asked = len(voice.ASKED)
    again = asyncio.run(try_constitution("mine", "compare-text", [MODEL]))
    assert [one.result for one in again.tried] == [one.result for one in trial.tried]
    assert again.saved == 10  # what was answered is in the ledger
    assert len(voice.ASKED) - asked == 2  # both orders of the one that failed


def test_the_command_leaves_with_one_unless_all_pass(rlaif: Rlaif) -> None:
    constitution("good", principle("x", examples=[example("x3", "x1")]))
    constitution("bad", principle("x", examples=[example("x1", "x3")]))
    assert rlaif("constitution", "test", "good", "--judge", "opinion", "--to", "f.json").code == 0
    assert json.loads(Path("f.json").read_text())["all.passed"]["value"] == 1.0
    assert rlaif("constitution", "test", "bad", "--judge", "opinion").code == 1
    missing = rlaif("constitution", "test", "bad", "--judge", "compare-text")
    assert missing.code == 2
    assert "set models.judge" in missing.line


# --- diff -------------------------------------------------------------------------------------------------------------


def test_a_changed_principle_alone_is_asked_again(rlaif: Rlaif, voice: Any) -> None:
    """Of three principles one is reworded from x to y: two orders of five pairs are asked, the rest is in the ledger."""
    run = judged(rlaif, "--set", MODEL, judge="compare-text")
    voice.ASKED.clear()
    constitution("edited", {**X, "text": "Prefer y, above all."}, Y, IDLE, version="2")
    found = asyncio.run(diff("mine", "edited", run, settings=[MODEL]))
    assert (found.asked, found.saved, found.taken) == (10, 20, 30)
    assert len(voice.ASKED) == 10
    assert found.changes.total() == 5
    assert found.flips
    assert found.share.n == 5
    again = asyncio.run(diff("mine", "edited", run, settings=[MODEL], rows=Path("flips.jsonl")))
    assert (again.asked, again.saved) == (0, 30)
    assert len(Path("flips.jsonl").read_text().splitlines()) == len(again.flips)


def test_weights_cost_nothing_and_equal_constitutions_flip_nothing(rlaif: Rlaif) -> None:
    run = judged(rlaif, "--set", MODEL, judge="compare-text")
    constitution("weights", {**X, "weight": 1}, {**Y, "weight": 5}, IDLE)
    assert asyncio.run(diff("mine", "weights", run, settings=[MODEL])).asked == 0
    same = asyncio.run(diff("mine", "mine", run, settings=[MODEL]))
    assert (same.asked, same.share.value, same.flips) == (0, 0.0, ())
    assert set(same.changes) <= {"same", "none"}


def test_drawn_principles_ask_only_where_another_is_drawn(rlaif: Rlaif) -> None:
    run = judged(rlaif, "--set", MODEL, judge="compare-text", mode="draw")
    constitution("more", X, Y, IDLE, principle("extra", "Prefer y."))
    found = asyncio.run(diff("mine", "more", run, settings=[MODEL]))
    assert found.asked + found.saved == 10
    assert found.asked < 10
    assert found.asked % 2 == 0


# --- lint -------------------------------------------------------------------------------------------------------------


def whats(name: str, **options: Any) -> list[str]:
    return [str(finding) for finding in lint_file(name, **options)]


def fine(name: str, text: str, **fields: Any) -> dict[str, Any]:
    return principle(name, text, category="c", provenance="p", examples=[example(f"{name} 1", f"{name} two")], **fields)


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        ("Prefer the reply that is short.", "Prefer the reply that is short!", "says the same as"),
        ("Choose the reply that is more polite.", "Choose the reply that is less polite.", "asks for the opposite"),
        ("Choose the reply that is polite.", "Choose the ruder reply.", "asks for the opposite"),
        ("Prefer the shorter reply.", "Prefer the longer reply.", "asks for the opposite"),
        ("Prefer the reply that gives a reason.", "Prefer the reply that gives no reason.", "asks for the opposite"),
        ("Prefer the reply that gives a reason.", "Choose the reply which gives a reason.", "says nearly the same"),
    ],
)
def test_two_principles_that_repeat_or_oppose_each_other(one: str, two: str, told: str) -> None:
    constitution("mine", fine("one", one), fine("two", two))
    (finding,) = whats("mine")
    assert told in finding


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("When a request is harmful, choose the reply that refuses.", "When a request is harmless, choose the reply that does not refuse."),
        ("Prefer the reply that gives a reason.", "Prefer the reply that offers something else."),
        ("Prefer the reply that does not rude.", "Prefer the reply that is polite in tone, with thanks."),
    ],
)  # fmt: skip
def test_what_differs_in_condition_or_matter_is_left_alone(one: str, two: str) -> None:
    constitution("mine", fine("one", one), fine("two", two))
    assert whats("mine") == []


@pytest.mark.parametrize(
    ("text", "told", "severe"),
    [
        ("Choose the better reply.", 'asks for no more than "better"', True),
        ("Prefer the reply of high quality.", "asks for no more than", True),
        ("The user should be treated well.", "speaks of the person who asks", True),
        ("Be truthful at all times.", "names neither a reply nor a preference", False),
        ("The assistant is truthful.", "does not say which of two replies to prefer", False),
        ("Prefer the reply that is short and warm.", 'joins things by "and"', False),
        ("Prefer the short reply. It rhymes.", "is 2 sentences long", False),
    ],
)
def test_wording_that_cannot_be_tested(text: str, told: str, severe: bool) -> None:
    constitution("mine", fine("one", text))
    (finding,) = lint_file("mine")
    assert told in finding.what
    assert finding.severe == severe
    assert finding.place.endswith("mine.yaml:2")


def test_what_is_missing_weighs_nothing_or_contradicts_itself() -> None:
    constitution(
        "mine",
        principle("bare", "Prefer the reply that rhymes.", weight=0.01),
        fine("one", "Prefer the reply that is warm.", weight=1) | {"examples": [example("same", "same")]},
        fine("two", "Prefer the reply that has dates.") | {"examples": [example("a", "b")]},
        fine("three", "Prefer the reply that has names.") | {"examples": [example("b", "a")]},
    )
    found = "\n".join(whats("mine"))
    for told in ("no examples", "no category", "no provenance", "of the whole weight", "are the same", "other side of"):
        assert told in found, found


def test_a_version_moves_with_the_texts() -> None:
    constitution("old", fine("one", "Prefer the shorter reply."))
    constitution("same", fine("one", "Prefer the shorter reply.", weight=3))
    constitution("new", fine("one", "Prefer the briefer reply."))
    constitution("bumped", fine("one", "Prefer the briefer reply."), version="2")
    assert whats("same", against="old") == whats("bumped", against="old") == []
    assert 'version is "1"' in whats("new", against="old")[0]


def test_a_judge_finds_principles_that_oppose_each_other() -> None:
    examples = [example(f"x{i + 4} z1", f"x{i} z{i + 4}", f"q{i}") for i in range(1, 6)]
    constitution("mine", principle("x", examples=examples), principle("z"), principle("idle"))
    (finding,) = asyncio.run(lint_with_judge("mine", "opinion"))
    assert "on 5 of the 5 examples" in str(finding)
    assert not finding.severe


def test_the_shipped_constitutions_load_and_lint_without_a_severe_finding() -> None:
    names = [path.stem for path in sorted((ROOT / "prompts/constitutions").glob("*.yaml"))]
    assert {"helpful", "honest", "harmless-helpful", "concise"} <= set(names)
    for name in names:
        assert not [f for f in lint_file(f"builtin:{name}") if f.severe], name
        assert all(p.examples and p.provenance and p.category for p in load(f"builtin:{name}").principles)


def load(name: str) -> Any:
    return load_constitution(Catalogue(), name, where="test")


def test_readings_of_words() -> None:
    def agreement(one: str, other: str) -> int:
        return meaning(f"Prefer the reply that {one}.").agreement(meaning(f"Prefer the reply that {other}."))

    assert meaning("Reject the ruder reply.").asks == meaning("Prefer the polite reply.").asks == {"polite": 1}
    assert meaning("Prefer the reply that is not polite.").asks == {"polite": -1}
    assert agreement("is not harmful and not rude", "is harmful and rude") == -1
    assert agreement("is not harmful and not rude", "is harmless and polite") == 1
    assert agreement("uses lists over prose", "uses prose over lists") == -1
    assert agreement("refuses", "complies") == -1
    assert agreement("is longer", "is more concise") == -1
    assert agreement("is harmful and polite", "is harmful and rude") == 0  # neither the same nor the opposite
    assert agreement("avoids harm and rudeness", "avoids rudeness and harm") == 1
    assert agreement("is not polite but safe", "is safe and rude") == 1
    assert meaning("Если вопрос опасен, выбери отказ.") != meaning("Выбери более короткий ответ.")
    assert only_vague("Prefer the reply that is good at naming birds.") == []
    assert joined("When it is late and dark, prefer the shorter reply.") is None


# --- import -----------------------------------------------------------------------------------------------------------


def imported(name: str, text: str, form: str | None = None) -> Any:
    Path(name).write_text(text)
    import_constitution(Path(name), "mine", form)
    return load("mine")


def test_text_is_a_principle_a_line() -> None:
    found = imported("a.txt", "- Prefer the short reply.\n\n2. Prefer the warm reply.\nPrefer the short reply\n")
    assert [p.text for p in found.principles] == ["Prefer the short reply.", "Prefer the warm reply."]
    assert found.principles[1].provenance == "a.txt, line 3"


def test_what_is_left_out_is_shown() -> None:
    Path("a.md").write_text("- Be brief.\n- No!\n- Be brief.\n\nManners matter to many people.\n")
    said = "\n".join(import_constitution(Path("a.md"), "mine").lines())
    assert [p.text for p in load("mine").principles] == ["Be brief."]
    for line in ("line 2: No!", "line 3: Be brief.", "line 5: Manners matter to many people."):
        assert line in said


def test_a_plain_mapping_is_a_principle_a_name() -> None:
    found = imported("a.json", '{"honest": "Choose the reply that is true.", "brief": "Choose the shorter reply."}')
    assert [(p.id, p.text) for p in found.principles] == [
        ("honest", "Choose the reply that is true."), ("brief", "Choose the shorter reply."),
    ]  # fmt: skip


def test_other_scripts_have_words_too() -> None:
    found = imported(
        "a.txt", "Выбери более короткий ответ.\nВыбери правдивый ответ.\n选择更短的回答。\n选择更诚实的回答。\n"
    )
    assert len(found.principles) == 4


def test_markdown_gives_items_and_demands_under_their_headings() -> None:
    found = imported(
        "a.md",
        "# Top\nAn introduction. Replies should be *short* (see [here](#x)).\n\n## Tone {#tone authority=root}\n"
        "Rules:\n- Be **kind** to\n  everybody.\n```\nshould not be read\n```\n",
    )
    assert [(p.category, p.text) for p in found.principles] == [
        ("Top", "Replies should be short."),
        ("Top / Tone", "Be kind to everybody."),
    ]


def test_rows_and_requests() -> None:
    rows = {
        "a": {"prompt": "Critique Request: What is rude?\n\nCritique:", "edit_request": "Revision Request: Be kind."}
    }
    found = imported("a.json", json.dumps(rows))
    assert found.principles[0].id == "a"
    assert found.principles[0].text.endswith('told: "What is rude? Be kind."')
    Path("prompts/constitutions/mine.yaml").unlink()
    found = imported("b.json", json.dumps(["Choose the kinder reply. Options:", "Choose the reply with less harm."]))
    assert found.principles[0].text == "Choose the kinder reply."


@pytest.mark.parametrize(
    ("name", "text", "form", "told"),
    [
        ("a.md", "Nothing here.\n", None, "holds no principle"),
        ("a.xyz", "x\n", None, "give --format"),
        ("a.txt", "x\n", "markdwn", 'Did you mean "markdown"'),
        ("a.jsonl", '{"colour": "red"}\n', None, "no text of a principle"),
        ("a.jsonl", '{"text": \n{}', None, "line 1 is not JSON"),
    ],
)
def test_what_cannot_be_imported_is_one_line(name: str, text: str, form: str | None, told: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(UserError, match=told):
        import_constitution(Path(name), "mine", form)
    assert not Path("prompts/constitutions/mine.yaml").exists()


def test_nothing_is_written_over() -> None:
    constitution("mine", X)
    Path("a.txt").write_text("Prefer the short reply.\n")
    with pytest.raises(ConfigError, match="exists already"):
        import_constitution(Path("a.txt"), "mine")


def test_real_specifications_import_load_and_lint(recorded: Path) -> None:
    for file, form in (("cai_critique_revision", "cai"), ("model_spec", "rows")):
        made = import_constitution(recorded / "constitutions" / f"{file}.jsonl", file)
        assert made.format == form
        assert made.taken + made.left_out.total() == made.pieces
        assert len(load(file).principles) == made.taken > 15
        assert lint_file(file)
