"""The forms that a run's labels are written in. Every row that is left out has a reason, and is counted.

What a form is made from streams through: what has to be brought together by prompt waits in a temporary file.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rlaif.errors import DataError, StorageError, UserError
from rlaif.exported import ROW, source_of
from rlaif.ondisk import Lists
from rlaif.preferences import NEAR_TIE, hard_labels, p_first, votes, with_judgements
from rlaif.records import Comparison, Judgement, Message, Preference, Prompt, Provenance
from rlaif.statistics.ranking import Contest, parts, strengths
from rlaif.store import RunFolder

Row = dict[str, Any]
PROMPTS_AT_ONCE = 256
EQUAL = 1e-6  # difference of strengths that is an accident of their fitting

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ORIGIN = pa.struct(
    [
        ("response_id", pa.string()),
        ("generator", pa.string()),
        ("revision", pa.string()),
        ("sampling", pa.string()),
        ("sample_index", pa.int64()),
        ("output_tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
)
JUDGED = pa.struct(
    [
        ("labeller", pa.string()),
        ("principle_id", pa.string()),
        ("weight", pa.float64()),
        ("chosen_first", pa.bool_()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("p", pa.float64()),
        ("option_mass", pa.float64()),
        ("reply_keys", pa.list_(pa.string())),
    ]
)


@dataclass
class Source:
    """What a form is made from, and what it leaves out."""

    run: RunFolder
    constitution: str | None = None  # name@hash of the one that the labels were made under
    name: Callable[[str], str] = lambda labeller: labeller  # what a labeller is called in the rows
    text: Callable[[str], str] = lambda reason: reason  # a reason as it may be read elsewhere
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Form:
    """One way to write a run's labels. ``schema`` is that of its Parquet file; None: JSONL for people to fill in."""

    rows: Callable[[Source], Iterator[Row]]
    unit: str  # what is counted: each becomes a row or has a reason
    about: str  # what one row is
    columns: dict[str, str]  # name to meaning
    schema: pa.Schema | None
    use: str = ""  # how a trainer takes it


def _turns(messages: Sequence[Message]) -> list[Row]:
    return [message.model_dump() for message in messages]


# --- pairs ------------------------------------------------------------------------------------------------------------


def paired(source: Source) -> Iterator[Row]:
    """Conversational ``prompt``, ``chosen``, ``rejected``: the rows that a trainer without probabilities may use.

    TRL takes them as they are. OpenRLHF's preference dataset takes the same fields with ``--prompt_key prompt
    --chosen_key chosen --rejected_key rejected --apply_chat_template``: it renders prompt + chosen and prompt + rejected.
    """
    for row in hard_labels(source.run.read("preferences"), NEAR_TIE):
        if isinstance(row, Preference):
            yield {"prompt": _turns(row.prompt), "chosen": _turns(row.chosen), "rejected": _turns(row.rejected)}
        else:
            source.left_out[row] += 1


def whole(source: Source) -> Iterator[Row]:
    """Every preference with its probability and weight, and all that is known of where they came from."""
    for comparison, judgements, preference, provenance in _with_provenance(source.run):
        answers = {response.id: response for response in comparison.responses}
        opinions, _ = votes(judgements, provenance.chosen_id, provenance.rejected_id)
        yield {
            "schema_version": ROW.version,
            "prompt": _turns(preference.prompt),
            "chosen": _turns(preference.chosen),
            "rejected": _turns(preference.rejected),
            "p": preference.p,
            "weight": preference.weight,
            "outcome": provenance.outcome,
            "reason": source.text(provenance.reason) if provenance.reason else None,
            "category": comparison.prompt.category,
            "prompt_id": preference.prompt_id,
            "comparison_id": preference.comparison_id,
            "chosen_source": source_of(answers[provenance.chosen_id]),
            "rejected_source": source_of(answers[provenance.rejected_id]),
            "constitution": source.constitution,
            "votes": [{"labeller": source.name(who), "p": opinions.get(who)} for who in provenance.labellers],
            "orders_agree": provenance.orders_agree,
            "judgements": [_judged(source, judgement, provenance) for judgement in judgements],
        }


def _with_provenance(run: RunFolder) -> Iterator[tuple[Comparison, list[Judgement], Preference, Provenance]]:
    rows = zip(run.read("preferences"), run.read("provenance"), strict=True)
    for comparison, judgements in with_judgements(run.read("comparisons"), run.read("judgements")):
        for _ in itertools.combinations(comparison.responses, 2):
            preference, provenance = next(rows)
            if not preference.comparison_id == provenance.comparison_id == comparison.id:
                raise DataError(f"{run.path}: preferences and comparisons are of two walks. Run it again to its end.")
            yield comparison, judgements, preference, provenance


def _judged(source: Source, judgement: Judgement, provenance: Provenance) -> Row:
    """One showing to one labeller; ``p`` is the probability that chosen is better."""
    chosen, rejected = provenance.chosen_id, provenance.rejected_id
    shown = judgement.shown
    both = shown is not None and {chosen, rejected} <= set(shown)
    return {
        "labeller": source.name(judgement.labeller),
        "principle_id": judgement.principle_id,
        "weight": judgement.weight,
        "chosen_first": shown.index(chosen) < shown.index(rejected) if shown and both else None,
        "outcome": judgement.outcome,
        "reason": source.text(judgement.reason) if judgement.reason else None,
        "p": p_first(judgement, chosen, rejected),
        "option_mass": judgement.option_mass,
        "reply_keys": list(judgement.reply_keys),
    }


def tasks(source: Source) -> Iterator[Row]:
    """Every comparison of two as a blank task for ``rlaif label``."""
    for comparison in source.run.read("comparisons"):
        if len(comparison.responses) != 2:
            source.left_out["more than two responses"] += 1
            continue
        a, b = comparison.responses
        yield {
            "comparison_id": comparison.id,
            "prompt": comparison.prompt.text,
            "reply_a": a.text,
            "reply_b": b.text,
            "label": None,
            "annotator": None,
        }


# --- by response ------------------------------------------------------------------------------------------------------


@dataclass
class Standing:
    """One different answer to a prompt, and what its comparisons say of it."""

    messages: list[Row]
    wins: int = 0  # hard labels for it
    losses: int = 0
    share: float = 0.0  # Σ weight · probability that it is better
    weight: float = 0.0
    comparisons: int = 0  # with a label

    @property
    def score(self) -> float | None:
        return self.share / self.weight if self.weight else None


def _by_prompt(run: RunFolder) -> Iterator[tuple[Prompt, list[Contest], list[Standing]]]:
    """Each prompt that has comparisons with these, as far as they have a label, and its different answers, in the order of
    the prompts.

    Two samples of the same words are one answer: what one of them won or lost, the other did.
    """
    rows = Lists(
        (row.prompt_id, [_turns(row.chosen), _turns(row.rejected), row.p, row.weight])
        for row in run.read("preferences")
    )
    prompts = run.read("prompts")
    while batch := list(itertools.islice(prompts, PROMPTS_AT_ONCE)):
        found = rows.of([prompt.id for prompt in batch])
        yield from ((prompt, *_standings(found[prompt.id])) for prompt in batch if found[prompt.id])


def _standings(rows: list[Any]) -> tuple[list[Contest], list[Standing]]:
    answers: dict[str, Standing] = {}
    contests: list[Contest] = []
    for chosen, rejected, p, weight in rows:
        better, worse = (answers.setdefault(repr(side), Standing(side)) for side in (chosen, rejected))
        if weight == 0:
            continue
        for answer, q in ((better, p), (worse, 1 - p)):
            answer.share += weight * q
            answer.weight += weight
            answer.comparisons += 1
        if p - 0.5 >= NEAR_TIE:
            better.wins += 1
            worse.losses += 1
        names = list(answers)
        i, j = names.index(repr(chosen)), names.index(repr(rejected))
        contests.append(Contest(i, j, 0.0, weight) if p == 0.5 else Contest(i, j, weight * p, worse=weight * (1 - p)))
    return contests, list(answers.values())


def unpaired(source: Source) -> Iterator[Row]:
    """``prompt``, ``completion``, ``label``, as TRL's KTO takes them: each different answer once.

    The label is what most of the answer's hard labels say of it. An answer that was preferred as often as not says
    nothing and is left out, as is one that has only ties, near-ties or no label: a row for each comparison would count
    an answer as often as it was compared, and as good and bad at once.
    """
    for prompt, _, answers in _by_prompt(source.run):
        for answer in answers:
            if not answer.wins and not answer.losses:
                source.left_out["only ties, near-ties or no label"] += 1
            elif answer.wins == answer.losses:
                source.left_out["preferred as often as not"] += 1
            else:
                label = answer.wins > answer.losses
                yield {"prompt": _turns(prompt.messages), "completion": answer.messages, "label": label}


def ranked(source: Source) -> Iterator[Row]:
    """One row for each prompt: its different answers, best first, by their strengths.

    A strength is of a Bradley-Terry model of the answers' labelled comparisons, by Davidson's with ties (``rlaif.statistics.ranking``),
    so that it does not matter which pairs were compared as long as they hang together; where they do not there is no
    strength and no rank. Beside it stands the mean probability of being the better one. Equal strengths share a rank.
    """
    for prompt, contests, answers in _by_prompt(source.run):
        compared = [answer for answer in answers if answer.comparisons]
        if not compared:
            source.left_out["no label"] += 1
            continue
        strong = _strengths(contests, answers)
        answers.sort(key=lambda a: (strong.get(id(a), -math.inf), -1.0 if a.score is None else a.score), reverse=True)
        yield {
            "prompt": _turns(prompt.messages),
            "prompt_id": prompt.id,
            "responses": [
                {
                    "response": answer.messages,
                    "strength": strong.get(id(answer)),
                    "score": answer.score,
                    "rank": 1 + sum(s > strong[id(answer)] + EQUAL for s in strong.values())
                    if id(answer) in strong
                    else None,
                    "comparisons": answer.comparisons,
                }
                for answer in answers
            ],
        }


def _strengths(contests: Sequence[Contest], answers: Sequence[Standing]) -> dict[int, float]:
    """The strength of each answer that has labelled comparisons, by its object's id; none where they do not hang together."""
    compared = [place for place, answer in enumerate(answers) if answer.comparisons]
    number = {place: n for n, place in enumerate(compared)}
    among = [contest._replace(i=number[contest.i], j=number[contest.j]) for contest in contests]
    if parts([(contest.i, contest.j) for contest in among], len(compared)) > 1:
        return {}
    theta = strengths(among, len(compared)).theta
    return {id(answers[place]): theta[n] for place, n in number.items()}


# --- the table --------------------------------------------------------------------------------------------------------

PAIR = pa.schema([(name, TURNS) for name in ("prompt", "chosen", "rejected")])
PAIR_COLUMNS = {
    "prompt": "the conversation to answer: a list of turns, each with `role` and `content`",
    "chosen": "the turns of the answer that was preferred",
    "rejected": "the turns of the other answer",
}
ANSWER = pa.struct(
    [
        ("response", TURNS),
        ("strength", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
        ("comparisons", pa.int64()),
    ]
)

FORMS: dict[str, Form] = {
    "trl": Form(
        paired,
        unit="preferences",
        about="One row is a prompt with a preferred and a rejected answer.",
        columns=PAIR_COLUMNS,
        schema=PAIR,
        use="TRL's `RewardTrainer` and `DPOTrainer` take it as it is.",
    ),
    "openrlhf": Form(
        paired,
        unit="preferences",
        about="One row is a prompt with a preferred and a rejected answer.",
        columns=PAIR_COLUMNS,
        schema=PAIR,
        use="OpenRLHF's reward model and DPO training take it with `--prompt_key prompt --chosen_key chosen "
        "--rejected_key rejected --apply_chat_template`.",
    ),
    "kto": Form(
        unpaired,
        unit="answers",
        about="One row is an answer to a prompt, and whether it is one to prefer.",
        columns={
            "prompt": PAIR_COLUMNS["prompt"],
            "completion": "the turns of the answer",
            "label": "true: most comparisons of the answer preferred it; false: most preferred the other",
        },
        schema=pa.schema([("prompt", TURNS), ("completion", TURNS), ("label", pa.bool_())]),
        use="TRL's `KTOTrainer` takes it as it is.",
    ),
    "ranked": Form(
        ranked,
        unit="prompts",
        about="One row is a prompt with all its different answers that were compared, best first.",
        columns={
            "prompt": PAIR_COLUMNS["prompt"],
            "prompt_id": "a name for the prompt's content, equal in every run",
            "responses": "`response` (turns); `strength`, of a Bradley-Terry model of the prompt's comparisons (Davidson's "
            "with ties), mean 0: the difference of two is the log-odds that one is better; `score`, the mean probability that the answer is better than one it was "
            "compared with, ties counting one half; `rank`, from 1, by strength, equal ones sharing it; `comparisons`, how many "
            "labelled comparisons stand behind them (without any all three are empty; strength and rank also where the "
            "comparisons of a prompt do not hang together)",
        },
        schema=pa.schema([("prompt", TURNS), ("prompt_id", pa.string()), ("responses", pa.list_(ANSWER))]),
    ),
    "jsonl": Form(
        whole,
        unit="preferences",
        about="One row is a compared pair of answers to a prompt, labelled or not, with where its label came from.",
        columns={
            "schema_version": "of the row's form",
            **PAIR_COLUMNS,
            "p": "probability, 0.5 to 1, that `chosen` is better; 0.5 is a tie",
            "weight": "0: no label, or set aside by a rule (`outcome`, `reason`); then `p` means nothing",
            "outcome": "labelled, tie, no label, unreadable, refused, failed or filtered",
            "reason": "why there is no label",
            "category": "of the prompt, where its source named one",
            "prompt_id": "a name for the prompt's content, equal in every run",
            "comparison_id": "a name for the pair's content",
            "chosen_source": "who answered and how: model, its revision, sampling parameters, which draw, tokens",
            "rejected_source": "the same of the other answer",
            "constitution": "name and hash of the constitution",
            "votes": "each labeller and its probability that `chosen` is better, its orders and principles averaged",
            "orders_agree": "whether both orders of showing came to one opinion (the same answer, or near-ties both); empty where one was shown",
            "judgements": "each showing: labeller, principle and its hash, whether `chosen` stood first, outcome, `p` (that "
            "`chosen` is better), probability on the offered words, and keys of the model's replies",
        },
        schema=pa.schema(
            [
                ("schema_version", pa.int64()),
                *((name, TURNS) for name in PAIR_COLUMNS),
                ("p", pa.float64()),
                ("weight", pa.float64()),
                *((name, pa.string()) for name in ("outcome", "reason", "category", "prompt_id", "comparison_id")),
                ("chosen_source", ORIGIN),
                ("rejected_source", ORIGIN),
                ("constitution", pa.string()),
                ("votes", pa.list_(pa.struct([("labeller", pa.string()), ("p", pa.float64())]))),
                ("orders_agree", pa.bool_()),
                ("judgements", pa.list_(JUDGED)),
            ]
        ),
        use="`rlaif label` and `rlaif judge` read it back, labels and all, and so does any trainer that uses `p` and "
        "`weight`.",
    ),
    "tasks": Form(
        tasks,
        unit="comparisons",
        about="One row is a pair of answers for a person to compare.",
        columns={},
        schema=None,
    ),
}


def fit_rows(name: str, source: Source) -> Iterator[Row]:
    """A form's rows. Raises UserError, before anything is written, where there are none."""
    rows = FORMS[name].rows(source)
    first = next(rows, None)
    if first is None:
        why = ", ".join(f"{count:,} × {reason}" for reason, count in source.left_out.most_common())
        raise UserError(
            f"{source.run.path}: no row is fit for --form {name} ({why}); --form jsonl writes all with p and weight."
        )
    return itertools.chain([first], rows)


def account(source: Source, form: Form, written: int, target: str) -> list[str]:
    """What was written of how many, and why the rest was not. Raises StorageError where it does not add up."""
    total = written + source.left_out.total()
    if form.unit in ("preferences", "comparisons") and total != source.run.rows(form.unit):
        raise StorageError(f"{target}: {total:,} rows are accounted for of {source.run.rows(form.unit):,} {form.unit}.")
    lines = [f"{target}: {written:,} rows of {total:,} {form.unit}"]
    return lines + [f"left out: {count:,} × {reason}" for reason, count in source.left_out.most_common()]
