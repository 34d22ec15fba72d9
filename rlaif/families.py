"""Which family a model is of, by its name: judges are known to prefer replies of their own (Panickssery et al. 2024,
2404.13076)."""

from __future__ import annotations

import re

FAMILIES = {
    "openai": r"gpt(?!-?(?:j|neox?)(?![a-z]))|chatgpt|o[134](?![a-z])|davinci|openai",
    "anthropic": r"claude|anthropic",
    "google": r"gemini|gemma|palm(?!yra)|bison",
    "eleuther": r"gpt-?(?:j|neox?)(?![a-z])|pythia",
    "meta": r"(?:code)?llama(?!va)|vicuna|alpaca",
    "mistral": r"mi[sx]tral|ministral|codestral|magistral",
    "qwen": r"qwen|qwq",
    "deepseek": r"deepseek",
    "cohere": r"command[-_]|c4ai|aya[-_]|cohere",
    "microsoft": r"phi(?![a-z])",
    "xai": r"grok",
    "nvidia": r"nemotron",
    "allenai": r"olmo|tulu",
    "01": r"yi(?![a-z])",
    "zhipu": r"glm|chatglm",
    "moonshot": r"kimi|moonshot",
    "huggingface": r"smollm|zephyr",
}
_WORD = re.compile(r"(?:^|[^a-z])(" + "|".join(f"(?P<f{i}>{words})" for i, words in enumerate(FAMILIES.values())) + ")")


def family_of(name: str | None) -> str | None:
    """The family that a model's name speaks of; None where it names none. Of a path the last part counts, and in it the
    first word: ``deepseek/DeepSeek-R1-Distill-Llama-8B`` is of deepseek."""
    found = _WORD.search((name or "").lower().rstrip("/").rpartition("/")[2])
    return None if found is None else next(f for i, f in enumerate(FAMILIES) if found.group(f"f{i}"))


def same_family(one: str | None, other: str | None) -> bool:
    """Whether two names are one, or speak of one family; False where either speaks of none."""
    found = family_of(one)
    return bool(one) and (one == other or (found is not None and found == family_of(other)))
