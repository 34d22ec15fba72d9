"""What a user's own code does wrong: one clear line, a fitting exit code, no traceback, finished work kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.command_line import GOOD, OTHER, Rlaif, command, pairs, prompts, records

OWN_CODE = {
    "a function that answers": (
        ["compare-text", "pairs.jsonl", "--model", "scripted:own_bug:speak"],
        "own_bug:speak: answering a request: KeyError: 'bug' (own_bug.py line 2)",
    ),
    "a function that judges": (
        ["by-function", "pairs.jsonl"],
        'own_bug:opinion: judging replies to "How do I boil an egg?": ZeroDivisionError: division by zero '
        "(own_bug.py line 4)",
    ),
    "a judge class": (
        ["by-class", "pairs.jsonl"],
        "own_bug:Judge: judging replies to \"How do I boil an egg?\": AttributeError: 'Showing' object has no attribute "
        "'replies' (own_bug.py line 8)",
    ),
    "a class that takes nothing": (
        ["by-plain", "pairs.jsonl"],
        "own_bug:Plain: built with (options, context): TypeError: Plain() takes no arguments",
    ),
}
OWN_BUG = """def speak(request):
    return {}["bug"]
def opinion(showing):
    return 1 / 0
class Judge:
    def __init__(self, options, context): ...
    async def judge(self, showing, ask):
        return showing.replies
class Plain: ...
"""


@pytest.mark.parametrize("name", OWN_CODE)
def test_what_a_users_own_code_raises_is_one_line_that_names_it(name: str, rlaif: Rlaif) -> None:
    arguments, message = OWN_CODE[name]
    pairs()
    Path("own_bug.py").write_text(OWN_BUG)
    Path("judges").mkdir()
    for judge, protocol in {
        "by-function": "scripted\noptions: {function: 'own_bug:opinion'}",
        "by-class": "own_bug:Judge",
        "by-plain": "own_bug:Plain",
    }.items():
        Path(f"judges/{judge}.yaml").write_text(f"model_role: null\nprotocol: {protocol}\n")
    said = rlaif("judge", *arguments, "--out", "out")
    assert (said.code, said.line) == (2, f"rlaif: {message}. Mend it and run again: finished work is kept.")


OWN_PARTS = """from rlaif.judging import Verdict
def speak(request):
    return f"reply {request.sample_index}"
class Part:
    def __init__(self, options, context):
        self.options = options
class Selector(Part):
    def pairs(self, prompt, responses):
        return prompt.nothing
class Outside(Part):
    def pairs(self, prompt, responses):
        return [(0, 2)]
def score(prompt, response):
    return response.score
class Source(Part):
    def signature(self):
        return "mine"
    def per_comparison(self):
        return 1
    async def label(self, batches):
        async for comparisons in batches:
            yield [comparison.nothing for comparison in comparisons]
class Judge(Part):
    async def judge(self, showing, ask):
        return Verdict(p=(0.9, 0.9))
class Rehearsing(Judge):
    async def rehearse(self, principles, show):
        return principles.nothing
class Provider:
    def __init__(self, model, options, where, notice):
        from rlaif.models import Identity
        self.identity, self.model = Identity(model, None, (("a", "b"),)), model
    async def complete(self, request):
        return request.nothing if self.model == "raises" else "words"
class Method(Part):
    needs_reward = False
    writes_weights = True
    def respond(self, prompts, model, sample, reward): ...
    def kl_bound(self): ...
    def train(self, context):
        return context.nothing
class Untrained(Method):
    writes_weights = False
    async def respond(self, prompts, model, sample, reward):
        return prompts.nothing
def nan(showing):
    return float("nan")
"""
BY_PART = {
    "a choice of pairs": (
        ["comparisons=own_parts:Selector"],
        "own_parts:Selector: choosing among replies to \"Hi\": AttributeError: 'Prompt' object has no attribute 'nothing' "
        "(own_parts.py line 9)",
    ),
    "a choice of pairs that are not there": (
        ["comparisons=own_parts:Outside"],
        'own_parts:Outside: choosing among replies to "Hi": ValueError: (0, 2) is no pair of 2 replies, counted from 0',
    ),
    "a score to choose by": (
        ["comparisons={select: adjacent, options: {score: 'own_parts:score'}}"],
        "own_parts:score: scoring replies to \"Hi\": AttributeError: 'Response' object has no attribute 'score' "
        "(own_parts.py line 14)",
    ),
    "a label source": (
        ["labels={source: 'own_parts:Source'}"],
        "own_parts:Source: labelling comparisons: AttributeError: 'Comparison' object has no attribute 'nothing' "
        "(own_parts.py line 22)",
    ),
    "a verdict that is no probability": (
        ["labels.options.judges=[judge]"],
        'own_parts:Judge: judging replies to "Hi": Verdict: p is (0.9, 0.9): expected numbers from 0 to 1 that add up to 1, '
        "one for each reply shown (own_parts.py line 25)",
    ),
    "a function's verdict that is no number": (
        ["labels.options.judges=[nan]"],
        'own_parts:nan: judging replies to "Hi": Verdict: p is (nan, nan): expected numbers from 0 to 1 that add up to 1, one '
        "for each reply shown",
    ),
    "a judge that rehearses": (
        ["labels.options.judges=[rehearsing]", "constitution=concise"],
        "own_parts:Rehearsing: rehearsing its principles: AttributeError: 'tuple' object has no attribute 'nothing' "
        "(own_parts.py line 28)",
    ),
    "a provider that raises": (
        ["models.speaker={provider: 'own_parts:Provider', model: raises}"],
        "own_parts:Provider: answering requests: AttributeError: 'ChatRequest' object has no attribute 'nothing' "
        "(own_parts.py line 34)",
    ),
    "a provider that returns something else": (
        ["models.speaker={provider: 'own_parts:Provider', model: speaks}"],
        "own_parts:Provider: answering requests: TypeError: expected 1 Reply, got 1 of str",
    ),
    "a policy method that trains": (
        ["models.policy=POLICY", "policies=['own_parts:Method']"],
        "own_parts:Method: training: AttributeError: 'PolicyContext' object has no attribute 'nothing' (own_parts.py line 41)",
    ),
    "a policy method that answers": (
        ["models.policy=POLICY", "policies=['own_parts:Untrained']", "held_out=0.5",
         "evaluation={sampling: {max_output_tokens: 2}}"],
        "own_parts:Untrained: answering prompts: AttributeError: 'list' object has no attribute 'nothing' "
        "(own_parts.py line 45)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_PART)
def test_what_any_part_of_a_users_own_raises_is_one_line_that_names_it(
    name: str, rlaif: Rlaif, policy_folder: Path
) -> None:
    settings, message = BY_PART[name]
    Path("own_parts.py").write_text(OWN_PARTS)
    prompts("Hi", *(["Hello", "Hey", "Good day"] if "evaluation" in "".join(settings) else []))
    Path("judges").mkdir()
    for judge, protocol in {
        "judge": "own_parts:Judge",
        "rehearsing": "own_parts:Rehearsing",
        "nan": "scripted\noptions: {function: 'own_parts:nan'}",
    }.items():
        Path(f"judges/{judge}.yaml").write_text(f"model_role: null\nprotocol: {protocol}\n")
    Path("own.yaml").write_text(
        "prompts: prompts.jsonl\n"
        "models: {speaker: {provider: scripted, model: 'own_parts:speak'}}\n"
        "responses: {models: [speaker], samples: 2}\n"
        "labels: {source: judges, options: {judges: [longest]}}\n"
        "held_out: 0\n"
    )
    given = [part for setting in settings for part in ("--set", setting.replace("POLICY", str(policy_folder)))]
    said = rlaif("run", "own.yaml", "--out", "out", *given)
    assert said.code == 2
    assert said.err.splitlines()[-1] == f"rlaif: {message}. Mend it and run again: finished work is kept."


def test_a_metric_that_raises_is_one_line_and_the_answers_are_not_asked_again(
    rlaif: Rlaif, policy_folder: Path
) -> None:
    Path("own_metric.py").write_text(
        "class Shouting:\n"
        "    name = 'shouting'\n"
        "    def __init__(self, options, where): ...\n"
        "    def score(self, prompt, response):\n"
        "        return len(response.words)\n"
    )
    arguments = [
        "run", "human-preferences", "--out", "out", "--set", f"pairs={pairs(GOOD, OTHER)}", "--set", "held_out=0.9",
        "--set", f"models.policy={policy_folder}", "--set", "reward_model=null", "--set", "policies=[]",
        "--set", "evaluation.metrics=[own_metric:Shouting]", "--set", "evaluation.sampling.max_output_tokens=4",
    ]  # fmt: skip
    said = rlaif(*arguments)
    assert said.code == 2
    assert [line for line in said.err.splitlines() if not line.startswith("note")] == [
        "rlaif: own_metric:Shouting: scoring a reply to \"How do I boil an egg?\": AttributeError: 'Response' object has no "
        "attribute 'words' (own_metric.py line 5). Mend it and run again: finished work is kept."
    ]
    assert len(records("out", "preferences")) == 2
    text = Path("own_metric.py").read_text()
    Path("own_metric.py").write_text(text.replace("response.words", "response.text"))
    done = subprocess.run(command(*map(str, arguments)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert ": 0 asked, 2 from the ledger" in done.stderr
    assert "shouting.before" in json.loads(Path("out/metrics.json").read_text())


@pytest.mark.parametrize(
    ("module", "body", "message"),
    [
        ("own_plain", "name = 'm'", "own_plain:Odd: built with (options, where): TypeError: Odd() takes no arguments. "
         "Mend it and run again: finished work is kept."),
        ("own_unnamed", "def __init__(self, options, where): ...", "--set evaluation.metrics=[own_unnamed:Odd]: metric "
         '"own_unnamed:Odd" has no name: give the class a text `name`.'),
    ],
)  # fmt: skip
def test_a_metric_that_is_not_made_like_one_is_one_line(
    module: str, body: str, message: str, rlaif: Rlaif, policy_folder: Path
) -> None:
    Path(f"{module}.py").write_text(f"class Odd:\n    {body}\n")
    said = rlaif(
        "run", "human-preferences", "--set", f"pairs={pairs()}", "--set", f"models.policy={policy_folder}",
        "--set", f"evaluation.metrics=[{module}:Odd]",
    )  # fmt: skip
    assert (said.code, said.line) == (2, f"rlaif: {message}")


def test_a_model_for_a_judge_that_asks_none_is_a_mistake(rlaif: Rlaif) -> None:
    source = pairs({"prompt": "Hi", "response_a": "one", "response_b": "two"})
    said = rlaif("judge", "longest", source, "--model", "openai:gpt", "--out", "out")
    assert said.code == 2
    assert "judge longest asks no model" in said.err
