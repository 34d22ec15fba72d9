"""What people write: recipes, judges, constitutions, ``--set``; names and where they lead; a user's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlaif.catalogue import FOLDERS, Catalogue, Entry, Kind, builtin_root
from rlaif.checking import build, check_file, open_road
from rlaif.component import Place, parse_model
from rlaif.config import Constitution, apply_settings, load_constitution, load_pipeline
from rlaif.errors import ConfigError, UserError
from rlaif.labels.judges import open_judge
from rlaif.pipeline import Watcher
from rlaif.prompting import Template
from rlaif.study.recipe import check_study
from tests.tiny import write_jsonl

PAIR = {"prompt": "How do I boil an egg?", "chosen": "Ten minutes in boiling water.", "rejected": "No."}


@pytest.fixture
def pairs(working_folder: Path) -> Path:
    return write_jsonl(working_folder / "pairs.jsonl", [PAIR])


def entry(text: str | bytes, name: str = "recipe", *, kind: Kind = "pipeline", builtin: bool = False) -> Entry:
    data = text if isinstance(text, bytes) else text.encode()
    return Entry(kind, name, Path(f"{name}.yaml"), builtin, data)


def complaint(text: str | bytes, *settings: str) -> str:
    """What a person reads about a faulty recipe."""
    with pytest.raises(ConfigError) as error:
        load_pipeline(entry(text), settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def wrote(path: str, text: str) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


# --- recipes ----------------------------------------------------------------------------------------------------------

FAULTS = {
    "unknown key": ("pairs: x\nlables: human", 'recipe.yaml: unknown key "lables". Did you mean "labels"?'),
    "unknown key in a section": (
        "pairs: x\nlabels: human\npreferences: {minimum_margn: 0.1}",
        'recipe.yaml: unknown key "preferences.minimum_margn". Did you mean "minimum_margin"?',
    ),
    "unknown key two sections down": (
        "prompts: x\nmodels: {policy: y}\nresponses: {sampling: {temprature: 1}}",
        'recipe.yaml: unknown key "responses.sampling.temprature". Did you mean "temperature"?',
    ),
    "unknown key of a named model": (
        "pairs: x\nmodels: {policy: {modle: y, model: z}}",
        'recipe.yaml: unknown key "models.policy.modle". Did you mean "model"?',
    ),
    "unknown key of a list's item": (
        "pairs: x\nlabels: human\nmodels: {policy: y}\npolicies: [{name: dpo, optoins: {}}]",
        'recipe.yaml: unknown key "policies.0.optoins". Did you mean "options"?',
    ),
    "unknown key like no other": (
        "pairs: {source: x, zzz: 1}",
        'recipe.yaml: unknown key "pairs.zzz". Known: limit, source, split.',
    ),
    "two faults in one line": (
        "pairs: x\nlables: human\nsed: 1",
        'recipe.yaml: unknown key "lables". Did you mean "labels"?; unknown key "sed". Did you mean "seed"?',
    ),
    "wrong type": (
        "pairs: x\nseed: soon",
        'recipe.yaml: "seed": must be a whole number (found \'soon\')',
    ),
    "a flag for a number": ("pairs: x\nseed: true", 'recipe.yaml: "seed": expected a number (found True)'),
    "out of range": (
        "pairs: x\nheld_out: 1.5",
        'recipe.yaml: "held_out": must be less than 1 (found 1.5)',
    ),
    "a list for a mapping": (
        "pairs: x\nmodels: [a, b]",
        "recipe.yaml: \"models\": must be settings, key: value (found ['a', 'b'])",
    ),
    "missing key": ("pairs: {limit: 3}", 'recipe.yaml: "pairs.source" is missing'),
    "clamp not symmetric": (
        "pairs: x\npreferences: {clamp: [0.2, 0.6]}",
        'recipe.yaml: "preferences.clamp": clamp is [q, 1 - q] with q between 0 and 0.5 (found [0.2, 0.6])',
    ),
    "a key that is not text": ("pairs: x\n1: y", 'recipe.yaml: "1": Keys should be strings (found 1)'),
    "neither prompts nor pairs": ("seed: 1", "recipe.yaml: needs --set pairs=FILE"),
    "a sampling recipe without prompts": (
        "responses: {}",
        "recipe.yaml: needs --set prompts=FILE --set models.policy=FOLDER",
    ),
    "pairs and responses": (
        "pairs: x\nmodels: {policy: y}\nresponses: {}",
        'recipe.yaml: "pairs" brings its own responses: leave out "responses"',
    ),
    "labels without responses": (
        "prompts: x\nlabels: human",
        'recipe.yaml: "labels" needs responses to compare: set "responses" or "pairs"',
    ),
    "training without labels": (
        "pairs: x\nmodels: {policy: y}\nreward_model: true",
        'recipe.yaml: training needs "labels"',
    ),
    "a model not set": (
        "pairs: x\nlabels: human\nmodels: {policy: null}\npolicies: dpo",
        "recipe.yaml: needs --set models.policy=FOLDER",
    ),
    "a role no one set": (
        "prompts: x\nmodels: {policy: y}\nresponses: {models: [policy, other]}",
        "recipe.yaml: needs --set models.other=FOLDER",
    ),
    "a single response to compare": (
        "prompts: x\nmodels: {policy: y}\nresponses: {samples: 1}\nlabels: judges",
        "recipe.yaml: a single response cannot be compared: set responses.samples to 2 or more",
    ),
    "a key given twice": ("pairs: x\nseed: 1\nseed: 2", 'recipe.yaml: line 3: not valid YAML: "seed" is given twice.'),
    "a nested key given twice": (
        "pairs:\n  source: x\n  source: y",
        'recipe.yaml: line 3: not valid YAML: "source" is given twice.',
    ),
    "a tab": ("pairs:\n\tsource: x", "recipe.yaml: line 2: not valid YAML: found character '\\t' that cannot start any token."),
    "an open bracket": (
        "pairs: x\npolicies: [dpo",
        "recipe.yaml: line 2: not valid YAML: expected ',' or ']', but got '<stream end>'.",
    ),
    "a control character": (
        "pairs: \x00",
        "recipe.yaml: not valid YAML: unacceptable character #x0000: special characters are not allowed.",
    ),
    "a date that is none": ("pairs: 2020-13-45", "recipe.yaml: not valid YAML: month must be in 1..12."),
    "a Python object": (
        "pairs: !!python/object/apply:os.system [ls]",
        "recipe.yaml: line 1: not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system'.",
    ),
    "a list": ("- pairs", "recipe.yaml: expected a mapping of settings, found list."),
    "prose": ("please train", "recipe.yaml: expected a mapping of settings, found str."),
    "nothing": ("# later\n", "recipe.yaml: the file is empty."),
    "latin-1": ("description: Größe".encode("latin-1"), "recipe.yaml: not UTF-8 text (byte 15). Save it as UTF-8."),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_recipe_is_one_line_that_says_where_and_what(name: str) -> None:
    text, message = FAULTS[name]
    assert complaint(text) == message


def test_windows_line_ends_and_a_byte_order_mark_are_read_as_any_other_file() -> None:
    text = "pairs: x\r\nlabels: human\r\ndescription: |\r\n  two\r\n  lines\r\n"
    pipeline = load_pipeline(entry(b"\xef\xbb\xbf" + text.encode()))
    assert pipeline == load_pipeline(entry(text.replace("\r\n", "\n")))
    assert pipeline.description == "two\nlines\n"


SHORT = {
    "prompts": ("prompts: f.jsonl", "prompts: {source: f.jsonl}"),
    "pairs": ("pairs: f.jsonl", "pairs: {source: f.jsonl}"),
    "labels": ("pairs: f\nlabels: human", "pairs: f\nlabels: {source: human}"),
    "comparisons": ("pairs: f\ncomparisons: random", "pairs: f\ncomparisons: {select: random}"),
    "models": ("pairs: f\nmodels: {policy: m}", "pairs: f\nmodels: {policy: {provider: local, model: m}}"),
    "options left empty": ("pairs: f\nmodels: {policy: {model: m, options: null}}", "pairs: f\nmodels: {policy: m}"),
    "one policy": (
        "pairs: f\nlabels: human\nmodels: {policy: m}\npolicies: dpo",
        "pairs: f\nlabels: human\nmodels: {policy: m}\npolicies: [{name: dpo}]",
    ),
    "one policy with options": (
        "pairs: f\nlabels: human\nmodels: {policy: m}\npolicies: {name: dpo, options: {beta: 1}}",
        "pairs: f\nlabels: human\nmodels: {policy: m}\npolicies: [{name: dpo, options: {beta: 1}}]",
    ),
    "sections by true": (
        "pairs: f\nlabels: human\nmodels: {policy: m}\nreward_model: true\nevaluation: true",
        "pairs: f\nlabels: human\nmodels: {policy: m}\nreward_model: {}\nevaluation: {}",
    ),
    "metrics": (
        "pairs: f\nmodels: {policy: m}\nevaluation: {metrics: ['own:length']}",
        "pairs: f\nmodels: {policy: m}\nevaluation: {metrics: [{name: 'own:length'}]}",
    ),
    "one stop word": (
        "prompts: f\nmodels: {policy: m}\nresponses: {sampling: {stop: END}}",
        "prompts: f\nmodels: {policy: m}\nresponses: {sampling: {stop: [END]}}",
    ),
    "null is left out": ("pairs: f\nmodels: {judge: null}\nconstitution: null", "pairs: f"),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_form_means_the_same_as_the_long_one(name: str) -> None:
    short, long = SHORT[name]
    assert load_pipeline(entry(short)) == load_pipeline(entry(long))


# --- --set ------------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "a number": (["seed=3"], {"seed": 3}),
    "text": (["description=a b"], {"description": "a b"}),
    "nothing is null": (["constitution="], {"constitution": None}),
    "an equals sign in the value": (["prompts.column=a=b"], {"prompts": {"source": "f", "column": "a=b"}}),
    "a mapping": (["models={policy: x}"], {"models": {"policy": "x"}}),
    "a section that was not there": (["responses.samples=2"], {"responses": {"samples": 2}}),
    "below a short form": (["prompts.limit=5"], {"prompts": {"source": "f", "limit": 5}}),
    "a list's item by place": (
        ["policies.1.options.n=8"],
        {"policies": [{"name": "dpo"}, {"name": "best-of-n", "options": {"n": 8}}]},
    ),
    "a list whole": (["policies=[dpo]"], {"policies": ["dpo"]}),
    "a short form and then below it": (
        ["prompts=g", "prompts.limit=5"],
        {"prompts": {"source": "g", "limit": 5}},
    ),
    "the last one wins": (["seed=1", "seed=2"], {"seed": 2}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_laid_over_the_recipe(name: str) -> None:
    settings, expected = SETTINGS[name]
    data = {"prompts": "f", "policies": ["dpo", {"name": "best-of-n"}]}
    found = apply_settings(data, settings)
    assert {key: found[key] for key in expected} == expected
    assert data == {"prompts": "f", "policies": ["dpo", {"name": "best-of-n"}]}, "the recipe itself is not changed"


@pytest.mark.parametrize(
    ("setting", "message"),
    {
        "no equals sign": ("seed", "--set seed: expected key=value, for instance --set seed=1."),
        "no key": ("=1", "--set =1: expected key=value, for instance --set seed=1."),
        "an empty part": ("a..b=1", "--set a..b=1: expected key=value, for instance --set seed=1."),
        "not YAML": ("seed=[1", "--set seed=[1: not valid YAML: expected ',' or ']', but got '<stream end>'."),
        "a date that is none": ("seed=2020-99-99", "--set seed=2020-99-99: not valid YAML: month must be in 1..12."),
        "a key given twice": (
            "prompts={limit: 1, limit: 2}",
            '--set prompts={limit: 1, limit: 2}: not valid YAML: "limit" is given twice.',
        ),
        "past a list's end": (
            "policies.2.name=x",
            '--set policies.2.name=x: "2" is no place in a list of 1, counted from 0.',
        ),
        "a list's item by name": (
            "policies.dpo.options.beta=1",
            '--set policies.dpo.options.beta=1: "dpo" is no place in a list of 1, counted from 0.',
        ),
    }.values(),
)
def test_a_malformed_setting_says_which_one(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_settings({"pairs": "f", "policies": ["dpo"]}, [setting])
    assert str(error.value) == message


@given(
    path=st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=4),
    value=st.one_of(st.integers(), st.booleans(), st.lists(st.integers()), st.dictionaries(st.text("abc", min_size=1), st.integers())),
)  # fmt: skip
def test_what_is_set_is_found_at_its_path(path: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n")
    data: Any = apply_settings({}, [f"x.{'.'.join(path)}={text}"])["x"]
    for part in path:
        data = data[part]
    assert data == value


BLAMED: dict[str, tuple[list[str], str]] = {
    "an unknown key": (["sed=1"], '--set sed=1: unknown key "sed". Did you mean "seed"?'),
    "an unknown key above what was set": (
        ["preferencs.clamp=null"],
        '--set preferencs.clamp=null: unknown key "preferencs". Did you mean "preferences"?',
    ),
    "a wrong type": (
        ["seed=2", "seed=soon"],
        '--set seed=soon: "seed": must be a whole number (found \'soon\')',
    ),
    "a key inside the value": (
        ["policies=[{nme: dpo}]"],
        '--set policies=[{nme: dpo}]: "policies.0.name" is missing; unknown key "policies.0.nme". Did you mean "name"?',
    ),
    "what is missing beside it": (
        ["models.judge.provider=scripted"],
        '--set models.judge.provider=scripted: "models.judge.model" is missing',
    ),
    "a value at odds with the rest": (
        ["seed=1", "responses.samples=1"],
        '--set responses.samples=1: a single response cannot be compared: set responses.samples to 2 or more',
    ),
    "two flags": (
        ["sed=1", "held_out=2"],
        '--set held_out=2: "held_out": must be less than 1 (found 2); '
        '--set sed=1: unknown key "sed". Did you mean "seed"?',
    ),
    "the file's own fault beside a flag": (["seed=1"], 'recipe.yaml: unknown key "lables". Did you mean "labels"?'),
    "a judge's section on the pipeline": (
        ["judges.compare-local.minimum_mass=0"],
        "--set judges.compare-local.minimum_mass=0: unknown key \"judges\". A judge's own settings stand in its file: "
        "`rlaif copy JUDGE --as NAME` makes one of yours, to be edited and named here.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLAMED)
def test_a_mistake_in_a_setting_is_blamed_on_the_flag(name: str) -> None:
    settings, message = BLAMED[name]
    recipe = "prompts: x\nmodels: {policy: y}\nresponses: {}\nlabels: judges\npreferences: {}\n"
    assert complaint(recipe + ("lables: human\n" if "file" in name else ""), *settings) == message


def test_a_shipped_pipeline_without_its_inputs_names_the_flags_that_would_do() -> None:
    with pytest.raises(
        ConfigError, match=r"human-preferences\.yaml: needs --set pairs=FILE --set models\.policy=FOLDER$"
    ):
        open_road("human-preferences", out=Path("out"))
    with pytest.raises(
        ConfigError, match=r"ai-preferences\.yaml: needs --set prompts=FILE --set models\.policy=FOLDER$"
    ):
        open_road("ai-preferences", out=Path("out"))


# --- names of the catalogue -------------------------------------------------------------------------------------------


def test_a_local_file_does_not_change_what_a_builtin_pipeline_uses(pairs: Path) -> None:
    wrote("judges/compare-local.yaml", "protocol: scripted\nmodel_role: null\noptions: {function: first}\n")
    wrote("prompts/constitutions/harmless-helpful.yaml", "principles: [{id: mine, text: Mine.}]\n")
    catalogue = Catalogue()
    pipeline = load_pipeline(
        catalogue.find("pipeline", "ai-preferences", where="test"),
        ["prompts=p", "models.policy=x", "models.judge=y"],
    )
    assert pipeline.labels
    assert pipeline.labels.options["judges"] == ["builtin:compare-local"]
    assert catalogue.find("judge", pipeline.labels.options["judges"][0], where="test").builtin
    assert pipeline.constitution
    assert load_constitution(catalogue, pipeline.constitution, where="test").principles[0].id == "no-harm"
    assert not catalogue.notices


def opened(pipeline: str, settings: list[str]) -> tuple[Any, list[str]]:
    """A pipeline's road, and what was said while it was built."""
    said: list[str] = []
    road = open_road(pipeline, settings, out=Path("out"), watcher=Watcher(notice=said.append))
    road.gateway.ledger.close()
    return road, said


def test_a_local_file_that_a_shipped_pipeline_passes_over_is_named_with_what_would_use_it(
    policy_folder: Path, judge_folder: Path
) -> None:
    wrote("prompts/constitutions/harmless-helpful.yaml", "principles: [{id: mine, text: Mine.}]\n")
    wrote("judges/compare-local.yaml", "protocol: scripted\nmodel_role: null\noptions: {function: first}\n")
    given = ["prompts=set:first-questions", f"models.policy={policy_folder}", f"models.judge={judge_folder}"]
    _, said = opened("ai-preferences", given)
    assert said == [
        'constitution "harmless-helpful": prompts/constitutions/harmless-helpful.yaml is passed over, for the shipped '
        "pipeline ai-preferences names the built-in one. To use yours: --set constitution=harmless-helpful, or a copy of "
        "the pipeline (`rlaif copy ai-preferences`).",
        'judge "compare-local": judges/compare-local.yaml is passed over, for the shipped pipeline ai-preferences names '
        "the built-in one. To use yours: --set labels.options.judges.0=compare-local --set "
        "evaluation.judges.0=compare-local, or a copy of the pipeline (`rlaif copy ai-preferences`).",
    ]
    remedies = ["constitution=harmless-helpful", "labels.options.judges.0=compare-local", "evaluation.judges=[]"]
    road, said = opened("ai-preferences", [*given, *remedies])
    assert {entry.path.parts[0] for entry in road.catalogue.used.values() if not entry.builtin} == {"prompts", "judges"}
    assert all("is used instead" in line for line in said)
    meant = [
        "constitution=builtin:harmless-helpful",
        "labels.options.judges=[builtin:compare-local]",
        "evaluation=null",
    ]
    assert opened("ai-preferences", [*given, *meant])[1] == []


def test_a_set_that_a_shipped_pipeline_names_is_the_shipped_one_and_stays_a_name(policy_folder: Path) -> None:
    """A shipped recipe that names its prompts and those to measure on, and a local set of the same name."""
    wrote("prompts/sets/first-questions.jsonl", '{"prompt": "Mine."}\n')
    catalogue = Catalogue()
    text = b"prompts: set:first-questions\nevaluation: {source: set:practice}\n"
    entry = Entry("pipeline", "shipped", Path("shipped.yaml"), True, text)
    pipeline = load_pipeline(entry, [f"models.policy={policy_folder}"])
    assert pipeline.prompts
    assert pipeline.prompts.source == "set:builtin:first-questions"
    said: list[str] = []
    road = build(pipeline, entry, catalogue, out=Path("out"), watcher=Watcher(notice=said.append))
    road.gateway.ledger.close()
    shipped = builtin_root() / "prompts" / "sets"
    assert road.prompts
    assert road.measured
    assert (road.prompts.source, road.measured.source) == (
        str(shipped / "first-questions.jsonl"),
        str(shipped / "practice.jsonl"),
    )
    assert road.pipeline == pipeline  # and so in the run folder, wherever the package lies
    assert said == [
        'set "first-questions": prompts/sets/first-questions.jsonl is passed over, for the shipped pipeline shipped names '
        "the built-in one. To use yours: --set prompts.source=set:first-questions, or a copy of the pipeline "
        "(`rlaif copy shipped`)."
    ]


def test_a_local_rubric_that_a_shipped_judge_passes_over_is_named_once(judge_context: Any) -> None:
    wrote("prompts/rubrics/helpful-and-safe.md", "MINE\n")
    for _ in range(2):
        open_judge("compare-text", judge_context)
    assert judge_context.catalogue.notices == [
        'rubric "helpful-and-safe": prompts/rubrics/helpful-and-safe.md is passed over, for the shipped compare-text '
        "names the built-in one. To use yours, name it in a copy: `rlaif copy compare-text`."
    ]


def test_a_local_template_does_not_change_a_builtin_judge_but_changes_a_local_one(judge_context: Any) -> None:
    wrote(
        "prompts/templates/compare-two.txt",
        "=== user\nMINE {{fence}} {{prompt}} {{response_1}} {{response_2}} {{fence}}\n",
    )
    wrote("prompts/rubrics/helpful-and-safe.md", "MINE\n")
    shipped = open_judge("compare-text", judge_context)
    assert not any("MINE" in text for _, text in shipped.protocol.template.sections)  # type: ignore[attr-defined]
    assert "MINE" not in shipped.rubric
    wrote("judges/own.yaml", "protocol: pairwise-text\nrubric: helpful-and-safe\noptions: {template: compare-two}\n")
    own = open_judge("own", judge_context)
    assert own.protocol.template.sections[0][1].startswith("MINE")  # type: ignore[attr-defined]
    assert own.rubric == "MINE"


@pytest.fixture
def judge_context() -> Any:
    from rlaif.labels import LabelContext

    return LabelContext(Place("test"), Catalogue(), None, {"judge": None}, None, None, "train", None, b"s", 0)  # type: ignore[arg-type]


def test_a_name_given_by_set_finds_the_local_file_and_the_shadow_is_announced(pairs: Path) -> None:
    local = wrote("judges/longest.yaml", "protocol: scripted\nmodel_role: null\noptions: {function: first}\n")
    wrote("own.yaml", "pairs: pairs.jsonl\nlabels: {source: judges, options: {judges: [first]}}\n")
    said: list[str] = []
    road = open_road(
        "own.yaml", ["labels.options.judges=[longest]"], out=Path("out"), watcher=Watcher(notice=said.append)
    )
    road.gateway.ledger.close()
    assert local.read_bytes() in {entry.data for entry in road.catalogue.used.values()}
    assert said == [
        'judge "longest": judges/longest.yaml is used instead of the built-in one (builtin:longest names that).'
    ]


def test_builtin_pins_the_shipped_file() -> None:
    wrote("judges/longest.yaml", "protocol: scripted\noptions: {function: first}\n")
    catalogue = Catalogue()
    assert not catalogue.find("judge", "longest", where="test").builtin
    catalogue.notices.clear()
    assert catalogue.find("judge", "builtin:longest", where="test").builtin
    assert not catalogue.notices


def test_an_unchanged_copy_of_a_builtin_file_is_not_announced() -> None:
    shipped = Catalogue().find("judge", "longest", where="test")
    wrote("judges/longest.yaml", shipped.text)
    catalogue = Catalogue()
    catalogue.find("judge", "longest", where="test")
    assert not catalogue.notices


def test_a_name_in_a_subfolder_is_listed_and_found() -> None:
    wrote("judges/team/strict.yaml", "protocol: scripted\n")
    catalogue = Catalogue()
    assert "team/strict" in catalogue.names("judge")
    assert catalogue.find("judge", "team/strict", where="test").name == "team/strict"


@pytest.mark.parametrize("name", ["../judges/longest", "builtin:../judges/longest", "/etc/longest"])
def test_a_name_does_not_lead_out_of_the_catalogue(name: str) -> None:
    with pytest.raises(ConfigError, match="not found"):
        Catalogue().find("judge", name, where="test")


MISSING: dict[str, tuple[Kind, str, str]] = {
    "near a shipped one": (
        "rubric", "helpful-and-saf",
        'here: rubric "helpful-and-saf" not found in ./prompts/rubrics or the built-ins. Did you mean "helpful-and-safe"?',
    ),
    "near nothing": (
        "rubric", "zzz",
        'here: rubric "zzz" not found in ./prompts/rubrics or the built-ins. Known: follows-instruction, helpful-and-safe, right-steps.',
    ),
    "pinned": ("judge", "builtin:longes", 'here: judge "longes" not found in the built-ins. Did you mean "longest"?'),
    "a path": (
        "template", "own/t.txt",
        'here: template "own/t.txt" not found in ./prompts/templates or the built-ins.',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_name_says_where_it_was_looked_for(name: str) -> None:
    kind, asked, message = MISSING[name]
    with pytest.raises(ConfigError) as error:
        Catalogue().find(kind, asked, where="here")
    assert str(error.value) == message


# --- what ships -------------------------------------------------------------------------------------------------------


def shipped(kind: Kind) -> list[str]:
    folder, suffixes = FOLDERS[kind]
    base = builtin_root() / folder
    return sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.name.endswith(suffixes))


SHIPPED = [(kind, name) for kind in ("judge", "constitution", "checklist", "pipeline") for name in shipped(kind)]


def test_files_of_every_kind_ship_and_every_yaml_lies_where_it_is_found() -> None:
    assert len(SHIPPED) >= 9
    assert all(shipped(kind) for kind in FOLDERS)
    roots = [builtin_root() / top for top in ("judges", "pipelines", "prompts")]
    every = {path for root in roots for path in root.rglob("*") if path.suffix in (".yaml", ".yml")}
    assert every == {builtin_root() / FOLDERS[kind][0] / name for kind, name in SHIPPED}


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_yaml_checks(kind: Kind, name: str, pairs: Path, policy_folder: Path, judge_folder: Path) -> None:
    path = builtin_root() / FOLDERS[kind][0] / name
    settings = []
    if kind == "pipeline":
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        folders = {"policy": policy_folder, "judge": judge_folder}
        missing = [role for role, model in written.get("models", {}).items() if model is None]
        settings = [f"models.{role}={folders[role]}" for role in missing]
        if "arms" not in written:
            settings += ["pairs=pairs.jsonl"] if "pairs" in written else ["prompts=set:first-questions"]
    said = check_study(str(path), tuple(settings), Catalogue()) or check_file(str(path), settings)
    assert said.startswith(f"{path}: sound")


@pytest.mark.parametrize("name", shipped("template"))
def test_every_shipped_template_parses_and_fences_what_is_judged(name: str) -> None:
    from rlaif.judging import JUDGED

    own = ("rubric", "principle", "fence", "aspects", "low", "high", "items", "item")
    text = (builtin_root() / FOLDERS["template"][0] / name).read_text(encoding="utf-8")
    template = Template.parse(text, where=name, allowed=(*JUDGED, *own), judged=JUDGED)
    assert template.sections[-1][0] == "user"
    # what is said after everything that is judged needs none of it
    assert name == "compare-two-ending.txt" or "{{prompt}}" in text


@pytest.mark.parametrize("name", shipped("set"))
def test_every_shipped_prompt_set_holds_usable_prompts(name: str) -> None:
    from rlaif.config import PromptsSection
    from rlaif.prompts import ReadPrompts, prompt_rows
    from rlaif.records import Prompt

    section = PromptsSection(source=str(builtin_root() / FOLDERS["set"][0] / name))
    reader = ReadPrompts(section)
    read = [reader.read(where, row) for where, row in prompt_rows(section)]
    assert read
    assert all(isinstance(prompt, Prompt) for prompt in read)


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_yaml_opens_with_the_command_that_uses_it(kind: Kind, name: str) -> None:
    lines = (builtin_root() / FOLDERS[kind][0] / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    if kind != "constitution":
        assert lines[1].startswith("#   rlaif ")


# --- judge and constitution files -------------------------------------------------------------------------------------

JUDGE_FAULTS = {
    "unknown key": (
        "protocol: scripted\nrubrik: x",
        'judges/j.yaml: unknown key "rubrik". Did you mean "rubric"?',
    ),
    "no protocol": ("rubric: helpful-and-safe", 'judges/j.yaml: "protocol" is missing'),
    "unknown protocol": (
        "protocol: pairwise-txt",
        'judges/j.yaml: protocol "pairwise-txt" is not known. Did you mean "pairwise-text"? '
        "A class of your own is named package.module:Class.",
    ),
    "unknown option": (
        "protocol: pairwise-text\noptions: {templat: x}",
        'judges/j.yaml: options: unknown key "templat". Did you mean "template"?',
    ),
    "missing rubric": (
        "protocol: pairwise-text\nrubric: helpful-safe",
        'judges/j.yaml: rubric "helpful-safe" not found in ./prompts/rubrics or the built-ins. '
        'Did you mean "helpful-and-safe"?',
    ),
    "missing template": (
        "protocol: pairwise-text\noptions: {template: compare-too}",
        'judges/j.yaml: template "compare-too" not found in ./prompts/templates or the built-ins. '
        'Did you mean "compare-two"?',
    ),
    "equal choices": (
        "protocol: pairwise-logprobs\noptions: {choices: [A, A]}",
        "judges/j.yaml: options: \"choices\": the two choices must be different words (found ['A', 'A'])",
    ),
    "neither function nor table": (
        "protocol: scripted\nmodel_role: null",
        "judges/j.yaml: options: set exactly one of function and table",
    ),
    "unknown sampling key": (
        "protocol: pairwise-text\nsampling: {max_tokens: 3}",
        'judges/j.yaml: unknown key "sampling.max_tokens". Did you mean "max_output_tokens"?',
    ),
}


@pytest.mark.parametrize("name", JUDGE_FAULTS)
def test_a_faulty_judge_file_is_one_line(name: str) -> None:
    text, message = JUDGE_FAULTS[name]
    wrote("judges/j.yaml", text)
    with pytest.raises(UserError) as error:
        check_file("judges/j.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "no principles": ("version: '1'", 'c.yaml: "principles" is missing'),
        "an empty list": (
            "principles: []",
            'c.yaml: "principles": Tuple should have at least 1 item after validation, not 0 (found [])',
        ),
        "an id twice": (
            "principles: [{id: a, text: x}, {id: a, text: y}]",
            'c.yaml: principle id "a" is given twice',
        ),
        "a weight of nothing": (
            "principles: [{id: a, text: x, weight: 0}]",
            'c.yaml: "principles.0.weight": must be greater than 0 (found 0)',
        ),
        "an unknown key": (
            "principles: [{id: a, text: x, wieght: 2}]",
            'c.yaml: unknown key "principles.0.wieght". Did you mean "weight"?',
        ),
    }.values(),
)
def test_a_faulty_constitution_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_model(Constitution, entry(text, "c", kind="constitution").yaml(), "c.yaml")
    assert str(error.value) == message


def test_check_says_what_it_found_in_a_sound_file() -> None:
    wrote("judges/j.yaml", "protocol: pairwise-text\nrubric: helpful-and-safe\n")
    assert check_file("judges/j.yaml") == "judges/j.yaml: sound."
    wrote("c.yaml", "principles: [{id: a, text: x}]\n")
    assert check_file("c.yaml") == "c.yaml: sound; 1 principles."


def test_check_of_an_unknown_name_offers_a_near_one() -> None:
    with pytest.raises(ConfigError) as error:
        check_file("longst")
    assert (
        str(error.value)
        == 'check: "longst" is neither a .yaml file nor a pipeline, judge, constitution or checklist. Did you mean "longest"?'
    )
