"""The dataset card: how the labels were made, in words for a stranger and as flat numbers."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import yaml

from rlaif import __version__
from rlaif.calibration import Calibration
from rlaif.config import Sampling
from rlaif.export.facts import Facts
from rlaif.export.forms import FORMS
from rlaif.export.public import public_name, public_text
from rlaif.exported import ROW
from rlaif.findings import RATES, findings
from rlaif.models.api import on_this_machine
from rlaif.statistics import Figure

UNKNOWN = "unknown"
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
SOFTWARE = ("rlaif", "python", "torch", "transformers")
CERTIFIED = {  # figures of a judge's card, as a stranger reads them
    "labels.agreement": "its labels agree with people's, ties left out",
    "labels.agreement_with_ties": "ties counted",
    "people.agreement": "two people agree, ties left out",
    "agreement.longest": "the longer reply agrees",
    "bias.position": "pulled to the reply shown first",
    "bias.length": "pulled to the longer reply",
    "bias.lists": "pulled to the reply with a list",
    "bias.own_family": "pulled to its own family's reply",
    "canaries.null": "a constant reply wins",
    "canaries.empty": "an empty reply wins",
    "canaries.injected.gain": "a verdict written into the worse reply gains",
    "canaries.rated.gain": "a plea for the top score in it gains",
    "labels.missing": "pairs left without a label",
}
PRINCIPLES = {
    "draw": "Each comparison was judged by one of them, drawn in proportion to its weight.",
    "average": "Each comparison was judged by every one of them, and the opinions averaged by weight.",
    "all": "Judges were given all of them at once.",
}


def numbers(facts: Facts, written: int, left_out: Mapping[str, int]) -> dict[str, Figure]:
    """Every number of the card by dotted name; ``n`` is what it is out of, or was measured on."""
    total = written + sum(left_out.values())
    flat = {"schema_version": Figure(value=ROW.version, n=written), "rows": Figure(value=written, n=total)}
    flat |= {f"left_out.{_dotted(reason)}": Figure(value=count, n=total) for reason, count in left_out.items()}
    for stage, account in facts.accounts.items():
        for outcome, count in account["outcomes"].items():
            flat[f"accounts.{stage}.{_dotted(outcome)}"] = Figure(value=count, n=account["in"])
    flat |= facts.figures
    asked = sum(facts.tally.labellers.values())
    flat["labellers"] = Figure(value=len(facts.tally.labellers), n=asked)
    answers = facts.tally.generators.total()
    flat["answers.prompt_tokens"] = Figure(value=facts.tally.prompt_tokens, n=answers)
    flat["answers.output_tokens"] = Figure(value=facts.tally.output_tokens, n=answers)
    if took := facts.spent:
        flat["judging.replies"] = Figure(value=took.found, n=took.asked)
        for name in ("prompt_tokens", "output_tokens", "seconds"):
            flat[f"judging.{name}"] = Figure(value=getattr(took, name), n=took.found)
        if took.priced:
            flat["judging.cost_usd"] = Figure(value=took.cost_usd, n=took.priced)
    return flat


def _dotted(name: str) -> str:
    return re.sub(r"\W+", "_", public_text(name)).strip("_")


def text(
    facts: Facts, name: str, form_name: str, flat: Mapping[str, Figure], left_out: Counter[str], licence: str
) -> str:
    """README.md: the header that the Hub reads, then the card. ``flat``: the card's numbers."""
    from jinja2 import Environment, StrictUndefined

    written = int(flat["rows"].value or 0)
    page = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    page.filters.update(cell=_cell, count=lambda value: f"{int(value):,}", figure=_figure, public=public_name)
    template = page.from_string((files("rlaif.export") / "card.md.j2").read_text(encoding="utf-8"))
    body = template.render(
        facts=facts,
        name=_cell(name),
        form_name=form_name,
        form=FORMS[form_name],
        flat=flat,
        licence=licence,
        unknown=UNKNOWN,
        written=written,
        prompts=_prompts(facts),
        answers=_answers(facts),
        labels=_labels(facts, form_name),
        judges=_judges(facts),
        certified=_certified(facts),
        drawn=PRINCIPLES.get(_principles(facts), ""),
        rules=_rules(facts),
        rates=[(label, flat[each]) for each, label in RATES.items() if each in flat and flat[each].value is not None],
        warnings=[*_rehearsed(facts), *facts.run.cares(), *findings(dict(facts.figures))],
        cost=_cost(facts),
        left_out=left_out.most_common(),
        version=__version__,
        software=facts.manifest.get("environment", {}),
        named=SOFTWARE,
        schema_version=ROW.version,
    )
    by_people = facts.people or facts.unnamed
    header = {
        "license": licence,
        "pretty_name": name,
        "size_categories": [next((size for limit, size in SIZES if written < limit), "n>10M")],
        "tags": ["preference", *(["rlhf"] if by_people else []), *(["rlaif"] if facts.judges or not by_people else [])],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{public_text(body)}"


def _cell(value: Any) -> str:
    """Text on one line, with nothing that a table, a tag or a code span could be made of."""
    line = " ".join(str(value).split())
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _prompts(facts: Facts) -> str:
    """Where the prompts came from."""
    pipeline = facts.pipeline
    section = pipeline.pairs or pipeline.prompts
    if section is None:
        return "Where the prompts came from is not recorded."
    came = facts.accounts.get("pairs" if pipeline.pairs else "prompts", {}).get("in")
    source = section.source
    what = "The prompts and their answers came as pairs" if pipeline.pairs else "The prompts were read"
    rows = f", {came:,} rows" if came is not None else ""
    sha = facts.input_hash(source)
    return f"{what} from `{_cell(public_name(source))}`{rows}{f' (SHA-256 `{sha}`)' if sha else ''}."


def _answers(facts: Facts) -> list[str]:
    """Which models answered, and how they were sampled."""
    section = facts.pipeline.responses
    if facts.pipeline.pairs or section is None:
        return []
    lines = [f"{section.samples} answers per prompt from each model below, sampled with {_sampling(section.sampling)}."]
    return lines + [f"{role}: {_model(facts, role)}" for role in section.models]


def _sampling(sampling: Sampling) -> str:
    default = Sampling()
    told = {name: value for name, value in sampling if name in ("temperature", "max_output_tokens")}
    told |= {name: value for name, value in sampling if value != getattr(default, name)}
    return ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in told.items())


def _model(facts: Facts, role: str) -> str:
    model = facts.manifest["models"].get(role)
    if model is None:
        return "not recorded"
    revision = f", revision {_cell(model['revision'])}" if model.get("revision") else ""
    asked = f", asked at {_cell(host)}" if (host := urlsplit(model.get("endpoint") or "").hostname) else ""
    provider = f" ({_cell(model['provider'])}{asked})" if model.get("provider") else ""
    return f"`{_cell(public_name(model['name']))}`{provider}{revision}, SHA-256 `{model['sha256']}`"


def _rehearsed(facts: Facts) -> list[str]:
    """Said of judges' models behind an address of one's own machine, whatever they are called."""
    roles = {judge.model_role for _, judge in facts.judges if judge.model_role}
    models = [facts.manifest["models"].get(role) or {} for role in sorted(roles)]
    return [
        f"Careful: {model['name']} was asked at {urlsplit(model['endpoint']).hostname}: a server of one's own, or a rehearsal, is not the provider that the "
        "name speaks of."
        for model in models
        if on_this_machine(model.get("endpoint") or "")
    ]


def _labels(facts: Facts, form: str) -> str:
    """What kinds of labellers there were; the judges follow one by one."""
    told = ["AI feedback."] if facts.judges else []
    if facts.people:
        numbered = "; their names are replaced by numbers" if form == "jsonl" else ""
        told.append(f"{facts.people:,} {'person' if facts.people == 1 else 'people'} labelled{numbered}.")
    if facts.unnamed:
        told.append(f"{facts.unnamed:,} votes came without a name: of how many people is not known.")
    others = [who for who in facts.tally.labellers if not who.startswith(("judge:", "human:"))]
    told += [f"Labelled by {', '.join(f'`{_cell(public_name(who))}`' for who in others)}."] if others else []
    return " ".join(told) or "Nobody gave an opinion."


def _judges(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "tag": file.tag,
            "sha256": file.sha256,
            "description": judge.description,
            "protocol": judge.protocol,
            "rubric": public_name(judge.rubric) if judge.rubric else None,
            "both_orders": judge.both_orders,
            "model": _model(facts, judge.model_role) if judge.model_role else None,
            "sampling": _sampling(judge.sampling) if judge.model_role else "",
            "comparisons": facts.tally.labellers[f"judge:{file.tag}"],
        }
        for file, judge in facts.judges
    ]


def _certified(facts: Facts) -> list[str]:
    """What the judges' own card says, where the recipe required one."""
    path = facts.run.path / "config" / "cards" / "card.json"
    if facts.pipeline.gate is None or not path.is_file():
        return []
    card = json.loads(path.read_text(encoding="utf-8"))
    certificate = card.pop("certificate")
    told = [(name, Figure(**card[name])) for name in CERTIFIED if name in card]
    human = _cell(public_name(certificate["human"]))
    gate = facts.pipeline.gate
    bounds = [
        f"{name} {word} {bound:g}"
        for word, given in (("at least", gate.at_least), ("at most", gate.at_most))
        for name, bound in given.items()
    ]
    return [
        f"The recipe required a card of this very judge, with {', '.join(bounds) or 'no bounds'}. Against people's labels in "
        f"`{human}` (SHA-256 `{certificate['sha256'][:16]}`), it says:",
        *certificate.get("verdict", ()),  # cards of before had none
    ] + [f"{CERTIFIED[name]}: {_figure(figure)}, n = {figure.n:,}" for name, figure in told if figure.value is not None]


def _principles(facts: Facts) -> str:
    labels = facts.pipeline.labels
    return str(labels.options.get("principles", "draw")) if labels and labels.source == "judges" else ""


def _rules(facts: Facts) -> list[str]:
    """How opinions became a probability, by the rules that the recipe set."""
    rules = facts.pipeline.preferences
    lines = []
    if rules.missing_votes == "unlabelled":
        lines.append("A comparison that any labeller gave no opinion of has no label.")
    else:
        lines.append("Labellers without an opinion of a comparison were left out of its mean.")
    if rules.minimum_margin:
        lines.append(f"Comparisons with |2p − 1| below {rules.minimum_margin:g} were set aside.")
    if rules.consistent_orders_only:
        lines.append("Comparisons whose two orders disagree were set aside.")
    if rules.panel == "majority":
        lines.append("Where there are several judges, more than half of them decide.")
    if isinstance(rules.calibration, Calibration):
        lines.append(
            f"Probabilities were fitted to people's labels of {rules.calibration.pairs:,} pairs (a map of kind "
            f"{rules.calibration.map.kind})."
        )
    if rules.clamp:
        lines.append(f"p was kept between {rules.clamp[0]:g} and {rules.clamp[1]:g}.")
    return lines


def _cost(facts: Facts) -> list[str]:
    """What the judges' replies took, as far as the ledger tells."""
    took = facts.spent
    tally = facts.tally
    lines = []
    if tally.output_tokens:
        lines.append(
            f"The answers: {tally.prompt_tokens:,} tokens of prompts read and {tally.output_tokens:,} tokens written."
        )
    if took is None:
        return [
            *lines,
            "Of judging: the ledger of model replies was not found where this was written; the cost is not known.",
        ]
    if not took.asked:
        return [*lines, "No model was asked for labels."]
    known = (
        f"{took.found:,} of {took.asked:,} replies are in the ledger"
        if took.found < took.asked
        else f"{took.found:,} replies"
    )
    lines.append(f"Judging: {known}, {took.prompt_tokens:,} + {took.output_tokens:,} tokens (read + written).")
    if took.priced:
        lines.append(f"It cost ${took.cost_usd:,.2f}, over the {took.priced:,} replies with a known price.")
    else:
        lines.append("No price is known for them (a local model, for instance).")
    if took.first and took.last:
        first, last = _day(took.first), _day(took.last)
        lines.append(f"The judges were asked {f'on {first}' if first == last else f'from {first} to {last}'} (UTC).")
    return lines


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
