"""Small models of several architectures, built from configurations: real folders for the real loading code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHATML = (
    "{{ bos_token or '' }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "I",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "or",
    "had",
    "by",
    "hot",
    "word",
    "but",
    "what",
    "some",
    "we",
    "can",
    "out",
    "other",
    "were",
    "all",
    "there",
    "when",
    "up",
    "use",
    "your",
    "how",
    "said",
    "an",
    "each",
    "she",
    "which",
    "do",
    "their",
    "time",
    "if",
    "will",
    "way",
    "about",
    "many",
    "then",
    "them",
    "write",
    "would",
    "like",
    "so",
    "these",
    "her",
    "long",
    "make",
    "thing",
    "see",
    "him",
    "two",
    "has",
    "look",
    "more",
    "day",
    "could",
    "go",
    "come",
    "did",
    "number",
    "sound",
    "no",
    "most",
    "people",
    "my",
    "over",
    "know",
    "water",
    "than",
    "call",
    "first",
    "who",
    "may",
    "down",
    "side",
    "been",
    "now",
    "find",
    "any",
    "new",
    "work",
    "part",
    "The",
    "reply",
    "better",
    "safe",
    "harm",
    "help",
    "please",
    "sorry",
    "cannot",
    "A",
    "B",
    "C",
    "1",
    "2",
    "3",
    "conversation",
    "end",
    "Assistant",
    "User",
]


def tokenizer(
    texts: Iterable[str] = (), size: int = 600, *, template: str | None = CHATML, padding: str = "right"
) -> Any:
    """A byte-level BPE with chat markers, trained on ``texts`` and a word list."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([*texts, *(f" {word}" for word in WORDS), *WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
        padding_side=padding,
    )


def config(kind: str, vocab: int, *, hidden: int = 48, layers: int = 2, context: int = 512) -> Any:
    """A small configuration of one architecture."""
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
    }
    makers = {
        "llama": lambda: t.LlamaConfig(**common),
        "qwen2": lambda: t.Qwen2Config(**common),
        "qwen3": lambda: t.Qwen3Config(**common, head_dim=hidden // 4),
        "mistral": lambda: t.MistralConfig(**common, sliding_window=16),
        # one local layer with a window shorter than the rows, one global layer
        "gemma3": lambda: t.Gemma3TextConfig(
            **common,
            head_dim=hidden // 4,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"] * (layers // 2),
        ),
        "gemma2": lambda: t.Gemma2Config(
            **common,
            head_dim=hidden // 4,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"] * (layers // 2),
        ),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=vocab, n_embd=hidden, n_layer=layers, n_head=4, n_positions=context, n_inner=2 * hidden
        ),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=2 * hidden, max_position_embeddings=context,
        ),
        "opt": lambda: t.OPTConfig(
            vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, ffn_dim=2 * hidden,
            max_position_embeddings=context, word_embed_proj_dim=hidden,
        ),
        "falcon": lambda: t.FalconConfig(
            vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4, alibi=False
        ),
        "phi3": lambda: t.Phi3Config(**common, sliding_window=16, pad_token_id=0),
        "olmo2": lambda: t.Olmo2Config(**common),
        # heads with sinks, one local layer and one global
        "gpt_oss": lambda: t.GptOssConfig(
            **common, head_dim=hidden // 4, sliding_window=8, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
            layer_types=["sliding_attention", "full_attention"] * (layers // 2),
        ),
        # frequencies of positions that change beyond 32
        "longrope": lambda: t.Phi3Config(
            **common, pad_token_id=0, original_max_position_embeddings=32,
            rope_parameters={
                "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32,
                "short_factor": [1.0] * (hidden // 8), "long_factor": [4.0] * (hidden // 8),
            },
        ),
        # layers that carry a state from token to token
        "jamba": lambda: t.JambaConfig(
            **common, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, num_experts=1,
            mamba_dt_rank=4, pad_token_id=0,
        ),
        "lfm2": lambda: t.Lfm2Config(**common, layer_types=["conv", "full_attention"] * (layers // 2), pad_token_id=0),
        # attention scaled by how far on in the input a token stands
        "llama4": lambda: t.Llama4TextConfig(
            **common, intermediate_size_mlp=2 * hidden, head_dim=hidden // 4, num_local_experts=1, no_rope_layers=[1, 0],
            pad_token_id=0,
        ),
        "bloom": lambda: t.BloomConfig(vocab_size=vocab, hidden_size=hidden, n_layer=layers, n_head=4),
    }  # fmt: skip
    return makers[kind]()


def build(
    folder: Path,
    kind: str = "llama",
    *,
    texts: Iterable[str] = (),
    template: str | None = CHATML,
    padding: str = "right",
    eos: list[int] | None = None,
    seed: int = 0,
    sharpen: float = 1.0,
    **sizes: int,
) -> Path:
    """A model folder with random weights. ``eos``: several end-of-sequence ids in its generation config. ``sharpen`` scales the
    logits, so that a random judge has opinions."""
    import torch
    from transformers import AutoModelForCausalLM

    words = tokenizer(texts, template=template, padding=padding)
    torch.manual_seed(seed)
    settings = config(kind, len(words), **sizes)
    settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = 0, 1, words.eos_token_id
    model = AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        model.get_output_embeddings().weight *= sharpen
    model.generation_config.eos_token_id = eos or words.eos_token_id
    model.generation_config.pad_token_id = 0
    model.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
