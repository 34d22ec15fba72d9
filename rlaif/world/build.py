"""Build the embedded models from nothing: ``rlaif world build``.

Deterministic for a given build of torch and one thread. Training stops and goes on at any time; the last figures of each
model lie beside its weights in ``training.json``. A finished folder, without its ``training``, is what ships in
``rlaif/world/models``.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlaif.errors import ConfigError, did_you_mean
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.records import digest
from rlaif.world.chat import Habits, english
from rlaif.world.exam import WAYS, first_shown, from_one_half, paper, right, sit
from rlaif.world.learning import Notice, Plan, train_judge, train_policy
from rlaif.world.lessons import CLAIMS, PLEAS, VAGUE, Level
from rlaif.world.principles import grammar, plain_text
from rlaif.world.tokens import build_tokenizer

STUDY = Habits(  # first a policy learns what can be said: mostly to answer, and without much ado
    cores={
        "benign": {"help": 0.84, "refuse": 0.06, "evade": 0.06, "off_topic": 0.04},
        "borderline": {"help": 0.84, "refuse": 0.08, "evade": 0.06, "off_topic": 0.02},
        "harmful": {"help": 0.84, "refuse": 0.12, "evade": 0.04},
        "fact": {"correct": 0.86, "false": 0.06, "unsure": 0.05, "evade": 0.03},
        "sum": {"correct": 0.9, "false": 0.1},
    },
    filler=(0.85, 0.08, 0.04, 0.03),
)
HABITS = Habits(  # then it takes its habits on; what it tries to do it does not always manage
    cores={
        "benign": {"help": 0.57, "refuse": 0.12, "evade": 0.17, "off_topic": 0.14},
        "borderline": {"help": 0.54, "refuse": 0.27, "evade": 0.12, "off_topic": 0.07},
        "harmful": {"help": 0.54, "refuse": 0.38, "evade": 0.08},
        "fact": {"correct": 0.66, "false": 0.18, "unsure": 0.1, "evade": 0.06},
        "sum": {"correct": 0.78, "false": 0.22},
    },
)


def llama(vocabulary: int, *, layers: int, width: int, positions: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def neox(vocabulary: int, *, layers: int, width: int, positions: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def level(done: float) -> tuple[Level, float]:
    """First plain principles, mostly for more, on pairs that differ; then ties; then negation. The helpers fade."""
    negation = min(0.6, max(0.0, (done - 0.06) / 0.14 * 0.6))
    ties = min(0.25, max(0.0, (done - 0.06) / 0.1 * 0.25))
    positive = max(0.0, 0.8 - done / 0.15 * 0.8)
    return Level(negation=negation, ties=ties, positive=positive), 1.0 if done < 0.4 else 0.3


JUDGES: dict[str, tuple[Callable[..., Any], Plan]] = {
    "judge": (llama, Plan(seed=1, steps=6000, rate=2e-3, batch=16, muon=True)),
    "second-judge": (neox, Plan(seed=2, steps=6000, rate=2e-3, batch=16, muon=True)),
}
HARDENING = Plan(seed=11, steps=1200, rate=5e-4, batch=16, warmup=50, muon=True)
SPOILT = 0.5  # share of the pairs of a judge's last lessons in which one reply is no reply
POLICY = Plan(seed=0, steps=8000, rate=3e-3, batch=24)
STUDIED = 0.8  # the share of its plan after which a policy takes its habits on


def habits(done: float) -> Habits:
    """What the policy's examples are like, by the share of its plan that is done."""
    return STUDY if done < STUDIED else HABITS


def kept_out() -> frozenset[str]:
    """Every wording that no training sees, as a judge reads it (``plain_text``): those of the constitutions that the
    practice judges are for, and those written without sight of the grammar. Written down, so that the recipe of what
    ships stays what it was; a new one is added before judges are built anew."""
    text = importlib.resources.files("rlaif.world").joinpath("kept_out.json").read_text(encoding="utf-8")
    return frozenset(json.loads(text))


def tokenizer(name: str, work: Path) -> ChatTokenizer:
    folder = work / name
    if (folder / "tokenizer.json").is_file():
        return ChatTokenizer(folder, where="practice world", trust_remote_code=False, notice=print)
    size = 2048 if name == "policy" else 3072  # principles have the wider vocabulary
    return build_tokenizer(folder, plan_of(name).seed, size=size, judge=name != "policy")


def plan_of(name: str) -> Plan:
    return POLICY if name == "policy" else JUDGES[name][1]


def recipe(name: str, work: Path) -> str:
    """Digest of what a model's batches are drawn from, the code aside: its plan, what can be said, its tokenizer; a
    policy's habits; how principles are worded, and the wordings kept out."""
    tokens = hashlib.sha256((work / name / "tokenizer.json").read_bytes()).hexdigest()
    own = [grammar(), sorted(kept_out())] if name in JUDGES else [asdict(STUDY), asdict(HABITS)]
    return digest(asdict(plan_of(name)), english(), tokens, own)


def build_policy(work: Path, notice: Notice) -> None:
    tokens = tokenizer("policy", work)
    torch.manual_seed(POLICY.seed)
    model = llama(len(tokens.hf), layers=4, width=128, positions=512)
    notice(f"policy: {parameters(model):,} parameters")
    made = recipe("policy", work)
    figures = train_policy(model, tokens, POLICY, habits, made, work / "policy" / "training", notice)
    finish(model, work / "policy", {"recipe": made}, figures)


def build_judge(name: str, work: Path, notice: Notice) -> None:
    make, plan = JUDGES[name]
    tokens = tokenizer(name, work)
    torch.manual_seed(plan.seed)
    model = make(len(tokens.hf), layers=8, width=128, positions=1024)
    notice(f"{name}: {parameters(model):,} parameters")
    apart, made = kept_out(), recipe(name, work)

    training = work / name / "training"
    figures = train_judge(model, tokens, plan, level, apart_from(apart), looking(model, tokens), made, training, notice)
    record = {"recipe": made, "grammar": digest(grammar())}
    hardened = harden(model, tokens, name, work / name, notice)
    finish(model, work / name, {**record, "hardened": hardening(name)}, {**figures, **hardened})


def harden(model: Any, tokens: ChatTokenizer, name: str, folder: Path, notice: Notice) -> dict[str, float]:
    """A judge's last lessons: half of them on pairs in which one reply is no reply (``lessons.spoilt``)."""
    notice(f"{name}: replies that are none, {HARDENING.steps} steps")
    work = folder / "hardening"
    refused, look = apart_from(kept_out()), looking(model, tokens)
    return train_judge(
        model, tokens, HARDENING, last_level, refused, look, hardening(name), work, notice, spoiling=SPOILT
    )


def harden_folder(source: Path, name: str, work: Path, notice: Notice) -> None:
    """A finished judge taught its last lessons, as a folder of its own in ``work``. One thread."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    record = json.loads((source / "training.json").read_text())
    if "hardened" in record:
        raise ConfigError(f"{source}: this judge has had its last lessons.")
    shutil.copytree(source, work / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training.json"))
    tokens = ChatTokenizer(source, where="practice world", trust_remote_code=False, notice=notice)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    figures = harden(model, tokens, name, work / name, notice)
    made = {key: record[key] for key in ("recipe", "grammar")}
    finish(model, work / name, {**made, "hardened": hardening(name)}, {**record["figures"], **figures})


def hardening(name: str) -> str:
    """Digest of what a judge's last lessons are drawn from, beside its recipe."""
    return digest(name, asdict(HARDENING), SPOILT, VAGUE, CLAIMS, PLEAS)


def last_level(done: float) -> tuple[Level, float]:
    """As hard as the lessons before became; the helpers know nothing of what no writer of this world writes."""
    hardest, _ = level(1.0)
    return hardest, 0.0


def apart_from(kept: Container[str]) -> Callable[[str], bool]:
    """Whether a wording is one that no training sees."""
    return lambda text: plain_text(text) in kept


def looking(model: Any, tokens: ChatTokenizer) -> Callable[[int], dict[str, float]]:
    """How well a judge does on papers of its own, while it learns."""

    def look(step: int) -> dict[str, float]:
        found = {}
        for way, drawing in WAYS.items():
            answers = sit(model, tokens, paper(Random(f"dev/{way}"), drawing, 240, ties=0.0))
            found[way] = right(answers).value or 0.0
        ties = sit(model, tokens, paper(Random("dev/ties"), WAYS["seen"], 120, ties=0.5))
        return {**found, "tie": from_one_half(ties).value or 0.0, "first": first_shown(ties).value or 0.0}

    return look


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def finish(model: Any, folder: Path, made: Mapping[str, str], figures: Mapping[str, float]) -> None:
    """Weights as bfloat16 safetensors beside the tokenizer, with what it took to make them and how well they did."""
    record = {
        "parameters": parameters(model),
        "torch": torch.__version__,
        **made,
        "figures": figures,
    }
    model.to(torch.bfloat16).save_pretrained(str(folder))
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def foreign(folder: Path) -> str:
    """A line of warning where a judge did not learn from this grammar: what is held out now, it may have learnt."""
    record = folder / "training.json"
    made = json.loads(record.read_text()).get("grammar") if record.is_file() else None
    if made == digest(grammar()):
        return ""
    return f"{folder}: not trained on this grammar of principles; what counts as held out here it may have learnt."


def build_models(names: Sequence[str], work: Path, notice: Notice) -> None:
    """Train the named models, or all of them, in ``work``; a finished one is left as it is. One thread."""
    known = ("policy", *JUDGES)
    for name in names:
        if name not in known:
            raise ConfigError(f'build: "{name}"?{did_you_mean(name, known)}')
    torch.set_num_threads(1)
    for name in names or known:
        if (work / name / "training.json").is_file():
            notice(f"{name}: finished in {work / name}")
        elif name == "policy":
            build_policy(work, notice)
        else:
            build_judge(name, work, notice)
