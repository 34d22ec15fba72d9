"""Principles out of other people's files: plain text, Markdown, rows of JSON, critique and revision requests.

Every principle keeps the words it was found in, and says where. A specification holds much that asks nothing of a reply
(introductions, definitions): of running text only sentences that demand something are taken, of lists every item. What
is left out is counted with its reason, so that the account adds up. The result is a constitution of the working folder;
it is to be read, linted and edited, and whether it may be passed on is between its reader and its author.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from rlaif.catalogue import FOLDERS, read_bytes, text_of
from rlaif.component import parse_model
from rlaif.config import Constitution
from rlaif.constitutions.wording import sentences, words
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.store import write_text

Format = Literal["text", "markdown", "rows", "cai"]
SUFFIXES: dict[str, Format] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "rows",
    ".jsonl": "rows",
}
DEMANDS = re.compile(
    r"\b(should|must|shall|never|always|ought|avoids?|prefers?|choose|do not|don't|may not|cannot|can't|refrain|ensure|"
    r"make sure|strive|aims? to|needs? to|has to|is expected|are expected|not be)\b",
    re.IGNORECASE,
)
BULLET = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s+(.*)$")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"^\s*(```|~~~)")
ASIDE = re.compile(r"^\s*(?:>|\||!!!|:::|<!--|</?\w+)")  # quotations, tables, admonitions, HTML
ONE_ROW = {
    "id",
    "category",
    "path",
    "authority",
    "source",
    "critique_request",
    "revision_request",
}  # keys of a single row
TEXTS = ("text", "principle", "statement", "content", "instruction")  # where rows keep a principle
CRITIQUES = (("critique_request", "revision_request"), ("prompt", "edit_request"))
MARKERS = re.compile(
    r"^\s*(?:Critique ?Request|Revision ?Request):\s*|\s*(?:Critique|Revision|Options):\s*$", re.IGNORECASE
)
SHOWN, LONGEST = 3, 90  # pieces that were left out, and characters of each
LEAST_WORDS = 2


@dataclass(frozen=True)
class Found:
    """A principle as a file has it."""

    text: str
    place: str  # in the file: a line, or the id of a row
    category: str | None = None
    id: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """A piece of text that is no principle, and why."""

    reason: str
    text: str
    place: str


Read = Iterator[Found | LeftOut]


@dataclass(frozen=True)
class Imported:
    """What became of a file; ``left_out`` counts pieces of text by reason, and with ``taken`` adds up to ``pieces``; of each
    reason the first are shown."""

    path: Path
    format: Format
    taken: int
    left: list[LeftOut]

    @property
    def left_out(self) -> Counter[str]:
        return Counter(each.reason for each in self.left)

    @property
    def pieces(self) -> int:
        return self.taken + len(self.left)

    def lines(self) -> Iterator[str]:
        yield f"{self.path}: {self.taken} principles of {self.pieces} pieces of text (read as {self.format})"
        for reason, count in self.left_out.most_common():
            yield f"{'':<20}{count:>9,} × {reason}"
            for each in [each for each in self.left if each.reason == reason][:SHOWN]:
                yield f"{'':<32}{each.place}: {each.text if len(each.text) <= LONGEST else f'{each.text[:LONGEST]} …'}"


def import_constitution(file: Path, name: str, form: str | None = None, folder: Path | None = None) -> Imported:
    """Write ``prompts/constitutions/NAME.yaml`` from ``file``. Raises UserError where nothing in it is a principle."""
    target = (folder or Path()) / FOLDERS["constitution"][0] / f"{name}.yaml"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"--as {name}: a name of the catalogue, such as my-spec, not a path.")
    if target.exists():
        raise ConfigError(f"{target}: exists already. Give the import another name with --as.")
    format, read = _reader(file, form)
    principles, left = _principles(file, read)
    if not principles:
        counts = Counter(each.reason for each in left)
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts.most_common()) or "it is empty"
        raise DataError(f"{file}: read as {format}, it holds no principle ({reasons}). Name another --format.")
    data = {"version": "1", "description": f"Imported from {file.name}.", "principles": principles}
    parse_model(Constitution, data, str(target))
    write_text(target, _yaml(file, data))
    return Imported(target, format, len(principles), left)


def _yaml(file: Path, data: dict[str, Any]) -> str:
    head = f"# Imported from {file.name}, with its words. Whether it may be passed on depends on its licence.\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def _reader(file: Path, form: str | None) -> tuple[Format, Read]:
    """How a file is to be read, by its suffix and its rows where nothing is said."""
    formats = get_args(Format)
    if form is not None and form not in formats:
        raise ConfigError(f'--format: "{form}" is none of {", ".join(formats)}.{did_you_mean(form, formats)}')
    found = form or SUFFIXES.get(file.suffix.lower())
    if found is None:
        raise ConfigError(f"{file}: its name does not say what it is: give --format ({', '.join(formats)}).")
    text = text_of(file, read_bytes(file))
    if found in ("text", "markdown"):
        return found, _read_text(text) if found == "text" else _read_markdown(text)  # type: ignore[return-value]
    rows = _rows(file, text)
    if found == "cai" or (form is None and rows and all(map(_requests, (row for _, row in rows)))):
        return "cai", _read_requests(file, rows)
    return "rows", _read_rows(file, rows)


def _principles(file: Path, read: Read) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """What a constitution keeps of each, with ids that differ; repetitions are left out."""
    rows: list[dict[str, Any]] = []
    left: list[LeftOut] = []
    ids: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    for one in read:
        key = tuple(words(one.text))
        if isinstance(one, LeftOut):
            left.append(one)
        elif key in seen:
            left.append(LeftOut("said before", one.text, one.place))
        elif len(key) < LEAST_WORDS:
            left.append(LeftOut(f"fewer than {LEAST_WORDS} words", one.text, one.place))
        else:
            seen.add(key)
            rows.append(_row(file, one, ids))
    return rows, left


def _row(file: Path, one: Found, ids: Counter[str]) -> dict[str, Any]:
    base = slug(one.id or " ".join(words(one.text)[:5])) or "principle"
    name = base
    while ids[name]:
        ids[base] += 1
        name = f"{base}-{ids[base]}"
    ids[name] += 1
    row: dict[str, Any] = {"id": name, "text": one.text}
    if one.weight is not None:
        row["weight"] = one.weight
    if one.category:
        row["category"] = one.category
    return {**row, "provenance": f"{file.name}, {one.place}"}


def slug(text: str) -> str:
    """Letters, digits and hyphens, as an id may have."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-")


# --- text -------------------------------------------------------------------------------------------------------------


def _read_text(text: str) -> Read:
    """A principle a line, with or without a bullet."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            bullet = BULLET.match(line)
            yield Found((bullet.group(1) if bullet else line).strip(), f"line {number}")


@dataclass(frozen=True)
class Block:
    """A list's item or a paragraph, in one line, under its headings."""

    text: str
    line: int
    item: bool
    headings: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """The items and paragraphs of a Markdown text; code, quotations, tables and the like are left out."""
    headings: list[str] = []
    lines: list[str] = []
    begin, item, code = 0, False, False

    def ended() -> Iterator[Block]:
        if lines:
            yield Block(plain(" ".join(lines)), begin, item, tuple(headings))
        lines.clear()

    for number, line in enumerate(text.splitlines(), 1):
        heading, bullet = HEADING.match(line), BULLET.match(line)
        if FENCE.match(line):
            code = not code
        aside = code or bool(FENCE.match(line)) or bool(ASIDE.match(line))
        if aside or heading or bullet or not line.strip():
            yield from ended()
        if aside:
            continue
        if heading:
            del headings[len(heading.group(1)) - 1 :]
            headings.append(plain(heading.group(2)))
        elif line.strip():
            if not lines:
                begin, item = number, bullet is not None
            lines.append(bullet.group(1) if bullet else line.strip())
    yield from ended()


def plain(text: str) -> str:
    """Markdown's marks taken off: links keep their words, emphasis and anchors go."""
    text = re.sub(r"\{[#.][^}]*\}", "", text)
    text = re.sub(r"\s*\((?:see|cf\.?)[^()]*\[[^\]]*\]\([^)]*\)[^()]*\)", "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[\^[^\]]*\]", "", text)
    text = re.sub(r"(\*\*|__|`)(.+?)\1", r"\2", text)
    text = re.sub(r"(?<!\w)([*_])(\S(?:.*?\S)?)\1(?!\w)", r"\2", text)
    return " ".join(text.split())


def _read_markdown(text: str, category: str | None = None, place: str = "", name: str | None = None) -> Read:
    """Items as they are, and of paragraphs the sentences that demand something. A heading names the category."""
    for block in blocks(text):
        under = " / ".join(block.headings) or category
        where = f"{place}, line {block.line}" if place else f"line {block.line}"
        for piece in [block.text] if block.item else sentences(block.text):
            if piece.endswith(":"):
                yield LeftOut("announces a list", piece, where)
            elif block.item or DEMANDS.search(piece):
                yield Found(piece, where, under, name)
            else:
                yield LeftOut("a sentence that demands nothing", piece, where)


# --- rows -------------------------------------------------------------------------------------------------------------

Rows = Sequence[tuple[str, Any]]  # where a row is, and the row


def _rows(file: Path, text: str) -> Rows:
    """The rows of JSON Lines, or of one JSON value: a list, a mapping by name, or a mapping with ``principles``."""
    try:
        whole = json.loads(text)
    except ValueError:
        return [(f"line {number}", _row_of(file, number, line)) for number, line in _numbered(text)]
    if isinstance(whole, dict) and isinstance(whole.get("principles"), list):
        whole = whole["principles"]
    if isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        return [(name, {"id": name, **value}) for name, value in whole.items()]
    if (
        isinstance(whole, dict)
        and len(whole) > 1
        and not set(whole) & {*ONE_ROW, *TEXTS}
        and all(isinstance(v, str) for v in whole.values())
    ):
        return [(name, {"id": name, "text": value}) for name, value in whole.items()]
    rows = whole if isinstance(whole, list) else [whole]
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _row_of(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{file}: line {number} is not JSON: {error}.") from error


def _read_rows(file: Path, rows: Rows) -> Read:
    """One principle of a short text; of a longer one its items and demands, as of Markdown."""
    for where, row in rows:
        if isinstance(row, str):
            yield Found(MARKERS.sub("", row).strip(), where)
            continue
        text = (
            next((row[key] for key in TEXTS if isinstance(row.get(key), str)), None) if isinstance(row, dict) else None
        )
        if text is None:
            found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{file}: {where}: no text of a principle. Found {found}; expected {' or '.join(TEXTS)}.")
        place, name = _place(where, row), row.get("id")
        short = str(name).rpartition("/")[2] if name else None
        if "\n" in text.strip() or len(sentences(text)) > 1:
            yield from _read_markdown(text, _category(row), place, short)
        else:
            yield Found(plain(text), place, _category(row), short, _weight(row))


def _place(where: str, row: dict[str, Any]) -> str:
    parts = [str(row["id"]) if row.get("id") else where]
    parts += [f"of {row['source']}"] if row.get("source") else []
    parts += [f"authority {row['authority']}"] if row.get("authority") else []
    return ", ".join(parts)


def _category(row: dict[str, Any]) -> str | None:
    path = row.get("category") or row.get("path") or row.get("title")
    return " / ".join(map(str, path)) if isinstance(path, list) else str(path) if path else None


def _weight(row: dict[str, Any]) -> float | None:
    return float(row["weight"]) if isinstance(row.get("weight"), int | float) else None


# --- critique and revision --------------------------------------------------------------------------------------------


def _requests(row: Any) -> tuple[str, str] | None:
    """A row's request for a critique and for a revision; None where it has none."""
    for critique, revision in CRITIQUES:
        if isinstance(row, dict) and row.get(critique) and row.get(revision):
            return _request(row[critique]), _request(row[revision])
    return None


def _request(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    before = ""
    while text != before:
        before, text = text, MARKERS.sub("", text).strip()
    return text


def _read_requests(file: Path, rows: Rows) -> Read:
    """As a comparison: a request to revise says which way is better, a request to criticise alone does not."""
    for where, row in rows:
        requests = _requests(row)
        if requests is None:
            raise DataError(f"{file}: {where}: no critique_request and revision_request.")
        critique, revision = requests
        text = f'Choose the reply that would have to change less if its author were told: "{critique} {revision}"'
        name = str(row["id"]).rpartition("/")[2] if row.get("id") else None
        yield Found(text, _place(where, row), "critique and revision", name)
