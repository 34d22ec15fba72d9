"""A run folder's label source opened again to read what the ledger has: no model is asked, and none but the judges' is
opened. Neither the files of prompts nor the policy need to be there any more, nor any key of an API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.catalogue import FOLDERS, Catalogue, Entry, Kind
from rlaif.checking import identify, kept_files, label_context, open_labels
from rlaif.component import Place, load, parse_options
from rlaif.config import ModelSpec, Pipeline
from rlaif.errors import UserError
from rlaif.labels import LabelSource
from rlaif.models import PROVIDERS, open_model
from rlaif.models.gateway import Gateway
from rlaif.pipeline import Watcher
from rlaif.prompting import project_secret


class WhenUsed(Mapping[str, Any]):
    """Models by role, each opened when it is first looked at."""

    def __init__(self, roles: Mapping[str, ModelSpec], open_role: Callable[[str], Any]) -> None:
        self._roles, self._open = roles, open_role
        self.opened: dict[str, Any] = {}

    def __getitem__(self, role: str) -> Any:
        if role not in self._roles:
            raise KeyError(role)
        if role not in self.opened:
            self.opened[role] = self._open(role)
        return self.opened[role]

    def __contains__(self, role: object) -> bool:
        return role in self._roles

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


class AsKept(Catalogue):
    """Look-up that takes the run folder's own copies before anything else: its files as they were when it was made."""

    def _look(self, kind: Kind, name: str, from_builtin: bool) -> Entry | None:
        suffix = next((end for end in FOLDERS[kind][1] if name.endswith(end)), None)
        known = Path(name).name.removesuffix(suffix) if suffix else name  # one that was named by its path
        return self.kept_copy(kind, known, from_builtin) or super()._look(kind, name, from_builtin)


@dataclass(frozen=True)
class Opened:
    """A label source, the models it uses by role, and the secret behind its fences."""

    labels: LabelSource
    models: dict[str, Any]
    secret: bytes


def open_offline(
    folder: Path,
    pipeline: Pipeline,
    entry: Entry,
    *,
    catalogue: Catalogue,
    gateway: Gateway,
    settings: tuple[str, ...] = (),
    watcher: Watcher | None = None,
) -> Opened:
    """The label source of a run's recipe, fit to be read from ``gateway.ledger``. Raises UserError."""
    watcher = watcher or Watcher()
    where = Place(str(entry.path), settings)
    if pipeline.labels is None:
        raise UserError(f"{folder}: its recipe has no labels, so that no model was asked for any.")
    if pipeline.labels.source == "human":
        raise UserError(f"{folder}: people labelled it: their answers are in files, not in a ledger.")

    def opened(role: str) -> Any:
        place = where.at("models", role)
        model = open_model(keyless(pipeline.models[role], place), place, watcher.notice)
        identify(model, role, watcher)
        return model

    catalogue.kept = kept_files(folder)
    models = WhenUsed(pipeline.models, opened)
    secret = project_secret(gateway.ledger.path.parent)
    context = label_context(pipeline, where, catalogue, gateway, models, secret, watcher)
    return Opened(open_labels(pipeline, context, where), models.opened, secret)


def keyless(spec: ModelSpec, where: Place) -> ModelSpec:
    """The same model with options that need no key of its API, where it has one. Raises ConfigError where they are unsound."""
    provider = load(spec.provider, PROVIDERS, "provider", where.at("provider"))
    without = getattr(provider, "without_keys", None)
    if without is None:
        return spec
    parse_options(provider, spec.options, where.at("options"))
    return spec.model_copy(update={"options": without(spec.options)})
