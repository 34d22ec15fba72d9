"""Train a small chat model, or a small judge, from a file of pairs, on a CPU in minutes.

    python benchmarks/small_model.py chat  --pairs pairs.jsonl.gz --out models/small-chat
    python benchmarks/small_model.py judge --pairs pairs.jsonl.gz --out models/small-judge

For trying the pipelines on real data without downloading anything. The chat model learns both replies of every pair,
good and bad; its text is poor. The judge learns to answer A or B where the template ``compare-two-local`` asks; what it
knows of quality is what a few thousand labels can teach so small a network, which is little.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlaif.catalogue import Catalogue
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.models.rows import pad
from rlaif.pairs import Pair, read_pairs
from rlaif.prompting import Template, fence_for
from rlaif.records import Comparison, Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["chat", "judge"])
    parser.add_argument("--pairs", required=True, help="a file that `rlaif label` reads")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=3000)
    parser.add_argument("--max-tokens", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    pairs = [pair for pair in read_pairs(args.pairs) if not isinstance(pair.comparison, str)]
    args.out.mkdir(parents=True, exist_ok=True)
    tokens = build_tokenizer(pairs, args.vocabulary, args.out)
    model = build_model(args, len(tokens.hf))
    rows = list(chat_rows(pairs, tokens) if args.task == "chat" else judge_rows(pairs, tokens))
    rows = [(prompt, reply) for prompt, reply in rows if len(prompt) + len(reply) <= args.max_tokens]
    print(f"{len(rows)} rows, {sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, rows, args, whole=args.task == "chat", pad_id=tokens.pad_id)
    model.save_pretrained(str(args.out))


def build_tokenizer(pairs: list[Pair], size: int, out: Path) -> ChatTokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    texts = [text for pair in pairs for text in _texts(pair)]
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    ).save_pretrained(str(out))
    return ChatTokenizer(out, where="small model", trust_remote_code=False, notice=print)


def _texts(pair: Pair) -> Iterator[str]:
    assert isinstance(pair.comparison, Comparison)
    yield from (message.content for message in pair.comparison.prompt.messages)
    yield from (response.text for response in pair.comparison.responses)


def build_model(args: argparse.Namespace, vocabulary: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=args.hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


Row = tuple[list[int], list[int]]


def chat_rows(pairs: list[Pair], tokens: ChatTokenizer) -> Iterator[Row]:
    """Every reply after its prompt."""
    for pair in pairs:
        assert isinstance(pair.comparison, Comparison)
        prompt = pair.comparison.prompt.messages
        for response in pair.comparison.responses:
            yield tokens.prompt_ids(prompt), tokens.response_ids(prompt, response.messages)


def judge_rows(pairs: list[Pair], tokens: ChatTokenizer) -> Iterator[Row]:
    """The judge's question in both orders, answered by the label. The constitution's place is left empty."""
    catalogue = Catalogue()
    entry = catalogue.find("template", "builtin:compare-two-local", where="small model")
    template = Template.parse(entry.text, where="template", allowed=PAIR_PLACEHOLDERS, required=PAIR_REQUIRED)
    rubric = catalogue.find("rubric", "builtin:helpful-and-safe", where="small model").text.strip()
    for pair in pairs:
        comparison = pair.comparison
        assert isinstance(comparison, Comparison)
        if not pair.votes or pair.votes[0].p not in (0.0, 1.0):
            continue
        better = (
            pair.first if pair.votes[0].p == 1.0 else next(r.id for r in comparison.responses if r.id != pair.first)
        )
        texts = [comparison.prompt.text, *(response.text for response in comparison.responses)]
        for shown in (comparison.responses, comparison.responses[::-1]):
            values = {
                "rubric": rubric,
                "principle": "",
                "prompt": comparison.prompt.text,
                "response_1": shown[0].text,
                "response_2": shown[1].text,
                "fence": fence_for(b"small model", comparison.id, texts),
            }
            messages = template.fill(values)
            answer = Message(role="assistant", content=" A" if shown[0].id == better else " B")
            yield tokens.prompt_ids(messages, template.prefill), tokens.response_ids(messages, [answer])


def train(model: Any, rows: list[Row], args: argparse.Namespace, *, whole: bool, pad_id: int) -> None:
    """Next-token cross-entropy, on the whole conversation or on the reply alone; batches of similar length."""
    order = random.Random(args.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.1)
    start, losses = time.perf_counter(), []
    for step in range(args.steps):
        drawn = sorted(order.sample(rows, min(len(rows), 4 * args.batch)), key=lambda row: len(row[0]) + len(row[1]))
        first = order.randrange(0, max(1, len(drawn) - args.batch))
        batch = drawn[first : first + args.batch]
        ids, mask = pad([[*prompt, *reply] for prompt, reply in batch], pad_id, "cpu")
        counted = mask[:, 1:].bool()
        if not whole:
            for i, (prompt, _) in enumerate(batch):
                counted[i, : len(prompt) - 1] = False
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[counted], ids[:, 1:][counted])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss))
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            print(
                f"step {step + 1}: loss {sum(losses[-100:]) / len(losses[-100:]):.3f}, {time.perf_counter() - start:.0f} s"
            )


if __name__ == "__main__":
    main()
