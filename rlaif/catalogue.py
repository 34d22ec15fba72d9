"""Find what a user writes and edits: judges, constitutions, rubrics, templates, prompt sets, pipelines.

A name given by a user (in their own file, or by ``--set``) is looked for in the working folder, then among the
built-ins; a path to an existing file is taken as it is. A name inside a built-in file is looked for only among the
built-ins, so a local ``compare-two`` never changes a shipped judge. ``builtin:name`` pins a built-in. A local file
that shadows a built-in, or is passed over for one, is announced by whoever prints ``Catalogue.notices``. Every file handed out is remembered in
``Catalogue.used`` with its hash, and the run folder keeps a copy of each, also of two that share a name.

A judge, constitution, rubric, checklist or template that was named by its name, not by a path, and is gone since a run folder was
made is taken from the copy that the folder keeps (``Catalogue.kept``), and a notice says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from rlaif.errors import ConfigError, DataError, did_you_mean

Kind = Literal["judge", "constitution", "rubric", "checklist", "template", "set", "pipeline", "launcher"]
# kinds whose copies a run folder goes on with
KEPT: tuple[Kind, ...] = ("judge", "constitution", "rubric", "checklist", "template")

FOLDERS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "judge": ("judges", (".yaml",)),
    "constitution": ("prompts/constitutions", (".yaml",)),
    "rubric": ("prompts/rubrics", (".md",)),
    "checklist": ("prompts/rubrics", (".yaml",)),
    "template": ("prompts/templates", (".txt",)),
    "set": ("prompts/sets", (".jsonl", ".jsonl.gz")),
    "pipeline": ("pipelines", (".yaml",)),
    "launcher": ("launch", (".yaml",)),  # configurations of `accelerate launch`
}


def builtin_root() -> Path:
    """Where the shipped catalogue lies: inside the wheel, else the root of the checkout (editable installs too)."""
    packaged = Path(__file__).parent / "_builtin"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent


@dataclass(frozen=True)
class Entry:
    """One file of the catalogue as it was read: the hash is of exactly these bytes."""

    kind: Kind
    name: str
    path: Path
    builtin: bool
    data: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def tag(self) -> str:
        """``name@first eight digits of the hash``: how records name the file."""
        return f"{self.name}@{self.sha256[:8]}"

    @property
    def text(self) -> str:
        return text_of(self.path, self.data)

    def yaml(self) -> dict[str, Any]:
        """The file as a mapping. Raises ConfigError with the line of a syntax error or a repeated key."""
        return mapping_of(self.path, self.text)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice; plain YAML silently keeps the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f'"{key}" is given twice', key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


@dataclass
class Catalogue:
    """Look-up from one working folder, remembering what was used."""

    folder: Path = field(default_factory=Path)
    used: dict[tuple[Kind, str, str], Entry] = field(default_factory=dict)  # by kind, name and hash
    notices: list[str] = field(default_factory=list)  # which of two files of one name is used
    kept: Sequence[Entry] = ()  # a run folder's copies

    def find(self, kind: Kind, name: str, *, where: str, from_builtin: bool = False) -> Entry:
        """The entry called ``name``. ``where`` names the file that asked, for the message when there is none."""
        found = self._look(kind, name, from_builtin)
        entry = found or self._copy(kind, name, from_builtin)
        if entry is None:
            places = "the built-ins" if from_builtin or name.startswith("builtin:") else self._places(kind)
            bare = name.removeprefix("builtin:")
            raise ConfigError(f'{where}: {kind} "{bare}" not found in {places}.{did_you_mean(bare, self.names(kind))}')
        if entry is found and not from_builtin:
            self._say_shadowing(kind, name, entry)
        self.used[kind, entry.name, entry.sha256] = entry
        if from_builtin and (local := self.passed_over(kind, name)):
            by = Path(where.partition(": ")[0]).stem
            self.say(
                f'{kind} "{name}": {local} is passed over, for the shipped {by} names the built-in one. To use yours, '
                f"name it in a copy: `rlaif copy {by}`."
            )
        return entry

    def passed_over(self, kind: Kind, name: str) -> Path | None:
        """A local file with other content than the built-in ``name``, which a shipped file does not see."""
        bare = name.removeprefix("builtin:")
        shipped = _read(kind, bare, builtin_root(), builtin=True)
        local = _read(kind, bare, self.folder, builtin=False)
        return local.path if shipped and local and local.data != shipped.data else None

    def say(self, line: str) -> None:
        """Keep a line for the person, once."""
        if line not in self.notices:
            self.notices.append(line)

    def names(self, kind: Kind) -> list[str]:
        """Every name of a kind that a user could give, local ones first."""
        names: dict[str, None] = {}
        for root in (self.folder, builtin_root()):
            names.update(dict.fromkeys(_stems(root, kind)))
        return list(names)

    def is_builtin(self, kind: Kind, name: str) -> bool:
        entry = self._look(kind, name, from_builtin=False)
        return entry is not None and entry.builtin

    def _places(self, kind: Kind) -> str:
        return f"./{FOLDERS[kind][0]} or the built-ins"

    def _look(self, kind: Kind, name: str, from_builtin: bool) -> Entry | None:
        if name.startswith("builtin:"):
            return _read(kind, name.removeprefix("builtin:"), builtin_root(), builtin=True)
        if from_builtin:
            return _read(kind, name, builtin_root(), builtin=True)
        suffixes = FOLDERS[kind][1]
        path = self.folder / name
        if name.endswith(suffixes) and path.is_file():
            stem = _stem(path.name, suffixes)
            builtin = path.resolve().is_relative_to(builtin_root().resolve() / FOLDERS[kind][0])
            return Entry(kind, stem, path, builtin, read_bytes(path))
        local = None
        if self.folder.resolve() != builtin_root().resolve():
            local = _read(kind, name, self.folder, builtin=False)
        return local or _read(kind, name, builtin_root(), builtin=True)

    def kept_copy(self, kind: Kind, name: str, from_builtin: bool) -> Entry | None:
        """The run folder's copy of a file. A user's own never stands in for a shipped one; where a name is free to be
        either, it goes before it."""
        bare = name.removeprefix("builtin:")
        shipped = from_builtin or bare != name
        copies = [
            copy for copy in self.kept if (copy.kind, copy.name) == (kind, bare) and (copy.builtin or not shipped)
        ]
        return min(copies, key=lambda copy: copy.builtin, default=None)

    def _copy(self, kind: Kind, name: str, from_builtin: bool) -> Entry | None:
        """The run folder's copy of a file that is gone."""
        copy = self.kept_copy(kind, name, from_builtin)
        if copy:
            self.say(f'{kind} "{copy.name}": the file is gone. The run goes on with its copy, {copy.path}.')
        return copy

    def _say_shadowing(self, kind: Kind, name: str, entry: Entry) -> None:
        shipped = None if entry.builtin else _read(kind, name, builtin_root(), builtin=True)
        if shipped and shipped.data != entry.data:
            self.say(f'{kind} "{name}": {entry.path} is used instead of the built-in one (builtin:{name} names that).')


def _stem(filename: str, suffixes: tuple[str, ...]) -> str:
    for suffix in sorted(suffixes, key=len, reverse=True):
        filename = filename.removesuffix(suffix)
    return filename


def _stems(root: Path, kind: Kind) -> list[str]:
    folder, suffixes = FOLDERS[kind]
    base = root / folder
    if not base.is_dir():
        return []
    paths = sorted(path for path in base.rglob("*") if path.is_file() and path.name.endswith(suffixes))
    return [str(path.relative_to(base).parent / _stem(path.name, suffixes)).removeprefix("./") for path in paths]


def _read(kind: Kind, name: str, root: Path, *, builtin: bool) -> Entry | None:
    folder, suffixes = FOLDERS[kind]
    if Path(name).is_absolute() or ".." in Path(name).parts:  # a name of the catalogue stays inside it
        return None
    for suffix in suffixes:
        path = root / folder / f"{name}{suffix}"
        if path.is_file():
            return Entry(kind, name, path, builtin, read_bytes(path))
    return None


def text_of(path: Path, data: bytes) -> str:
    """The text that a file's bytes are. Raises ConfigError."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def yaml_of(text: str, where: str, *, lines: bool = True) -> Any:
    """The value that YAML says. Raises ConfigError for a syntax error or a repeated key, with its line if ``lines``."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark and lines else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}:{line} not valid YAML: {problem}.") from error


def mapping_of(path: Path, text: str) -> dict[str, Any]:
    """The mapping that a YAML file's text holds. Raises ConfigError with the line of a syntax error or a repeated key."""
    value = yaml_of(text, str(path))
    if value is None:
        raise ConfigError(f"{path}: the file is empty.")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(value).__name__}.")
    return value


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; what the operating system says against it becomes one line."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
