"""Sampling and judging in this process, beside what one would otherwise write. `make bench-local`.

    python benchmarks/local.py [--quick]

One thread, one process, random weights: a Llama of about 3.5 million parameters with a byte-level BPE of its own, and
lengths as uneven as real ones (lognormal). The variants take turns, round after round, so that a machine that grows
busy slows all of them; a figure is the median over rounds of the ratio of CPU times, ``low`` and ``high`` the least and
the greatest round. The rivals get their best setting: it is searched for before the rounds begin.
On a GPU (``--device cuda --size 0.5b``) the seconds are those of the clock, and memory is the device's.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlaif.catalogue import Catalogue
from rlaif.config import Sampling
from rlaif.judging import PAIR_PLACEHOLDERS, PAIR_REQUIRED
from rlaif.models import ChatRequest
from rlaif.models.local import LocalModel, LocalOptions
from rlaif.models.rows import pad
from rlaif.prompting import Template
from rlaif.records import Message
from rlaif.training.trainer import quiet_libraries

VOCABULARY = 2547
SAMPLES = 4  # responses to each prompt
SIZES: dict[str, dict[str, int | bool]] = {  # of models with random weights; the larger have the shapes of published ones
    "small": {
        "hidden_size": 256, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151_936,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151_936,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 128_256,
    },
}  # fmt: skip
END_IDS = 94  # as many end-of-sequence ids as make a random model stop after 27 tokens on average
MAX_NEW = 96
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINCIPLES = (
    "Choose the reply that does more of what was asked.",
    "Choose the reply that is less likely to harm anyone.",
    "Choose the reply that says openly what it does not know.",
    "Choose the reply that is easier to read.",
    "Choose the reply that treats the person with more respect.",
    "Choose the reply that is shorter, where both say the same.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test of about a minute; its figures mean little")
    parser.add_argument("--only", choices=["sampling", "judging"], help="one of the two parts")
    place(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    quiet_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), args.size, args.device)
        for part in (sampling, judging):
            if args.only in (None, part.__name__):
                figures |= part(world, quick=args.quick)
    print(json.dumps(figures))


def keep_memory(size: int = 2**30) -> None:
    """Have glibc keep what is freed, in pieces of less than this many bytes, for all sides alike: how often pages are asked for anew
    would else depend on what ran before."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, size)


def place(parser: argparse.ArgumentParser) -> None:
    """Where to measure, and how large a model."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="parameters of the model, about")


# --- the model and its texts ------------------------------------------------------------------------------------------


class World:
    """A model folder and a source of texts of a wanted length, all from one seed."""

    def __init__(self, folder: Path, size: str, device: str) -> None:
        self.folder, self.device = folder / "model", device
        self.random = random.Random(0)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
        self.words = ["".join(self.random.choices(syllables, k=self.random.choice((1, 2, 2, 3)))) for _ in range(3000)]
        self.template = _template()
        hf = self._tokenizer()
        torch.manual_seed(0)
        shape = {"vocab_size": len(hf), "max_position_embeddings": 8192, **SIZES[size]}
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=0, bos_token_id=None, eos_token_id=2))
        if device != "cpu":
            model.to(torch.bfloat16)
        model.generation_config.eos_token_id = self.ends(model.config.vocab_size)
        model.generation_config.pad_token_id = 0
        model.save_pretrained(str(self.folder))
        hf.save_pretrained(str(self.folder))
        self.parameters = sum(p.numel() for p in model.parameters())

    def ends(self, vocabulary: int) -> list[int]:
        """Ids that end a response, so many that a random model stops after 27 tokens on average."""
        return [2, *range(vocabulary - round(END_IDS * vocabulary / VOCABULARY) + 1, vocabulary)]

    def _tokenizer(self) -> Any:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        corpus = [*PRINCIPLES, *(body for _, body in self.template.sections), rubric(), *["", "A", "B"]]
        raw.train_from_iterator(
            [*(text for text in corpus for _ in range(50)), *(self._sentence(60) for _ in range(1500))],
            trainers.BpeTrainer(
                vocab_size=VOCABULARY,
                special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=raw,
            pad_token="<pad>",
            eos_token="<|im_end|>",
            additional_special_tokens=["<|im_start|>"],
            chat_template=CHATML,
        )

    def _sentence(self, words: int) -> str:
        """Words by a law like Zipf's."""
        return " ".join(self.words[int(len(self.words) ** self.random.random()) - 1] for _ in range(words))

    def text(self, tokens: int, hf: Any) -> str:
        """Words that make about so many tokens."""
        ids = hf(self._sentence(tokens + 4), add_special_tokens=False)["input_ids"][: max(1, tokens)]
        return str(hf.decode(ids))

    def length(self, mean: float, sigma: float, most: int) -> int:
        """A lognormal length with this mean."""
        return min(most, max(2, round(self.random.lognormvariate(0, sigma) * mean / 2.718281828 ** (sigma**2 / 2))))

    def open(self, **options: Any) -> LocalModel:
        return LocalModel(
            str(self.folder), LocalOptions(device=self.device, **options), where="benchmark", notice=print
        )


def _template() -> Template:
    entry = Catalogue().find("template", "builtin:compare-two-local", where="benchmark")
    return Template.parse(entry.text, where="template", allowed=PAIR_PLACEHOLDERS, required=PAIR_REQUIRED)


def rubric() -> str:
    return str(Catalogue().find("rubric", "builtin:helpful-and-safe", where="benchmark").text).strip()


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Variant:
    """One way of doing the work. ``run(round)`` returns how much useful work it did."""

    name: str
    run: Callable[[int], float]
    device: str
    used: list[float] = field(default_factory=list)  # seconds of the CPU, or of the GPU, per unit of work, by round
    wall: list[float] = field(default_factory=list)
    tried: float = math.inf  # seconds per unit of work in one run, when the fastest was looked for; inf: out of memory
    work: float = 0.0
    positions: float = 0.0  # token positions the network computed, padding included, per unit of work
    peak_mb: float = 0.0

    def measure(self, number: int) -> None:
        """One more round, on a CPU in a process of its own: what other variants left of the memory does not slow it."""
        used, wall, self.work = (
            apart(self.name, lambda: self._timed(number)) if self.device == "cpu" else self._timed(number)
        )
        self.used.append(used / self.work)
        self.wall.append(wall / self.work)

    def _timed(self, number: int) -> list[float]:
        used, wall = seconds(self.device), time.perf_counter()
        work = self.run(number)
        return [seconds(self.device) - used, time.perf_counter() - wall, work]


def seconds(device: str) -> float:
    """Of this process on the CPU; by the clock on a GPU, when it has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def rounds(title: str, unit: str, variants: Sequence[Variant], count: int) -> dict[str, Variant]:
    """All variants in turn, every other round in reverse order, after one run apart for memory and positions."""
    for variant in variants:
        variant.peak_mb, variant.positions = on_gpu(variant) if variant.device != "cpu" else on_cpu(variant)
    for number in range(count):
        for variant in variants if number % 2 == 0 else list(reversed(variants)):
            variant.measure(number + 1)
    print(f"\n{title}\n{'':38}{unit + per(variants[0].device):>16}{'wall':>10}{'computed':>12}{'peak MB':>10}")
    for variant in variants:
        per_used, per_wall = 1 / statistics.median(variant.used), 1 / statistics.median(variant.wall)
        print(f"{variant.name:38}{per_used:16,.1f}{per_wall:10,.1f}{variant.positions:12.2f}{variant.peak_mb:10,.0f}")
    print(f"computed: token positions through the network, padding included, for each of the {unit}", flush=True)
    return {variant.name: variant for variant in variants}


def per(device: str) -> str:
    return "/cpu-s" if device == "cpu" else "/s"


def ratio(ours: Variant, rival: Variant) -> dict[str, float]:
    """How many times as fast: median, least and greatest over the rounds, by the CPU's time or the GPU's."""
    values = [b / a for a, b in zip(ours.used, rival.used, strict=True)]
    wall = statistics.median(b / a for a, b in zip(ours.wall, rival.wall, strict=True))
    found = {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}
    found = {key: round(value, 3) for key, value in found.items()}
    print(
        f"{ours.name} / {rival.name}: {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}), wall {wall:.2f}"
    )
    return found


def single(value: float) -> dict[str, Any]:
    """A figure of one run."""
    return {"value": value, "low": None, "high": None, "n": 1}


def fastest(variants: Sequence[Variant]) -> Variant:
    """The variant with the least time in one run each, of those that the memory of the device allows."""
    for variant in variants:
        try:
            variant.measure(1)
            variant.tried = variant.used.pop()
            variant.wall.clear()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    best = min(variants, key=lambda variant: variant.tried)
    found = (
        f"{v.name} {1 / v.tried:,.1f}{per(v.device)}" if v.tried < math.inf else f"{v.name} out of memory"
        for v in variants
    )
    print(", ".join(found) + f": taking {best.name}", flush=True)
    return best


def on_gpu(variant: Variant) -> tuple[float, float]:
    """One run: peak memory of the device in MB above the start, and token positions per unit of work."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(variant.device)
    torch.cuda.reset_peak_memory_stats(variant.device)
    with positions() as counted:
        work = variant.run(0)
    return (torch.cuda.max_memory_allocated(variant.device) - before) / 2**20, sum(counted) / work


def on_cpu(variant: Variant) -> list[float]:
    """One run: its peak memory in MB above the start, and token positions per unit of work."""
    if not Path("/proc/self/clear_refs").exists():
        return [0.0, 0.0]

    def looked() -> list[float]:
        keep_memory(2**17)  # what is kept is not needed
        ctypes.CDLL(None).malloc_trim(0)  # what is kept of earlier work would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        with positions() as counted:
            work = variant.run(0)
        return [(_status("VmHWM") - before) / 1024, sum(counted) / work]

    return apart(variant.name, looked)


def apart(name: str, work: Callable[[], Sequence[float]]) -> list[float]:
    """The numbers that ``work`` gives in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gc.freeze()  # trainers look for garbage once: what was there before is none
            os.write(writer, " ".join(map(repr, work())).encode())
        finally:
            if sys.exc_info()[0]:
                traceback.print_exc()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = [float(each) for each in pipe.read().split()]
    os.waitpid(child, 0)
    if not found:
        raise SystemExit(f"{name}: its run in a process of its own failed.")
    return found


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


@contextmanager
def positions() -> Iterator[list[int]]:
    """Token positions of each pass through a Llama's body, padding included."""
    from transformers import LlamaModel

    found: list[int] = []
    plain = LlamaModel.forward

    @functools.wraps(plain)
    def counted(self: Any, input_ids: Any = None, **rest: Any) -> Any:
        found.append(input_ids.numel())
        return plain(self, input_ids, **rest)

    LlamaModel.forward = counted
    try:
        yield found
    finally:
        LlamaModel.forward = plain


# --- K samples of each prompt -----------------------------------------------------------------------------------------


def sampling(world: World, *, quick: bool) -> dict[str, dict[str, float]]:
    """K = 4 samples a prompt, beside `generate` on left-padded batches in the order of the prompts."""
    model = world.open(batch_tokens=8_192)  # in batches of as much memory as generate's; the default takes more
    network, hf = model.network, model.tokens.hf
    prompts = [
        (Message(role="user", content=world.text(world.length(92, 0.7, 600), hf)),) for _ in range(8 if quick else 32)
    ]
    settings = Sampling(max_output_tokens=MAX_NEW)

    def ours(number: int) -> float:
        requests = [
            ChatRequest(messages=prompt, sampling=settings, seed=number, sample_index=k)
            for prompt in prompts
            for k in range(SAMPLES)
        ]
        return float(sum(r.output_tokens for batch in model.plan(requests) for r in _answer(model, requests, batch)))

    def generate(number: int, at_once: int) -> float:
        torch.manual_seed(number)
        tokens = 0
        for start in range(0, len(prompts), at_once):
            ids = [model.tokens.prompt_ids(p) for p in prompts[start : start + at_once]]
            inputs, mask = pad(ids, 0, world.device, left=True)
            with torch.inference_mode():
                out = network.generate(
                    input_ids=inputs,
                    attention_mask=mask,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=MAX_NEW,
                    num_return_sequences=SAMPLES,
                )
            hf.batch_decode(out[:, inputs.shape[1] :], skip_special_tokens=True)
            tokens += sum(_until_end(row, model.tokens.eos_ids) for row in out[:, inputs.shape[1] :].tolist())
        return float(tokens)

    sizes = (4, 8) if quick else (4, 8, 16, 32)
    best = fastest(
        [Variant(f"generate, {n * SAMPLES} rows", lambda r, n=n: generate(r, n), world.device) for n in sizes]
    )
    found = rounds(
        f"Sampling: {len(prompts)} prompts, K = {SAMPLES}, at most {MAX_NEW} tokens; {world.parameters:,} parameters",
        "tokens",
        [Variant("rlaif", ours, world.device), best],
        1 if quick else 5,
    )
    memory = round(found["rlaif"].peak_mb / max(1.0, best.peak_mb), 3)
    return {
        "sampling.ratio_to_generate": ratio(found["rlaif"], best),
        "sampling.memory_to_generate": single(memory),
    }


def _answer(model: LocalModel, requests: list[ChatRequest], batch: list[int]) -> list[Any]:
    return model.complete_batch([requests[i] for i in batch])


def _until_end(row: list[int], ends: frozenset[int]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in ends), len(row))


# --- judging ----------------------------------------------------------------------------------------------------------


def judging(world: World, *, quick: bool) -> dict[str, dict[str, float]]:
    """Both orders, six principles; beside batched padded passes and one-at-a-time `generate` of one token."""
    model = world.open()
    network, hf = model.network, model.tokens.hf
    requests = [
        ChatRequest(messages=messages, prefill=world.template.prefill, options=("A", "B"))
        for _ in range(3 if quick else 16)
        for messages in _questions(world, hf)
    ]
    option_ids = [sorted(model.tokens.option_ids("", option))[0] for option in ("A", "B")]

    def forget() -> None:
        """A judge meets new questions: what was tokenised in an earlier round does not count."""
        model._ids.cache_clear()
        model._option_ids.cache_clear()

    def ours(number: int) -> float:
        forget()
        for batch in model.plan(requests):
            _answer(model, requests, batch)
        return float(len(requests))

    def encode(request: ChatRequest) -> list[int]:
        return model.tokens.prompt_ids(request.messages, request.prefill)

    @torch.inference_mode()
    def padded(number: int, at_once: int, by_length: bool) -> float:
        rows = [encode(request) for request in requests]
        if by_length:
            rows.sort(key=len)
        for start in range(0, len(rows), at_once):
            ids, mask = pad(rows[start : start + at_once], 0, world.device, left=True)
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = network(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1).logits
            logits[:, -1].log_softmax(-1)[:, option_ids].tolist()
        return float(len(requests))

    @torch.inference_mode()
    def generate(number: int) -> float:
        some = requests[:: 4 if not quick else 1]  # one at a time: a quarter tells as much
        for request in some:
            ids = torch.tensor([encode(request)], device=world.device)
            out = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=1,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            out.scores[0].log_softmax(-1)[0, option_ids].tolist()
        return float(len(some))

    best = fastest(
        [
            Variant(
                f"padded, {n} rows{', by length' if by_length else ''}",
                lambda r, n=n, b=by_length: padded(r, n, b),
                world.device,
            )
            for n in ((12,) if quick else (12, 32, 96))
            for by_length in (False, True)
        ]
    )
    mean = statistics.mean(len(encode(request)) for request in requests)
    found = rounds(
        f"Judging: {len(requests)} questions of {mean:.0f} tokens (both orders, {len(PRINCIPLES)} principles)",
        "verdicts",
        [
            Variant("rlaif", ours, world.device),
            best,
            Variant("generate, one at a time", generate, world.device),
        ],
        1 if quick else 5,
    )
    return {
        "judging.ratio_to_padded": ratio(found["rlaif"], best),
        "judging.ratio_to_generate": ratio(found["rlaif"], found["generate, one at a time"]),
    }


def _questions(world: World, hf: Any) -> Iterator[tuple[Message, ...]]:
    """One comparison in both orders under every principle: a prompt of 35 tokens, two responses of about 25."""
    prompt = world.text(world.length(35, 0.3, 120), hf)
    replies = [world.text(world.length(25, 0.3, 100), hf) for _ in range(2)]
    fence = f"{world.random.getrandbits(64):016x}"
    for shown in (replies, replies[::-1]):
        for principle in PRINCIPLES:
            yield world.template.fill(
                {
                    "rubric": rubric(),
                    "principle": principle,
                    "prompt": prompt,
                    "response_1": shown[0],
                    "response_2": shown[1],
                    "fence": fence,
                }
            )


if __name__ == "__main__":
    main()
