"""The tokenizers of the embedded models: byte-level BPE over the world's own text, with a chat template.

Turns stand between control tokens that no text can become, so what is to be judged needs no other fence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.world.chat import KINDS, Habits, ask, criticised, manner, reply
from rlaif.world.oracle import FAMILIES
from rlaif.world.principles import draw

SPECIAL = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def texts(rng: Random, number: int, *, principles: bool) -> Iterator[str]:
    """What a tokenizer learns its words from."""
    for _ in range(number):
        question = ask(rng, rng.choice(KINDS), held_out=False)
        how = manner(rng, question, Habits(alpha=0.5))
        text, _ = reply(rng, question, how)
        yield from (message.content for message in criticised(rng, question, how, text))
        if principles:
            yield draw(rng, rng.choice(FAMILIES), negation=0.5).text


def build_tokenizer(folder: Path, seed: int, *, size: int, judge: bool, conversations: int = 30_000) -> ChatTokenizer:
    """Learn a tokenizer and save it in ``folder``. A judge's reads without regard to capitals: it writes no text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw: Any = Tokenizer(models.BPE())
    if judge:
        raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=judge)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts(Random(f"{seed}/tokenizer"), conversations, principles=judge), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<|end|>", chat_template=TEMPLATE
    ).save_pretrained(str(folder))
    return ChatTokenizer(folder, where="practice world", trust_remote_code=False, notice=print)
