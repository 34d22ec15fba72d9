"""Supervised fine-tuning on demonstrations, or on the preferred responses of the preferences.

With ``demonstrations``, a file of prompts and what is to be said to them, the preferences are not looked at. Without, each
response is learnt with the weight that its labels give it as the better one: Σ w·p where it is *chosen*, Σ w·(1 − p) where it
is *rejected*, less one half of each, where above 0: so a tie teaches nothing, and labels of either source the same
way. The baseline of preference learning (Rafailov et al. 2023, 2305.18290, §6, "Preferred-FT").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from rlaif.conversations import after_prompt, prompt_column, read_messages, read_prompt
from rlaif.errors import DataError, RlaifError
from rlaif.models.chat_tokens import TurnsRefused
from rlaif.policy import PolicyContext, PolicyReport, Tuned
from rlaif.records import Message, Prompt
from rlaif.rows import need_source, read_rows, source_hash
from rlaif.training.batching import REFUSED, Group, drawn, group_preferences, need_labels, worths
from rlaif.training.finetuning import FineTuner, demonstrated
from rlaif.training.trainer import ShownPrompts, TrainingOptions, fit

ANSWERS = ("response", "completion", "answer", "output", "chosen")


class SFT(Tuned):
    class Options(TrainingOptions):
        learning_rate: float = Field(default=3e-6, gt=0)  # these three: Huang et al. 2024, 2403.17031
        batch_prompts: int = Field(default=128, ge=1)
        adam_epsilon: float = Field(default=1e-5, gt=0)
        demonstrations: str | None = None  # a file of prompts, each with a response; None: the preferred ones
        column: str | None = None  # of the response; found by itself where the name is usual

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if self.demonstrations and self.labels:
                raise ValueError('"labels" counts preferences, and demonstrations are none: leave one of them out')
            if self.column and not self.demonstrations:
                raise ValueError('"column" is of demonstrations: name their file too, or leave it out')
            return self

    name = "sft"

    def __init__(self, options: Options, where: str) -> None:
        self.options = options
        self.needs_labels = options.demonstrations is None
        if options.demonstrations:
            need_source(options.demonstrations, f"{where}: demonstrations")
            next(_demonstrations(options), None)

    @property
    def inputs(self) -> dict[str, str]:
        """The file it reads, with its hash."""
        name = self.options.demonstrations
        return {name: source_hash(name)} if name else {}

    def train(self, context: PolicyContext) -> PolicyReport:
        start, options = context.start, self.options
        shown = ShownPrompts(context.is_held_out)
        learnt_from = self._demonstrated if options.demonstrations else self._preferred
        groups, account = learnt_from(context, shown)
        trained, history, samples = fit(
            FineTuner,
            start,
            groups,
            options,
            work=context.work,
            seed=context.seed,
            watch=context.watch,
            prompts=shown.prompts,
        )
        trained.save(context.out)
        return PolicyReport(history, account=account, samples=samples)

    def _preferred(self, context: PolicyContext, shown: ShownPrompts) -> tuple[list[Group], dict[str, Any]]:
        start, room = context.start, self.options.room(context.start.context)
        rows = shown.of_preferences(context.watch.through(context.preferences()))
        data = group_preferences(
            rows, start.tokens, room, keep=lambda prompt: not context.is_held_out(prompt), ended=context.ended
        )
        data = drawn(data, self.options.labels, context.seed)
        need_labels(data, self.name, room)
        groups = []
        for group in data.groups:  # all of them and their responses, so that no plan depends on labels
            weighed = [(ids, max(0.0, w)) for ids, w in zip(group.responses, worths(group), strict=True)]
            groups.append(demonstrated(group.prompt_id, group.prompt, weighed))
        if not any(weight > 0 for group in groups for weight in group.weight):
            raise RlaifError("sft: no response is preferred to another: every label is a tie.")
        return groups, data.account

    def _demonstrated(self, context: PolicyContext, shown: ShownPrompts) -> tuple[list[Group], dict[str, Any]]:
        start, room = context.start, self.options.room(context.start.context)
        groups: dict[str, tuple[tuple[int, ...], list[tuple[tuple[int, ...], float]]]] = {}
        counts = dict.fromkeys(("trained on", "held out", "too long", "repeated"), 0)
        refused = 0
        rows = context.watch.through(_demonstrations(self.options))
        for prompt, response in shown.of(rows, lambda row: (row[0].id, row[0].messages)):
            try:
                ids = tuple(start.tokens.prompt_ids(prompt.messages))
                said = tuple(start.tokens.response_ids(prompt.messages, response))
            except TurnsRefused:
                refused += 1
                continue
            _, known = groups.get(prompt.id, (ids, []))
            if context.is_held_out(prompt.id):
                counts["held out"] += 1
            elif len(ids) + len(said) > room:
                counts["too long"] += 1
            elif any(said == other for other, _ in known):
                counts["repeated"] += 1
            else:
                counts["trained on"] += 1
                groups.setdefault(prompt.id, (ids, known))[1].append((said, 1.0))
        counts |= {REFUSED: refused} if refused else {}
        if not groups:
            found = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
            raise RlaifError(f"sft: {self.options.demonstrations}: nothing is left to train on ({found}).")
        account = {"unit": "demonstrations", "in": sum(counts.values()), "outcomes": counts, "reasons": {}}
        return [demonstrated(name, *rows) for name, rows in groups.items()], account


def _demonstrations(options: SFT.Options) -> Iterator[tuple[Prompt, tuple[Message, ...]]]:
    """Prompts with what is to be said to them: of a ``messages`` column its last assistant turn, else a column of its own.
    Raises DataError."""
    assert options.demonstrations
    for where, row in read_rows(options.demonstrations):
        yield _demonstration(row, options.column, where)


def _demonstration(row: Mapping[str, Any], column: str | None, where: str) -> tuple[Prompt, tuple[Message, ...]]:
    name = column or next((each for each in ANSWERS if each in row), None)
    turns = read_messages(row["messages"], "user") if name is None and isinstance(row.get("messages"), list) else ""
    if isinstance(turns, tuple) and turns and turns[-1].role == "assistant":
        response: tuple[Message, ...] | str = turns[-1:]
        row = {**row, "messages": [turn.model_dump() for turn in turns[:-1]]}
    elif name is None or name not in row:
        raise DataError(
            f"{where}: no response: expected messages that end with an assistant turn, or a column "
            f"{column or ', '.join(ANSWERS)}."
        )
    else:
        response = read_messages(row[name], "assistant")
    prompt = read_prompt(row, prompt_column(row, None, where, None))
    if isinstance(prompt, str) or isinstance(response, str):
        raise DataError(f"{where}: {prompt if isinstance(prompt, str) else response}.")
    response = after_prompt(prompt.messages, response)
    if not response or response[0].role != "assistant" or response[-1].role != "assistant":
        raise DataError(f"{where}: the response is not the assistant's.")
    return prompt, response
