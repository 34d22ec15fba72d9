"""The accounts of a run: for every stage what came in, what went out, and why the rest did not. They must add up.

Also the figures that judgements and preferences give by themselves. Everything is computed from the run folder's files,
so it is the same after any number of interruptions.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlaif.config import Pipeline
from rlaif.errors import StorageError
from rlaif.labels.human import is_unnamed
from rlaif.preferences import NEAR_TIE, by_principle, leaning, opinions_by_order, side, votes, with_judgements
from rlaif.records import Comparison, Judgement, Preference, Provenance, Response, uniform
from rlaif.sampling import grouped, reference_each
from rlaif.selection import Selector, selected
from rlaif.statistics import Figure, Means, calibration_figure, cluster_mean, log_loss
from rlaif.statistics.ranking import cycles
from rlaif.store import RunFolder

Account = dict[str, Any]


def accounts_of(run: RunFolder, pipeline: Pipeline, selector: Selector, *, reference: int = 0) -> dict[str, Account]:
    """One account per finished stage, in the order of the road. ``reference``: samples wanted to normalise rewards on.

    Raises StorageError where one does not add up.
    """
    accounts: dict[str, Account] = {}
    for stage in ("prompts", "pairs", "responses", "comparisons", "judgements", "preferences"):
        if run.confirmed(stage):
            accounts[stage] = _account(run, stage, pipeline, selector)
    if run.confirmed("reference"):
        accounts["reference"] = _reference_account(run, reference)
    for stage in (*reward_stages(pipeline), *(f"policies/{section.policy}" for section in pipeline.policies)):
        if report := run.trained(stage):
            accounts[stage] = training_account(run, report)
    accounts.update(run.evaluated("account") or {})
    for stage, account in accounts.items():
        if account["in"] != sum(account["outcomes"].values()):
            raise StorageError(f"{run.path}: the account of {stage} does not add up: {account}.")
    return accounts


def reward_stages(pipeline: Pipeline) -> list[str]:
    """The stages that train reward models: one, or the members of an ensemble."""
    members = pipeline.reward_model.members if pipeline.reward_model else 0
    return ["reward_model", *(f"reward_members/{number}" for number in range(2, members + 1))][:members]


def _account(run: RunFolder, stage: str, pipeline: Pipeline, selector: Selector) -> Account:
    if stage == "judgements":
        return _outcome_account(run.read("judgements"), "showings", run.rows("judgements"))
    if stage == "preferences":
        pairs = sum(math.comb(len(comparison.responses), 2) for comparison in run.read("comparisons"))
        return _outcome_account(run.read("provenance"), "comparisons", pairs)
    own = "comparisons" if stage == "pairs" else stage
    account = run.account(stage, own)
    came_in = account["in"]
    if stage == "responses" and pipeline.responses:
        came_in = run.rows("prompts") * pipeline.responses.samples * len(pipeline.responses.models)
    if stage == "comparisons":
        chosen = (selected(selector, *each) for each in grouped(run.read("prompts"), run.read("responses")))
        came_in = sum(1 if isinstance(pairs, str) else len(pairs) for pairs in chosen)
    unit = {"prompts": "rows", "pairs": "rows", "responses": "samples", "comparisons": "pairs"}[stage]
    if stage == "comparisons" and pipeline.comparisons.select == "list":
        unit = "lists"
    return {
        "unit": unit,
        "in": came_in,
        "outcomes": {"passed on": account["out"], **account["excluded"]},
        "reasons": account["reasons"],
    }


def _reference_account(run: RunFolder, wanted: int) -> Account:
    account = run.account("reference", "reference/responses")
    each = reference_each(wanted, account["in"])
    outcomes = {"sampled": account["out"], **account["excluded"]}
    return {"unit": "samples", "in": each * account["in"], "outcomes": outcomes, "reasons": account["reasons"]}


def _outcome_account(rows: Iterable[Judgement | Provenance], unit: str, total: int) -> Account:
    """Rows by outcome, and the reasons they give."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        outcomes[row.outcome] += 1
        if row.reason and row.reason != row.outcome:
            reasons[row.reason] += 1
    return {"unit": unit, "in": total, "outcomes": dict(outcomes), "reasons": dict(reasons.most_common())}


def training_account(run: RunFolder, report: dict[str, Any]) -> Account:
    """What a method says of what it trained on; of one that says nothing that it does not."""
    if report.get("account"):
        return dict(report["account"])
    total = run.rows("preferences")
    return {"unit": "preferences", "in": total, "outcomes": {"not said by the method": total}, "reasons": {}}


# --- figures ----------------------------------------------------------------------------------------------------------


def metrics_of(run: RunFolder, accounts: dict[str, Account]) -> dict[str, Figure]:
    """Every figure of the run, flat: dotted name to value, interval and n."""
    flat: dict[str, Figure] = {}
    for stage, account in accounts.items():
        for outcome, count in account["outcomes"].items():
            name = f"accounts.{stage.replace('/', '.')}.{outcome}".replace(" ", "_")
            flat[name] = Figure(value=float(count), n=account["in"])
    if "preferences" in accounts:
        flat.update(label_figures(run))
        flat.update(baseline_figures(run.read("comparisons"), run.read("preferences")))
    report, held_out = run.trained("reward_model"), held_out_of(run)
    if report and held_out:
        flat.update(reward_figures(held_out))
        flat["reward_model.normalised_on"] = Figure(value=float(report["reference"]), n=report["reference"])
    flat.update({name: Figure(**figure) for name, figure in (run.evaluated("figures") or {}).items()})
    return flat


def label_figures(run: RunFolder) -> dict[str, Figure]:
    """What the labels look like: position, order consistency, length, option mass, agreement between labellers.

    ``judgements.first_rate`` (of opinions in one order shown) and ``judgements.longer_rate`` (of opinions) are raw rates,
    near-ties counting one half: on real comparisons they mix a labeller's bias with true differences.
    ``judgements.option_mass`` is over all showings, the unreadable ones too; ``judgements.unreadable`` is the share of a
    model's replies that could not be read.

    ``judgements.undecided`` is the share of pairs on which no labeller leans to either response by more than a near-tie,
    under any principle, orders averaged.

    ``judgements.cycles`` is the share of circles (a over b, b over c, c over a) among the triples of a prompt's responses
    whose three pairs have a label that is not a tie, by the labels: all labellers and orders together.

    ``judgements.labellers_agree`` is over every two labellers of one pair, a tie being an opinion like the others;
    ``judgements.labellers_agree_without_ties`` over those of whom neither says tie. Votes without a name are in
    neither: two of them may be one person's, or one row twice. ``judgements.unnamed_repeats`` counts the comparisons
    with several of those.
    """
    means = Means()
    unnamed = 0
    provenance = run.read("provenance")  # a row for each pair of a comparison, in their order
    rows = with_judgements(run.read("comparisons"), run.read("judgements"))
    for prompt, own in itertools.groupby(rows, key=lambda row: row[0].prompt.id):
        labelled: list[tuple[str, str]] = []
        for comparison, judgements in own:
            for judgement in judgements:
                _reading(means, prompt, judgement)
            for a, b in itertools.combinations(comparison.responses, 2):
                opinions, _ = votes(judgements, a.id, b.id)
                _leanings(means, prompt, a, b, judgements, opinions.values())
                _agreement(means, [p for who, p in opinions.items() if not is_unnamed(who)], prompt)
                row = next(provenance)
                if row.orders_agree is not None:
                    means.add("judgements.orders_agree", float(row.orders_agree), prompt)
                labelled += [(row.chosen_id, row.rejected_id)] if row.outcome == "labelled" else []
            unnamed += len({judgement.labeller for judgement in judgements if is_unnamed(judgement.labeller)}) > 1
        add_circles(means, labelled, prompt)
    repeats = {"judgements.unnamed_repeats": Figure(value=float(unnamed), n=run.rows("comparisons"))} if unnamed else {}
    return means.figures() | repeats


def _reading(means: Means, prompt: str, judgement: Judgement) -> None:
    """What one judgement adds: readable or not, option mass."""
    if judgement.reply_keys:
        means.add("judgements.unreadable", float(judgement.outcome == "unreadable"), prompt)
    if judgement.option_mass is not None:
        means.add("judgements.option_mass", judgement.option_mass, prompt)


def _leanings(
    means: Means, prompt: str, a: Response, b: Response, judgements: Sequence[Judgement], opinions: Collection[float]
) -> None:
    """What the opinions of a pair add: position, where the order is known; length; and whether there are any."""
    longer = len(a.text) > len(b.text)
    for orders in opinions_by_order(judgements, a.id, b.id).values():
        for a_first, p in orders.items():
            means.add("judgements.first_rate", leaning(p if a_first else 1 - p), prompt)
    several = len({judgement.principle_id for judgement in judgements}) > 1
    if each := by_principle(judgements, a.id, b.id) if several else opinions:
        means.add("judgements.undecided", float(all(leaning(p) == 0.5 for p in each)), prompt)
    if len(a.text) != len(b.text):
        for p in opinions:
            means.add("judgements.longer_rate", leaning(p if longer else 1 - p), prompt)


def add_circles(means: Means, labelled: Sequence[tuple[str, str]], prompt: str) -> None:
    """Which triples of one prompt's responses are preferred in a circle, of those with three labels that are not ties."""
    place: dict[str, int] = {}
    better = [(place.setdefault(a, len(place)), place.setdefault(b, len(place))) for a, b in labelled]
    circular, triples = cycles(better, len(place)) if len(better) > 2 else (0, 0)
    for triple in range(triples):
        means.add("judgements.cycles", float(triple < circular), prompt)


def _agreement(means: Means, opinions: Sequence[float], prompt: str) -> None:
    """Every two labellers of one pair: the same side or not, with ties and where neither is one."""
    for x, y in itertools.combinations([side(p) for p in opinions], 2):
        means.add("judgements.labellers_agree", float(x == y), prompt)
        if 0.5 not in (x, y):
            means.add("judgements.labellers_agree_without_ties", float(x == y), prompt)


def baseline_figures(comparisons: Iterable[Comparison], preferences: Iterable[Preference]) -> dict[str, Figure]:
    """How often trivial rules agree with the labels: the longer reply, the one listed first, a keyed coin.

    Without ties: over labelled pairs that are not ties, an undecided rule counting one half. With ties: three-way, a
    rule agreeing with a tie only where it ties itself.
    Also the share of labels that are near-ties.
    """
    means = Means()
    pairs = (pair for comparison in comparisons for pair in itertools.combinations(comparison.responses, 2))
    for (first, _), row in zip(pairs, preferences, strict=True):
        if row.weight == 0:
            continue
        lengths = [sum(len(m.content) for m in side) for side in (row.chosen, row.rejected)]
        longest = 0.5 if lengths[0] == lengths[1] else float(lengths[0] > lengths[1])
        rules = {
            "longest": longest,
            "first": float(row.chosen == first.messages),
            "random": float(uniform("coin", row.comparison_id) < 0.5),
        }
        means.add("preferences.near_tie", float(row.p - 0.5 < NEAR_TIE), row.prompt_id)
        for name, says in rules.items():
            if row.p != 0.5:
                means.add(f"agreement.{name}", says, row.prompt_id)
            right = float(says == 1.0) if row.p != 0.5 else float(says == 0.5)
            means.add(f"agreement_with_ties.{name}", right, row.prompt_id)
    return means.figures()


def held_out_of(run: RunFolder) -> dict[str, Any] | None:
    """What the run's reward model says of the held-out pairs."""
    told: list[dict[str, Any]] = []
    while report := run.trained(f"reward_members/{len(told) + 1}" if told else "reward_model"):
        told.append(report)
    return held_out_by(told)


def held_out_by(told: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a reward model says of the held-out pairs by what its training told; None of none. Of an ensemble the mean of its members,
    each as far as its own rewards are spread, as policies are measured by it; on the scale of the members' raw rewards."""
    if len(told) < 2:
        return told[0]["held_out"] if told else None
    gains = np.array([report["gain"] for report in told])
    differences = np.array([report["held_out"]["differences"] for report in told], dtype=float)
    return {**told[0]["held_out"], "differences": (gains @ differences / gains.sum()).tolist()}


def reward_figures(held_out: dict[str, Sequence[Any]]) -> dict[str, Figure]:
    """The reward model on held-out pairs: accuracy without ties, also by how sure the labels are, log-loss, calibration, the
    longer-reply baseline."""
    difference = np.array(held_out["differences"], dtype=float)
    p, weight = np.array(held_out["p"], dtype=float), np.array(held_out["weight"], dtype=float)
    longer = np.array(held_out["longer"], dtype=float)
    prompts = list(held_out["prompt_ids"])
    labelled = weight > 0
    clear = labelled & (p != 0.5)
    names = [prompt for prompt, kept in zip(prompts, clear, strict=True) if kept]
    right = np.where(difference == 0, 0.5, (difference > 0) == (p > 0.5))[clear]
    agrees = np.where(longer == 0.5, 0.5, longer == (p > 0.5))[clear]
    order = [i for i in np.argsort(difference, kind="stable") if labelled[i]]  # sorted once for all resamples
    predicted, target = 1 / (1 + np.exp(-difference[order])), p[order]
    all_names = [prompts[i] for i in order]
    surest = np.maximum(p, 1 - p)[clear]
    by_sureness = {
        f"reward_model.accuracy.p_{low}_{low + 10}": [
            i for i, sure in enumerate(surest) if low < 100 * sure <= low + 10
        ]
        for low in range(50, 100, 10)
    }
    filled = {name: places for name, places in by_sureness.items() if places}
    if len(filled) < 2:  # hard labels are all as sure
        filled = {}
    return {
        "reward_model.accuracy": cluster_mean(right, names),
        **{name: cluster_mean(right[places], [names[i] for i in places]) for name, places in filled.items()},
        "reward_model.accuracy_of_longest": cluster_mean(agrees, names),
        "reward_model.log_loss": cluster_mean(log_loss(predicted, target), all_names),
        "reward_model.calibration_error": calibration_figure(predicted, target, all_names),
    }
