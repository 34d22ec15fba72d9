"""Find a class by its short name in a package's table, or by ``package.module:Class`` for a user's own.

Tables are plain dictionaries of strings (``"pairwise-text": "rlaif.judging.pairwise_text:PairwiseText"``), so nothing
is imported until it is used. Each class carries its own ``Options`` model; a new component leaves ``config.py`` alone.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from rlaif.errors import ConfigError, RlaifError, UserError, did_you_mean

DOTTED = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


def no_flag_for_a_number(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Raises ValueError for true and false where a number is to stand: pydantic would take them for 1 and 0."""
    if isinstance(value, bool):
        asked = cls.model_fields[str(info.field_name)].annotation
        kinds = {asked, *get_args(asked)}
        if kinds & {int, float} and bool not in kinds:
            raise ValueError("expected a number")
    return value


class Options(BaseModel):
    """Base of every component's options: frozen; unknown keys are refused, and numbers that are none or without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _flags = field_validator("*", mode="before")(no_flag_for_a_number)

    @classmethod
    def hint(cls, key: str) -> str:
        """A sentence for someone who looked for ``key`` here, where it is known to stand elsewhere; else ""."""
        return ""


@dataclass(frozen=True)
class Place:
    """A key of a recipe, as messages name it: the ``--set`` that wrote it, else the file and the key."""

    file: str
    settings: tuple[str, ...] = ()  # key=value, as given
    key: tuple[str, ...] = ()

    def at(self, *key: str | int) -> Place:
        """The place of a key below this one."""
        return replace(self, key=(*self.key, *map(str, key)))

    def __str__(self) -> str:
        if setting := self.setting():
            return f"--set {setting}"
        return f"{self.file}: {'.'.join(self.key)}" if self.key else self.file

    def setting(self) -> str | None:
        """The last setting that wrote the whole of what stands here."""
        return self._last(lambda path, value: bool(self.key) and path == self.key[: len(path)])

    def naming(self, name: str) -> str:
        """The last setting whose value holds ``name``, else this place."""
        setting = self._last(lambda path, value: _stands_in(name, value))
        return f"--set {setting}" if setting else str(self)

    def of_fault(self, key: Sequence[str | int], kind: str, message: str) -> str:
        """The setting to blame for a fault at ``key`` below this place, else this place.

        That is the last one that wrote there, or below, or beside a key that is missing; where the whole was found
        faulty, the last one whose key the message names.
        """
        whole = (*self.key, *map(str, key))

        def wrote(path: tuple[str, ...], value: str) -> bool:
            if not whole:
                return _stands_in(".".join(path), message)
            shorter = min(len(path), len(whole))
            return path[:shorter] == whole[:shorter] or (kind == "missing" and path[:-1] == whole[:-1])

        setting = self._last(wrote)
        return f"--set {setting}" if setting else str(self)

    def _last(self, fits: Callable[[tuple[str, ...], str], bool]) -> str | None:
        for setting in reversed(self.settings):
            path, _, value = setting.partition("=")
            if fits(tuple(path.split(".")), value):
                return setting
        return None


def _stands_in(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", text) is not None


def load(name: str, table: Mapping[str, str], kind: str, where: str | Place) -> Any:
    """The class or function called ``name``. Raises ConfigError, naming ``where``, when there is none."""
    path = table.get(name, name)
    if not DOTTED.fullmatch(path):
        raise ConfigError(
            f'{where}: {kind} "{name}" is not known.{did_you_mean(name, table)} '
            "A class of your own is named package.module:Class."
        )
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:  # a user's module beside their pipeline, as `python -m` would find it
        sys.path.append(os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'{where}: {kind} "{name}": module "{error.name}" was not found. Install it or run where it can be imported.'
        ) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            own = [name for name, value in vars(target).items() if getattr(value, "__module__", None) == module_name]
            raise ConfigError(f'{where}: {kind} "{name}": "{module_name}" has no "{part}".{did_you_mean(part, own)}')
        target = getattr(target, part)
    return target


class users_code:
    """Where a user's own class or function is at work: what it raises becomes one line that says so.

    What is raised on purpose passes through, and this package's own components keep their traceback.
    """

    __slots__ = ("_component", "_doing")

    def __init__(self, component: Any, doing: str | Callable[[], str]) -> None:
        self._component, self._doing = component, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, RlaifError):
            return
        defined = _definition(self._component)
        if not code_hash(defined):
            return
        told = self._doing if isinstance(self._doing, str) else self._doing()
        raise UserError(
            f"{defined.__module__}:{defined.__qualname__}: {told}: {_in_words(error)}{_line_in(defined, error)}. "
            "Mend it and run again: finished work is kept."
        ) from error


def _in_words(error: Exception) -> str:
    """What an error says, on one line; of a record made wrongly, which and why."""
    if isinstance(error, ValidationError):
        return f"{error.title}: {'; '.join(item['msg'].removeprefix('Value error, ') for item in error.errors())}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _line_in(kind: Any, error: Exception) -> str:
    """Where in the file that defines ``kind`` the error came up, if it passed through there."""
    file = inspect.getsourcefile(kind)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(str(file)).name} line {lines[-1]})" if lines else ""


def construct(kind: Any, form: str, *arguments: Any, **named: Any) -> Any:
    """``kind`` built with what its sort of component is given: ``form`` says it in words, for a class that takes else."""
    with users_code(kind, f"built with {form}"):
        return kind(*arguments, **named)


def _definition(component: Any) -> Any:
    return component if inspect.isroutine(component) or isinstance(component, type) else type(component)


def code_hash(component: Any) -> str:
    """SHA-256 of the file that defines a user's class, function or object; "" for this package's own.

    It enters the signature of whatever the code decides, so that an edit is not answered by an old result.
    """
    kind = _definition(component)
    module = inspect.getmodule(kind)
    if module is None or module.__name__.partition(".")[0] == "rlaif":
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return module.__name__


def own_code(settings: Any) -> dict[str, str]:
    """What settings name of a user's own, ``package.module:Class``, with the hash of each one's file as ``code_hash`` has it. Of what
    was loaded: other words with a colon are none."""
    if isinstance(settings, str):
        module, _, attribute = settings.partition(":")
        if not DOTTED.fullmatch(settings) or module not in sys.modules:
            return {}
        target: Any = sys.modules[module]
        for part in attribute.split("."):
            target = getattr(target, part, None)
        return {settings: sha256} if target is not None and (sha256 := code_hash(target)) else {}
    parts = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ()
    return {name: sha256 for part in parts for name, sha256 in own_code(part).items()}


def parse_options(component: Any, values: Mapping[str, Any], where: str | Place) -> Any:
    """``values`` as the component's own ``Options``; a component without any accepts none."""
    model: type[BaseModel] = getattr(component, "Options", Options)
    return parse_model(model, values, where)


def parse_model(model: type[BaseModel], values: Any, where: str | Place) -> Any:
    """Validate ``values`` against a pydantic model; every fault becomes part of one clear ConfigError line."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, found {type(values).__name__}.")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults = error.errors()
        places = [item["loc"] for item in faults]
        # a list whose item is faulty also counts as too short: the item is what to mend
        own = [item for item in faults if not any(_within(place, item["loc"]) for place in places)]
        lines: dict[str, list[str]] = {}
        for item in own:
            blamed = where.of_fault(item["loc"], item["type"], item["msg"]) if isinstance(where, Place) else where
            lines.setdefault(blamed, []).append(_explain(model, item))
        raise ConfigError("; ".join(f"{blamed}: {'; '.join(found)}" for blamed, found in lines.items())) from error


WANTED = {  # by pydantic's name of a fault: what was expected, in words of ours
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dataclass_type", "dict_type", "mapping_type"),
        "must be settings, key: value",
    ),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be a text",
}


def _within(place: tuple[Any, ...], whole: tuple[Any, ...]) -> bool:
    return len(place) > len(whole) > 0 and place[: len(whole)] == whole


def _explain(model: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"] if "[" not in str(part)]  # without the names of a choice's forms
    name = ".".join(path)
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # of a model, of a dataclass
        hint = getattr(model, "hint", lambda key: "")(name)
        known = did_you_mean(path[-1], _fields_at(model, path[:-1]), likeness=0.75 if hint else 0.6)
        return f'unknown key "{name}".{f" {hint}" if hint and "Did you mean" not in known else known}'
    if item["type"] == "missing":
        return f'"{name}" is missing'
    message = WANTED.get(item["type"]) or item["msg"].removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )
    found = repr(item["input"])
    return f'"{name}": {message} (found {found if len(found) <= 80 else found[:77] + "..."})' if name else message


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the model that ``path`` leads to, as far as annotations tell.

    What is not a field is a key of a mapping or a place in a list, and leads to the model of its items.
    """
    current: Any = model
    for part in path:
        fields = _fields(current)
        if part not in fields:
            continue
        annotation = fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and _fields(c)), None)
    return list(_fields(current))


def _fields(model: Any) -> dict[str, Any]:
    """The fields of a pydantic model or dataclass; none of anything else."""
    found: dict[str, Any] = getattr(model, "__pydantic_fields__", {})
    return found
