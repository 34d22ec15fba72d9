"""One tokenisation for sampling, judging and every kind of training.

A prompt is rendered through the model's own chat template up to where the assistant speaks; a response is tokenised by
itself, as it is when sampled, and ends with the model's end-of-turn token unless it was cut off. Text can never become
a control token: the model's special-token strings are broken up wherever they stand in a message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import ModelError
from rlaif.models import Notice
from rlaif.records import Message, Role, digest

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    "{{ (eos_token or '') if m['role'] == 'assistant' else '' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


class TurnsRefused(ModelError):
    """The chat template does not take turns in this order."""


class ChatTokenizer:
    """A tokenizer with its chat template, from a model folder. Raises ModelError when it cannot be used."""

    def __init__(self, folder: Path, *, where: str, trust_remote_code: bool, notice: Notice) -> None:
        from transformers import AutoTokenizer

        try:
            self.hf: Any = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=trust_remote_code, local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{where}: {folder}: no usable tokenizer: {_first_line(error)}") from error
        self.where, self.notice = where, notice
        self._told_of_system = False
        if not self.hf("A word.", add_special_tokens=False)["input_ids"]:
            raise ModelError(f"{where}: {folder}: no usable tokenizer: it has no token for any text (tokenizer.json?).")
        if not self.hf.chat_template:
            self.hf.chat_template = PLAIN_TEMPLATE
            notice(f"{where}: {folder} has no chat template; turns are written as plain 'User: …' and 'Assistant: …'.")
        self.eos_ids = self._eos_ids(folder)
        if not self.eos_ids:
            notice(f"{where}: {folder} names no end-of-sequence token; samples run to max_output_tokens.")
        self.pad_id = self.hf.pad_token_id if self.hf.pad_token_id is not None else min(self.eos_ids, default=0)
        special = {
            *self.hf.all_special_tokens,
            *(str(token) for token in self.hf.added_tokens_decoder.values() if token.special),
        }
        # longest first; white space alone stays, whatever the model calls it: it is part of every text
        self._special = {t: _broken(t) for t in sorted(special, key=lambda t: (-len(t), t)) if t.strip()}
        self.sha256 = digest(self.hf.chat_template, sorted(self.eos_ids), self._vocabulary(folder))

    def _vocabulary(self, folder: Path) -> Any:
        """What turns text into ids: the whole of a fast tokenizer; class, settings and vocabulary files of another."""
        if self.hf.is_fast:
            return self.hf.backend_tokenizer.to_str()
        files = [folder / name for name in ("tokenizer_config.json", *sorted(self.hf.vocab_files_names.values()))]
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
        return [type(self.hf).__name__, hashes]

    def prompt_ids(self, messages: Sequence[Message], prefill: str = "") -> list[int]:
        """Token ids up to where the assistant's reply goes on, ``prefill`` included."""
        return self._encode(self.prompt_text(messages) + prefill)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        return self._render(messages, add_generation_prompt=True)

    def separates_turns(self, roles: Sequence[Role]) -> bool:
        """Whether control tokens, which no text can become, stand between all turns of these roles, and after the last.

        Looked for in what the chat template really makes of them: one without a system role writes its words into the
        first user turn, another may write them into the last.
        """
        turns = [Message(role=role, content=f"<turn {number}>") for number, role in enumerate(roles)]
        try:
            text = self.prompt_text(turns)
        except TurnsRefused:
            return False
        starts = sorted(text.find(turn.content) for turn in turns)
        pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
        return starts[0] >= 0 and all(any(token in piece for token in self._special) for piece in pieces)

    def response_ids(self, prompt: Sequence[Message], response: Sequence[Message], *, ended: bool = True) -> list[int]:
        """Token ids of a response: what the template puts after the prompt, up to and including the end of turn.

        ``ended=False`` (a sample cut off at its length limit) leaves out the end of turn and all that the template
        writes after the words; so it is for a model without any end-of-sequence token.
        """
        before = self.prompt_text(prompt)
        whole = self._render([*prompt, *response], add_generation_prompt=False)
        if whole.startswith(before):
            text = whole[len(before) :]
        else:  # a template that renders the last turn unlike its generation prompt, thinking models for instance
            text = "\n\n".join(self._disarm(message.content) for message in response)
        if not ended or not self.eos_ids:
            return self._encode(_up_to(text, [self._disarm(message.content) for message in response]))
        ids = self._encode(text)
        last = max((i for i, token in enumerate(ids) if token in self.eos_ids), default=None)
        return self.ended(ids if last is None else ids[: last + 1])

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text that is no conversation, from its beginning mark, where there is one, to its end mark."""
        start = [] if self.hf.bos_token_id is None else [self.hf.bos_token_id]
        return self.ended([*start, *self._encode(self._disarm(text))])

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Token ids of a response with the end of its turn, where there is such a token."""
        if not self.eos_ids or (ids and ids[-1] in self.eos_ids):
            return list(ids)
        return [*ids, self.hf.eos_token_id if self.hf.eos_token_id is not None else min(self.eos_ids)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of sampled ids, without control tokens."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_text(self, token_id: int) -> str:
        return str(self.hf.decode([token_id]))

    def option_ids(self, before: str, option: str) -> set[int]:
        """Token ids that say ``option`` right after the text ``before``, with and without a leading space.

        Raises ModelError for an option of several tokens: its probability cannot be read from one next token.
        """
        found: set[int] = set()
        base = self._encode(before)
        for variant in (option, " " + option):
            whole = self._encode(before + variant)
            tail = whole[len(base) :] if whole[: len(base)] == base else self._encode(variant)
            if len(tail) == 1 and self.token_text(tail[0]).strip() == option:
                found.add(tail[0])
        if not found:
            raise ModelError(
                f'{self.where}: the option "{option}" is several tokens for this model: offer options of one token '
                "(A and B, 1 and 2), or a judge that reads text."
            )
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self.hf(text, add_special_tokens=False)["input_ids"])

    def _disarm(self, text: str) -> str:
        """``text`` in which no special token stands; breaking one up may make another, so until there is none."""
        while any(token in text for token in self._special):
            for token, broken in self._special.items():
                text = text.replace(token, broken)
        return text

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": m.role, "content": self._disarm(m.content)} for m in messages]
        try:
            text = self._apply(turns, add_generation_prompt)
            if turns and turns[0]["role"] == "system" and turns[0]["content"].strip() not in text:
                self._say_of_system("leaves system turns out: the model does not read them.")
            return text
        except _template_error() as error:
            folded = _fold_system(turns)
            if folded != turns:  # templates without a system role: its words open the first user turn
                try:
                    text = self._apply(folded, add_generation_prompt)
                    self._say_of_system("has no system turns: their words open the user's.")
                    return text
                except _template_error():
                    pass  # the first error tells more
            roles = " ".join(turn["role"] for turn in turns)
            raise TurnsRefused(
                f"{self.where}: the chat template refuses turns '{roles}': {_first_line(error)}"
            ) from error

    def _say_of_system(self, words: str) -> None:
        if not self._told_of_system:
            self._told_of_system = True
            self.notice(f"{self.where}: its chat template {words}")

    def _apply(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(self.hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))

    def _eos_ids(self, folder: Path) -> frozenset[int]:
        """Every end-of-sequence id the folder names: generation config, config and tokenizer."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            path = folder / name
            if path.is_file():
                value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
                found.update(value if isinstance(value, list) else [] if value is None else [value])
        if self.hf.eos_token_id is not None:
            found.add(self.hf.eos_token_id)
        return frozenset(found)


def _broken(token: str) -> str:
    """A special token as text may hold it: a space after its first letter, and in place of one that is all of it."""
    start = len(token) - len(token.lstrip())
    first, rest = token[: start + 1], token[start + 1 :]
    return f"{first} {rest}" if rest.strip() else " " * len(token)


def _up_to(text: str, turns: Sequence[str]) -> str:
    """``text`` up to the end of the last of ``turns``, found one after the other; templates may have trimmed them."""
    end = 0
    for turn in turns:
        words = turn if text.find(turn, end) >= 0 else turn.strip()
        start = text.find(words, end)
        if start < 0:
            return text
        end = start + len(words)
    return text[:end]


def _fold_system(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    if len(turns) < 2 or turns[0]["role"] != "system" or turns[1]["role"] != "user":
        return turns
    return [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}, *turns[2:]]


def _template_error() -> type[Exception]:
    from jinja2.exceptions import TemplateError

    return TemplateError


def _first_line(error: BaseException) -> str:
    lines: Iterable[str] = str(error).strip().splitlines() or [type(error).__name__]
    return next(iter(lines))
