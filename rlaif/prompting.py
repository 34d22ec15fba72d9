"""Fill templates, and keep text that is to be judged apart from the words that judge it.

A template is a text file of sections, each opened by a line ``=== role``; an ``=== assistant`` section at the end is a
prefill: the reply is continued from there. ``{{name}}`` marks a placeholder. Filling is one pass over the placeholders
the template declares, so braces in a response stay text and one field cannot smuggle in another.

Text to be judged stands either alone in a user turn, for models whose chat template keeps turns apart by control tokens,
or in a fence: a word a policy cannot guess, before it and after it. The fence is derived from a project secret and the
comparison, equal in both orders; in the ledger's key a placeholder stands for it. What in such text looks like a verdict of
ours or like a mark of a role is disarmed by a space: a server may read a chat template's marks wherever they stand. "Answer:
B" and "Score: 9" stay as they are: what is judged may be the answer to a question that has such ones.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from rlaif.errors import ConfigError, StorageError, did_you_mean
from rlaif.records import Message, Role

SECTION = re.compile(r"^=== *(\w+) *$", re.MULTILINE)
PLACEHOLDER = re.compile(r"\{\{ *(\w+) *\}\}")
CONVERSATION = "prompt"  # the placeholder of what a reply answers: several turns are labelled by role
OPEN, SHUT = r"[\[［【]", r"[\]］】]"
THOUGHTS = r"(?:think(?:ing)?|thought|reasoning)"
ARMED = re.compile(  # what our readers take for a verdict or a thought, and marks of chat templates
    rf"{OPEN}(?=[*_`]*{OPEN})"
    rf"|{OPEN}(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|RESULT|{THOUGHTS}){SHUT})"
    rf"|<(?=\|[\w/ -]{{1,40}}\|>|｜[^｜\n]{{1,40}}｜>|</?SYS>>|/?(?:(?:start|end)_of_turn|s|[be]os|[se]op|{THOUGHTS})>)"
    r"|\\(?=boxed\s*\{)"
    r"|^#{2,3}(?= ?(?:instruction|response|input|system|user|assistant|human)\b[^\n]{0,12}:)"
    r"|(?P<role>^(?:human|assistant|system|user)(?=:))"
    r"|\b(?:verdict|winner|ranking|(?:better|preferred)(?: one| reply| response)?)"
    r"(?=[\"']\s*:|\s*[:：=-]+[^\w\n]*(?:\w+ )?[\w.-]{1,12}(?:\s*[>=]\s*[\w.-]{1,12})*[^\w\n]*$)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Template:
    """A parsed template: ``sections`` of (role, text), and the text a reply is continued from."""

    sections: tuple[tuple[Role, str], ...]
    prefill: str
    by_turns: bool = False  # some of what is judged is kept apart by its turn alone
    judged: frozenset[str] = frozenset()  # placeholders of text to be judged

    @property
    def roles(self) -> tuple[Role, ...]:
        """The role of each message that ``fill`` makes."""
        return tuple(role for role, _ in self.sections)

    @classmethod
    def parse(
        cls, text: str, *, where: str, allowed: Iterable[str], required: Iterable[str] = (), judged: Iterable[str] = ()
    ) -> Template:
        """Raises ConfigError for a missing or unknown section, an unknown placeholder, or a required one left out.

        ``judged`` names the placeholders of text to be judged: each stands alone in a user section, or has ``{{fence}}``
        before and after it in its section.
        """
        parts = SECTION.split(text)
        if parts[0].strip() or len(parts) < 3:
            raise ConfigError(f'{where}: a template starts with a line "=== system" or "=== user".')
        pairs = list(zip(parts[1::2], (part.strip("\n") for part in parts[2::2]), strict=True))
        for role, _ in pairs:
            if role not in ("system", "user", "assistant"):
                raise ConfigError(f'{where}: section "{role}"?{did_you_mean(role, ("system", "user", "assistant"))}')
        prefill = pairs.pop()[1] if pairs[-1][0] == "assistant" else ""
        if not pairs or pairs[-1][0] != "user":
            raise ConfigError(f'{where}: the last section before the reply must be "=== user".')
        found = frozenset(PLACEHOLDER.findall("\n".join(body for _, body in pairs)))
        if PLACEHOLDER.search(prefill):
            raise ConfigError(f'{where}: the "=== assistant" section opens the reply as it stands: no placeholders.')
        for name in sorted(found - set(allowed)):
            raise ConfigError(f'{where}: unknown placeholder "{{{{{name}}}}}".{did_you_mean(name, allowed)}')
        for name in sorted(set(required) - found):
            raise ConfigError(f'{where}: the placeholder "{{{{{name}}}}}" is missing from this template.')
        judged = frozenset(judged)
        by_turns = False
        for role, body in pairs:
            if loose := _unfenced(body, judged):
                if role != "user" or not PLACEHOLDER.fullmatch(body.strip()):
                    raise ConfigError(
                        f'{where}: "{{{{{loose}}}}}" is text to be judged: in its "=== {role}" section put a line with '
                        '{{fence}} before it and one after it, or give it a "=== user" section with nothing else.'
                    )
                by_turns = True
        return cls(tuple((cast("Role", role), body) for role, body in pairs), prefill, by_turns, judged)

    def asks_for(self, form: str) -> bool:
        """Whether its own words hold these."""
        return any(form in text for _, text in self.sections)

    def fill(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """The messages with every placeholder replaced, in one pass; text to be judged is disarmed."""
        values = {
            name: disarmed(value, roles=name != CONVERSATION) if name in self.judged else value
            for name, value in values.items()
        }
        return tuple(Message(role=role, content=fill(body, values)) for role, body in self.sections)


@lru_cache(maxsize=1024)  # a reply is shown in both orders, and under many principles
def disarmed(text: str, *, roles: bool = True) -> str:
    """``text`` with a space in whatever a reader could take for a verdict (``[[A]]``, a line "Verdict: A"), and in a chat
    template's marks; without ``roles`` lines that begin "User:" stay, as in a conversation that we wrote down so."""

    def broken(found: re.Match[str]) -> str:
        if found["role"]:
            return f"{found[0]} " if roles else found[0]
        return f"{found[0][0]} {found[0][1:]}"

    return ARMED.sub(broken, text)


def _unfenced(body: str, judged: Container[str]) -> str | None:
    """The first placeholder of ``judged`` in a section that has not a fence on both sides, if there is one."""
    names = PLACEHOLDER.findall(body)
    for place, name in enumerate(names):
        if name in judged and not ("fence" in names[:place] and "fence" in names[place:]):
            return str(name)
    return None


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace ``{{name}}`` by ``values[name]`` in a single pass; values are never looked into."""
    pieces = _pieces(text)
    return "".join([values[piece] if place % 2 else piece for place, piece in enumerate(pieces)])


@lru_cache(maxsize=256)
def _pieces(text: str) -> tuple[str, ...]:
    """Words of a template and names of placeholders, in turn."""
    return tuple(PLACEHOLDER.split(text))


def fence_for(secret: bytes, comparison_id: str, texts: Iterable[str]) -> str:
    """The fence of one comparison: 16 hex digits that stand in none of ``texts``.

    Depends on the secret, the comparison and the *set* of texts only, so both orders share it. A text that does hold
    the fence (it would have to have been leaked) moves all of them to the next one in line.
    """
    texts = list(texts)
    for attempt in range(1000):
        word = hmac.digest(secret, f"{comparison_id}/{attempt}".encode(), "sha256").hex()[:16]
        if not any(word in text for text in texts):
            return word
    raise AssertionError("a thousand fences in one text: the secret is in it")


def project_secret(folder: Path) -> bytes:
    """The secret behind the fences: RLAIF_FENCE_SECRET, else ``folder/secret``, made on first use (mode 0600)."""
    if value := os.environ.get("RLAIF_FENCE_SECRET"):
        return value.encode()
    path = folder / "secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes().strip()
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
        except OSError:
            path.unlink()  # a full disk leaves an empty file, and an empty secret is one that anybody knows
            raise
        return path.read_bytes().strip()
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}. Set ledger: to a writable place.") from error


def redact(value: Any, word: str, placeholder: str) -> Any:
    """``value`` with every occurrence of ``word`` in its strings replaced: how a fence enters the ledger's key."""
    if isinstance(value, str):
        return value.replace(word, placeholder)
    if isinstance(value, Mapping):
        return {key: redact(item, word, placeholder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, word, placeholder) for item in value]
    return value
