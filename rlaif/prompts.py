"""Prompts from where people keep them, without repeats: the first stage of the road."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from rlaif.config import PromptsSection
from rlaif.conversations import prompt_column, read_prompt
from rlaif.ondisk import Seen
from rlaif.records import Exclusion, Prompt, Record, digest
from rlaif.rows import Row, read_rows

WORD = re.compile(r"\w+")
PERMUTATIONS = 128  # of the MinHash; its similarity estimate has a standard error below 0.05


def prompt_rows(options: PromptsSection) -> Iterator[tuple[str, Row]]:
    """The rows of the prompt source, up to the limit."""
    for number, item in enumerate(read_rows(options.source, options.split)):
        if options.limit is not None and number >= options.limit:
            return
        yield item


class ReadPrompts:
    """A stage from ``(where, row)`` to prompts. Remembers what it has seen, so it runs from the start each time.

    ``key``: where the options stand in a recipe, for messages.
    """

    def __init__(self, options: PromptsSection, key: str = "prompts") -> None:
        self.options, self.key = options, key
        self.seen = Seen()
        self.near = NearDuplicates(options.near_duplicates) if options.near_duplicates else None

    async def __call__(self, batches: AsyncIterator[list[tuple[str, Row]]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            yield [self.read(where, row) for where, row in batch]

    def read(self, where: str, row: Row) -> Prompt | Exclusion:
        column = prompt_column(row, self.options.column, where, f"{self.key}.column")
        prompt = read_prompt(row, column, system=self.options.system)
        reason = prompt if isinstance(prompt, str) else self._objection(prompt)
        if reason:
            item = prompt.id if isinstance(prompt, Prompt) else f"row-{digest(where, length=12)}"
            return Exclusion(item_id=item, outcome="filtered", reason=reason)
        assert isinstance(prompt, Prompt)
        return prompt

    def _objection(self, prompt: Prompt) -> str | None:
        if not self.seen.add(prompt.id):
            return "duplicate prompt"
        if len(prompt.text) > self.options.max_characters:
            return f"longer than {self.options.max_characters} characters"
        if self.near and self.near.repeats(prompt.id, prompt.text):
            return "near-duplicate prompt"
        return None


class NearDuplicates:
    """MinHash and locality-sensitive hashing over word pairs (Broder 1997): Jaccard similarity above a threshold."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.seen: dict[str, Any] = {}
        self.index: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def repeats(self, key: str, text: str) -> bool:
        """Whether a text like this one was seen before; if not, it is remembered."""
        from datasketch import MinHash

        words = WORD.findall(text.lower()) or list(text)
        shingles = {" ".join(words[i : i + 2]) for i in range(max(1, len(words) - 1))}
        signature = MinHash(num_perm=PERMUTATIONS, seed=1)
        signature.update_batch([shingle.encode() for shingle in shingles])
        if any(signature.jaccard(self.seen[other]) >= self.threshold for other in self.index.query(signature)):
            return True
        self.index.insert(key, signature)
        self.seen[key] = signature
        return False
