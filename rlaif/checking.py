"""Recipes to roads: everything a pipeline refers to is found, typed and readable before a model is asked anything.

Also the check of a single file, and recipes made of a command's flags.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rlaif.accounts import reward_stages
from rlaif.calibration import PANEL, Calibration
from rlaif.catalogue import FOLDERS, KEPT, Catalogue, Entry, Kind, read_bytes
from rlaif.certification.gate import need_card
from rlaif.component import Place, construct, load, parse_model, parse_options
from rlaif.config import (
    NEEDS_LABELS,
    Checklist,
    Constitution,
    JudgeFile,
    Pipeline,
    PromptsSection,
    apply_settings,
    load_pipeline,
    pinned_names,
    typed,
)
from rlaif.conversations import prompt_column
from rlaif.errors import ConfigError, UserError, did_you_mean
from rlaif.evaluate import START, Metric, open_metrics
from rlaif.families import same_family
from rlaif.labels import LabelContext, LabelSource, open_source
from rlaif.labels.judges import JudgeLabels, judges_of
from rlaif.ledger import Ledger
from rlaif.models import BatchModel, Identity, open_model
from rlaif.models.gateway import Gateway
from rlaif.models.prices import Prices, is_paid, need_prices
from rlaif.models.served import ServedPolicy
from rlaif.pairs import authors_of, read_pairs
from rlaif.pipeline import Road, Watcher
from rlaif.policy import METHODS, GoldSpec, PolicyMethod
from rlaif.policy.serving import Serving
from rlaif.progress import Progress
from rlaif.prompting import project_secret
from rlaif.prompts import prompt_rows
from rlaif.rewards import RewardContext, Rewards, open_rewards
from rlaif.rewards.judged import JudgedReward
from rlaif.rewards.trained import TrainedReward, trained_rewards
from rlaif.rewards.watched import Gold
from rlaif.rows import need_source
from rlaif.selection import open_selector
from rlaif.store import RECIPE, read_manifest

NAMED = 200  # rows of a file of pairs in which it is looked who wrote


def check_file(name: str, settings: Sequence[str] = ()) -> str:
    """One line saying that the file is sound. Raises UserError otherwise."""
    catalogue = Catalogue()
    kind, entry = _kind_of(catalogue, name)
    if kind == "pipeline":
        with tempfile.TemporaryDirectory() as nowhere:
            road = open_road(name, [*settings, f"ledger={nowhere}/ledger.sqlite"], out=Path(nowhere))
            road.gateway.ledger.close()
        return f"{entry.path}: sound; {len(road.models)} models, {len(road.catalogue.used)} files."
    if kind == "constitution":
        constitution: Constitution = parse_model(Constitution, entry.yaml(), str(entry.path))
        return f"{entry.path}: sound; {len(constitution.principles)} principles."
    if kind == "checklist":
        checklist: Checklist = parse_model(Checklist, entry.yaml(), str(entry.path))
        return f"{entry.path}: sound; {len(checklist.items)} items."
    _check_judge(catalogue, entry)
    return f"{entry.path}: sound."


def _kind_of(catalogue: Catalogue, name: str) -> tuple[Kind, Entry]:
    kinds: tuple[Kind, ...] = ("pipeline", "judge", "constitution", "checklist")
    path = Path(name)
    if path.suffix == ".yaml" and path.is_file():
        kind = _kind_by_keys(path)
        return kind, catalogue.find(kind, name, where="check")
    for kind in kinds:
        if name.removeprefix("builtin:") in catalogue.names(kind):
            return kind, catalogue.find(kind, name, where="check")
    if path.suffix in (".yaml", ".yml") and not path.exists():
        raise ConfigError(f'check: "{name}": no such file.')
    known = [each for kind in kinds for each in catalogue.names(kind)]
    raise ConfigError(
        f'check: "{name}" is neither a .yaml file nor a pipeline, judge, constitution or checklist.{did_you_mean(name, known)}'
    )


def _kind_by_keys(path: Path) -> Kind:
    for kind, (folder, suffixes) in FOLDERS.items():
        if path.resolve().parent.as_posix().endswith(folder) and path.name.endswith(suffixes):
            return kind
    data = Entry("pipeline", path.stem, path, False, path.read_bytes()).yaml()
    named: dict[str, Kind] = {"principles": "constitution", "protocol": "judge", "items": "checklist"}
    return next((kind for key, kind in named.items() if key in data), "pipeline")


def _check_judge(catalogue: Catalogue, entry: Entry) -> None:
    """A judge without a model: its protocol, options, rubric and template."""
    from rlaif.judging import PROTOCOLS, ProtocolContext

    where = str(entry.path)
    file: JudgeFile = parse_model(JudgeFile, entry.yaml(), where)
    if file.rubric:
        catalogue.find("rubric", file.rubric, where=where, from_builtin=entry.builtin)
    kind = load(file.protocol, PROTOCOLS, "protocol", where)
    options = parse_options(kind, file.options, f"{where}: options")
    construct(kind, "(options, context)", options, ProtocolContext(where, catalogue, entry.builtin, "", file.sampling))


def recipe_of(name: str, data: dict[str, Any], settings: Sequence[str]) -> tuple[Pipeline, Entry]:
    """A recipe written down from flags, as if it had been a file."""
    data = apply_settings({key: value for key, value in data.items() if value is not None}, settings)
    pipeline = typed(data, Place(f"rlaif {name}", tuple(settings)))
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
    return pipeline, Entry("pipeline", name, Path(f"rlaif {name}"), False, text)


def recipe_of_folder(name: str, folder: Path, data: dict[str, Any], settings: Sequence[str]) -> tuple[Pipeline, Entry]:
    """The recipe a run folder was made with, and ``data`` laid over it."""
    kept = folder / RECIPE
    if not kept.is_file():
        raise UserError(f"{folder}: not a run folder (it has no {RECIPE}).")
    base: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return recipe_of(name, laid_over(base, data), settings)


def laid_over(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """``data`` over ``base``: mappings are merged, lists gain what they lack, ``True`` asks for a section to be there.

    Labels are replaced whole: another source has other options.
    """
    whole = dict(base)
    for key, value in data.items():
        old = base.get(key)
        if value is None or (value is True and old is not None):
            continue
        if isinstance(value, dict) and isinstance(old, dict) and key != "labels":
            value = {**old, **value}
        elif isinstance(value, list) and isinstance(old, list):
            names = {item["name"] for item in old}
            value = [*old, *(item for item in value if item not in names)]
        whole[key] = value
    return whole


def limited(pipeline: Pipeline, limit: int | None) -> Pipeline:
    """The recipe on the first ``limit`` rows of its input, and of the prompts that it measures on."""
    for field in ("prompts", "pairs"):
        section = getattr(pipeline, field)
        if section and limit is not None:
            pipeline = pipeline.model_copy(update={field: section.model_copy(update={"limit": limit})})
    evaluation = pipeline.evaluation
    if evaluation and evaluation.source and limit is not None:
        source = evaluation.source.model_copy(update={"limit": limit})
        pipeline = pipeline.model_copy(update={"evaluation": evaluation.model_copy(update={"source": source})})
    return pipeline


# --- a recipe made ready to run ----------------------------------------------------------------------------------------


def open_road(
    name: str,
    settings: Sequence[str] = (),
    *,
    out: Path,
    folder: Path | None = None,
    watcher: Watcher | None = None,
) -> Road:
    """A pipeline by name or path with ``--set`` applied, as a Road. Raises UserError before anything is asked."""
    catalogue = Catalogue(folder or Path())
    entry = catalogue.find("pipeline", name, where="rlaif")
    return build(load_pipeline(entry, settings), entry, catalogue, out=out, settings=settings, watcher=watcher)


def build(
    pipeline: Pipeline,
    entry: Entry,
    catalogue: Catalogue,
    *,
    out: Path,
    settings: Sequence[str] = (),
    watcher: Watcher | None = None,
) -> Road:
    """A typed pipeline as a Road: components found, options parsed, files there, models readable."""
    watcher = watcher or Watcher()
    where = Place(str(entry.path), tuple(settings))
    catalogue.kept = kept_files(out)
    prompts = _named_set(pipeline.prompts, catalogue, where.at("prompts"))
    measured = _named_set(
        pipeline.evaluation.source if pipeline.evaluation else None, catalogue, where.at("evaluation", "source")
    )
    models = {
        role: open_model(spec, where.at("models", role), watcher.notice) for role, spec in pipeline.models.items()
    }
    _check_prompts(prompts, "prompts", where)
    _check_prompts(measured, "evaluation.source", where)
    if pipeline.pairs:
        need_source(pipeline.pairs.source, where.at("pairs", "source"))
        next(iter(read_pairs(pipeline.pairs.source, pipeline.pairs.split)), None)
    for role, model in models.items():
        identify(model, role, watcher)
    _check_trainable(pipeline, models, where)
    prices = prices_of(pipeline, models, catalogue, where)
    samples = pipeline.responses.samples * len(pipeline.responses.models) if pipeline.responses else 2
    selector = open_selector(pipeline.comparisons, samples, where)
    ledger_path = catalogue.folder / pipeline.ledger
    secret = project_secret(ledger_path.parent)
    gateway = Gateway(Ledger(ledger_path), budget_usd=pipeline.budget_usd, prices=prices.of, notice=watcher.notice)
    context = label_context(pipeline, where, catalogue, gateway, models, secret, watcher)
    labels = open_labels(pipeline, context, where) if pipeline.labels else None
    card = need_card(pipeline.gate, labels, pipeline.preferences, where.at("gate")) if pipeline.gate else None
    _say_calibrated_by_others(pipeline, labels, watcher, where.at("preferences", "calibration"))
    _say_one_family(pipeline, labels, models, watcher)
    reward_options: Any = None
    if pipeline.reward_model:
        from rlaif.reward import RewardOptions

        reward_options = parse_model(RewardOptions, pipeline.reward_model.options, where.at("reward_model", "options"))
    methods = _open_methods(pipeline, where)
    if pipeline.reward_model:
        _check_targets(reward_options, models[pipeline.reward_model.base], where.at("reward_model", "options"))
    for number, component in enumerate(pipeline.policies):
        _check_targets(methods[component.policy].options, models["policy"], where.at("policies", number, "options"))
    if pipeline.report_to:
        from rlaif.training.trackers import need_trackers

        need_trackers(pipeline.report_to, str(where.at("report_to")))
    rewards = _open_rewards(pipeline, methods, context, out, where)
    golds = _open_golds(pipeline, methods, rewards, context, where)
    _say_gold_alike(golds, rewards, labels, watcher)
    serving = _open_serving(pipeline, methods, models, gateway, where)
    judges, metrics = _open_evaluation(pipeline, context, where)
    for number, component in enumerate(pipeline.policies):
        _check_room(methods[component.policy].options, models["policy"], where.at("policies", number, "options"))
    if entry.builtin:
        _say_passed_over(pipeline, entry.name, catalogue, settings)
    for line in catalogue.notices:
        watcher.notice(line)
    return Road(
        pipeline, entry, tuple(settings), catalogue, out, watcher, gateway, secret, models, prompts, selector, labels,
        reward_options, methods, rewards, golds, serving, measured, judges, metrics, card,
    )  # fmt: skip


def _say_calibrated_by_others(pipeline: Pipeline, labels: LabelSource | None, watcher: Watcher, where: Place) -> None:
    """Where the probabilities are not those of the labellers that the recipe's calibration was fitted on. Raises ConfigError
    for weights of other judges: they would weigh nothing."""
    calibration = pipeline.preferences.calibration
    if not isinstance(calibration, Calibration):
        return
    ours = sorted({judge.labeller for judge in judges_of(labels)})
    if calibration.map.kind == PANEL and set(ours) != set(calibration.map.weights):
        raise ConfigError(
            f"{where}: its weights are of {', '.join(sorted(calibration.map.weights))}, and these labels are by "
            f"{', '.join(ours) or 'people'}: fit them again (`rlaif calibrate RUN --kind panel`)."
        )
    if ours != sorted(calibration.labellers):
        theirs, these = ", ".join(calibration.labellers), ", ".join(ours) or "people"
        watcher.notice(f"Careful: preferences.calibration was fitted on {theirs}, and these labels are by {these}.")


def _say_one_family(
    pipeline: Pipeline, labels: LabelSource | None, models: Mapping[str, Any], watcher: Watcher
) -> None:
    """Where a judge and the model whose replies it judges are of one family."""
    asked = [judge.model.identity for judge in judges_of(labels) if judge.model]
    roles = pipeline.responses.models if pipeline.responses else ()
    written = {f"models.{role}, {models[role].identity.name}": models[role].identity for role in roles}
    pairs = [f"{one.name} and {said}" for one in asked for said, other in written.items() if _alike(one, other)]
    pairs += [f"{one.name} and {name}" for one in asked for name in _authors(pipeline) if same_family(one.name, name)]
    for which in dict.fromkeys(pairs):
        watcher.notice(
            f"Careful: {which}, whose replies it judges, are of one family: judges prefer replies of their own. Judge with "
            "another family too, or measure it (rlaif certify, with model_a and model_b in people's pairs)."
        )


def _alike(one: Identity, other: Identity) -> bool:
    """Whether two models are one, or of one family."""
    return (one.sha256 is not None and one.sha256 == other.sha256) or same_family(one.name, other.name)


def _authors(pipeline: Pipeline) -> list[str]:
    """The models that a file of pairs names among its first rows."""
    section = pipeline.pairs
    rows = itertools.islice(read_pairs(section.source, section.split), NAMED) if section else ()
    found = (authors_of(row.comparison) for row in rows if not isinstance(row.comparison, str))
    return list(dict.fromkeys(name for both in found for name in both if name))


def _say_passed_over(pipeline: Pipeline, name: str, catalogue: Catalogue, settings: Sequence[str]) -> None:
    """Local files that a shipped pipeline's own names do not reach, and what would use them."""
    found: dict[tuple[Kind, str], list[str]] = {}
    for kind, key, reference in pinned_names(pipeline.model_dump(mode="json")):
        if not any(reference in setting for setting in settings):  # who sets builtin:NAME means it
            before, _, bare = reference.partition("builtin:")
            found.setdefault((kind, bare), []).append(f"--set {key}={before}{bare}")
    for (kind, bare), remedies in found.items():
        if local := catalogue.passed_over(kind, bare):
            remedy = " ".join(remedies)
            catalogue.say(
                f'{kind} "{bare}": {local} is passed over, for the shipped pipeline {name} names the built-in one. To use '
                f"yours: {remedy}, or a copy of the pipeline (`rlaif copy {name}`)."
            )


def prices_of(pipeline: Pipeline, models: dict[str, Any], catalogue: Catalogue, where: Place) -> Prices:
    """What the models cost; read only where one of them may cost something."""
    prices = Prices.load(catalogue.folder) if any(map(is_paid, models.values())) else Prices(())
    if pipeline.budget_usd is not None:
        need_prices(models, prices, where)
    for line in prices.say(models):
        catalogue.say(line)
    return prices


def _named_set(section: PromptsSection | None, catalogue: Catalogue, where: Place) -> PromptsSection | None:
    """The section as it is read: with ``set:name`` as the path of that set."""
    if section is None or not section.source.startswith("set:"):
        return section
    found = catalogue.find("set", section.source.removeprefix("set:"), where=str(where))
    return section.model_copy(update={"source": str(found.path)})


def kept_files(out: Path) -> list[Entry]:
    """The files that a run folder which is there already was made with, as it keeps them. Raises UserError."""
    manifest = out / "manifest.json"
    found: list[Entry] = []
    for file in read_manifest(manifest).get("files", []) if manifest.exists() else []:
        kind, name = file["kind"], file["name"]
        for stem in (name, f"{name}@{file['sha256'][:8]}"):
            for suffix in FOLDERS[kind][1] if kind in KEPT else ():
                path = out / "config" / f"{kind}s" / f"{stem}{suffix}"
                entry = Entry(kind, name, path, file["builtin"], read_bytes(path)) if path.is_file() else None
                if entry and entry.sha256 == file["sha256"]:
                    found.append(entry)
    return found


def identify(model: Any, role: str, watcher: Watcher) -> None:
    """Have a model that reads large files for its identity do so now, and tell of it."""
    if not hasattr(model, "identify"):
        return
    stage = f"reading models.{role}, MB"
    model.identify(lambda read, total: watcher.listen(Progress(stage, read // 10**6, total // 10**6)))
    watcher.listen(Progress(stage, 0, None, finished=True))


def _check_prompts(section: PromptsSection | None, key: str, where: Place) -> None:
    """The first row of a file of prompts is read, so that a wrong file is found before a model is asked."""
    if section:
        need_source(section.source, where.at(*key.split("."), "source"))
        for place, row in prompt_rows(section):
            prompt_column(row, section.column, place, f"{key}.column")
            break


def _check_trainable(pipeline: Pipeline, models: dict[str, Any], where: Place) -> None:
    roles = [pipeline.reward_model.base] if pipeline.reward_model else []
    roles += ["policy"] if pipeline.policies or pipeline.evaluation else []
    for role in roles:
        if not isinstance(models[role], BatchModel) or not hasattr(models[role], "folder"):
            raise ConfigError(
                f"{where.at('models', role)}: training needs a local model folder, not a {models[role].identity.name}."
            )
    if pipeline.reward_model:
        base = models[pipeline.reward_model.base]
        if kind := base.without_classifier():
            raise ConfigError(
                f"{where.at('models', pipeline.reward_model.base)}: transformers has no sequence classifier of type {kind}, "
                "which a reward model is. Base the reward model on another folder (models.NAME and reward_model.base)."
            )


def _check_room(options: Any, start: Any, where: Place) -> None:
    """Raises ConfigError where what a policy may say is as long as all that it reads, and no prompt has room."""
    asked = getattr(options, "max_new_tokens", None)
    if asked is not None and asked >= start.context:
        raise ConfigError(
            f"{where.at('max_new_tokens')}: {asked:,} new tokens leave no room for a prompt: {start.name} reads {start.context:,} in all."
        )


def _check_targets(options: Any, base: Any, where: Place) -> None:
    """Raises ConfigError where adapters are to go into layers that the model has not."""
    lora = getattr(options, "lora", None)
    if lora is None or lora.targets == "all-linear":
        return
    names = base.linear_layers()
    for target in lora.targets if names else ():
        if not any(name == target or name.endswith(f".{target}") for name in names):
            near = did_you_mean(target, (name.rsplit(".", 1)[-1] for name in names))
            raise ConfigError(
                f'{where.at("lora", "targets")}: no linear layer of {base.name} is called "{target}".{near}'
            )


def label_context(
    pipeline: Pipeline,
    where: Place,
    catalogue: Catalogue,
    gateway: Gateway,
    models: Mapping[str, Any],
    secret: bytes,
    watcher: Watcher,
) -> LabelContext:
    """What a label source of this recipe is offered."""
    return LabelContext(
        where=where,
        catalogue=catalogue,
        gateway=gateway,
        models=models,
        constitution=pipeline.constitution,
        pairs=pipeline.pairs.source if pipeline.pairs else None,
        split=pipeline.pairs.split if pipeline.pairs else "train",
        limit=next((section.limit for section in (pipeline.pairs, pipeline.prompts) if section), None),
        secret=secret,
        seed=pipeline.seed,
        size=_together(pipeline),
        notice=watcher.notice,
    )


def _together(pipeline: Pipeline) -> int:
    """How many responses a comparison has, at most."""
    if pipeline.responses is None or pipeline.comparisons.select != "list":
        return 2
    return pipeline.responses.samples * len(pipeline.responses.models)


def open_labels(pipeline: Pipeline, context: LabelContext, where: Place) -> LabelSource:
    assert pipeline.labels
    return open_source(pipeline.labels.source, pipeline.labels.options, context, where.at("labels"))


def _open_methods(pipeline: Pipeline, where: Place) -> dict[str, PolicyMethod]:
    methods: dict[str, Any] = {}
    for number, component in enumerate(pipeline.policies):
        place = where.at("policies", number)
        name = component.policy
        if name in methods:
            raise ConfigError(f'{place}: "{name}" is named twice: call one otherwise (called: NAME).')
        if name == START:
            raise ConfigError(
                f'{place}: "{name}" is what policies are measured beside: call this one otherwise (called: NAME).'
            )
        kind = load(component.name, METHODS, "policy method", place.at("name"))
        options = parse_options(kind, component.options, place.at("options"))
        methods[name] = construct(kind, "(options, where)", options, str(place.at("options")))
        needed = ("options", "needs_reward", "writes_weights", "respond", "kl_bound")
        if lacking := [part for part in needed if not hasattr(methods[name], part)]:
            raise ConfigError(
                f'{place}: policy method "{component.name}" has no {", ".join(lacking)}: give it to the class.'
            )
        if methods[name].needs_reward and not pipeline.reward_model:
            raise ConfigError(f'{place}: "{component.name}" needs a reward model: set reward_model.')
        if getattr(methods[name], "needs_labels", True) and not pipeline.labels:
            raise ConfigError(f"{place}: {NEEDS_LABELS}.")
    return methods


def _open_golds(
    pipeline: Pipeline,
    methods: Mapping[str, PolicyMethod],
    rewards: Mapping[str, Rewards],
    context: LabelContext,
    where: Place,
) -> dict[str, Gold]:
    """The judges that look on while a method learns from rewards, by its name. Raises ConfigError for one that is rewarding."""
    names = [section.policy for section in pipeline.policies]
    found: dict[str, Gold] = {}
    for name, method in methods.items():
        spec: GoldSpec | None = getattr(method, "watch", None)
        if spec is None:
            continue
        gold = Gold(spec, context)
        judged = [part.source.judge for part in rewards[name].parts if isinstance(part.source, JudgedReward)]
        if any(judge.entry.sha256 == own.entry.sha256 for judge in judged for own in gold.labels.judges):
            raise ConfigError(
                f"{where.at('policies', names.index(name), 'options', 'watch')}: the judge {spec.judge} is part of the reward: "
                "one that looks on must be another, best of another family of models."
            )
        if not pipeline.held_out:
            raise ConfigError(
                f"{where.at('held_out')}: a judge looks on at {name} on held-out prompts, and held_out is 0."
            )
        found[name] = gold
    return found


def _say_gold_alike(
    golds: Mapping[str, Gold], rewards: Mapping[str, Rewards], labels: LabelSource | None, watcher: Watcher
) -> None:
    """Where a judge that looks on asks the model, or one of the family, of a judge that rewards or whose labels do."""
    taught = judges_of(labels)
    for name, gold in golds.items():
        parts = [part.source for part in rewards[name].parts]
        rewarding = [source.judge for source in parts if isinstance(source, JudgedReward)]
        rewarding += taught if any(isinstance(source, TrainedReward) for source in parts) else []
        for one, other in itertools.product(gold.labels.judges, rewarding):
            if one.model and other.model and _alike(one.model.identity, other.model.identity):
                watcher.notice(
                    f"Careful: {name}: the judge {one.entry.name} looks on by {one.model.identity.name}, and the reward is by "
                    f"{other.model.identity.name} ({other.entry.name}): what games one may game the other. Take another family of models."
                )


def _open_serving(
    pipeline: Pipeline, methods: Mapping[str, PolicyMethod], models: Mapping[str, Any], gateway: Gateway, where: Place
) -> dict[str, Serving]:
    """The servers that sample from a policy while it is tuned, by its name."""
    names = [section.policy for section in pipeline.policies]
    found: dict[str, Serving] = {}
    for name, method in methods.items():
        role = getattr(method, "sampler", None)
        if role is None:
            continue
        place = where.at("policies", names.index(name), "options", "sampler")
        if role not in models:
            raise ConfigError(f'{place}: no model "{role}" under models.{did_you_mean(role, list(models))}')
        if getattr(models["policy"], "adapter", None):
            raise ConfigError(
                f"{place}: the server loads the policy's adapters onto its base, and models.policy has the adapter "
                f"{models['policy'].adapter} of its own. What would do: a folder in which that is merged, for both."
            )
        found[name] = Serving(ServedPolicy.of(models[role], str(place)), gateway)
    return found


def _open_rewards(
    pipeline: Pipeline, methods: Mapping[str, PolicyMethod], context: LabelContext, out: Path, where: Place
) -> dict[str, Rewards]:
    """What each method that learns from rewards is given, by its name."""
    loads = None
    if pipeline.reward_model:
        folders = [out / stage for stage in reward_stages(pipeline)]
        loads = partial(trained_rewards, folders, context.models[pipeline.reward_model.base].options, context.notice)
    names = [section.policy for section in pipeline.policies]
    found: dict[str, Rewards] = {}
    for name, method in methods.items():
        if not hasattr(method, "rewards"):
            continue
        place = where.at("policies", names.index(name), "options")
        members = pipeline.reward_model.members if pipeline.reward_model else 1
        found[name] = open_rewards(method.rewards, RewardContext(place.at("rewards"), context, loads, members))
        alone = [part.name for part in found[name].parts if getattr(part.source, "compares", False)]
        if alone and getattr(method.options, "samples", 2) < 2:
            raise ConfigError(
                f"{place.at('samples')}: {alone[0]} compares the responses to a prompt, and there is one: set samples to 2 or more, "
                "or take a judge that scores."
            )
    return found


def _open_evaluation(
    pipeline: Pipeline, context: LabelContext, where: Place
) -> tuple[LabelSource | None, list[Metric]]:
    section = pipeline.evaluation
    if section is None:
        return None, []
    judges: LabelSource | None = None
    if section.judges:
        named = replace(context, constitution=section.constitution or pipeline.constitution)
        judges = JudgeLabels(JudgeLabels.Options(judges=section.judges, principles="average"), named)
    return judges, open_metrics(section.metrics, str(where.at("evaluation", "metrics")))


def default_out(name: str) -> Path:
    """``runs/NAME`` for a pipeline's name."""
    return Path("runs") / Path(name).name.removesuffix(".yaml")
