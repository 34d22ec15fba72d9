"""A model from a Hugging Face folder, in this process.

Generation: each prompt prefilled once for its K samples, rows bucketed by length, finished rows dropped. Every random
draw is keyed by (seed, prompt, sample index, step), so a sample does not depend on what else is in its batch. Scoring:
the log-probabilities of option tokens, requests with a common beginning sharing its computation.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError, ModelError
from rlaif.models import TOO_LONG, ChatRequest, Identity, Notice, Reply
from rlaif.models.chat_tokens import ChatTokenizer
from rlaif.records import Role, digest

ADAPTER_CONFIG = "adapter_config.json"

HASH_BLOCK = 2**23  # bytes of weights read at a time
COMPACT_SHARE = 0.1  # finished rows are dropped once they are this share of the batch
TOP_TOKENS = 5  # likeliest tokens kept beside the options, for eyes


class LocalOptions(BaseOptions):
    """How a folder is loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on a CPU, as saved elsewhere
    device: str = "auto"
    adapter: str | None = None  # a PEFT adapter folder laid over the weights
    attention: str | None = (
        None  # transformers' attn_implementation; of packed passes: eager by products, else torch's fused one
    )
    trust_remote_code: bool = False
    batch_tokens: int = Field(default=16_384, ge=1)  # padded tokens one batch may hold, generated ones included


def model_folder(name: str, where: str) -> Path:
    """The folder behind a model's name: a path, or ``package:module/folder`` inside an installed package."""
    if name.startswith("package:"):
        package, _, rest = name.removeprefix("package:").partition("/")
        try:
            path = Path(str(importlib.resources.files(package))) / rest
        except ModuleNotFoundError as error:
            raise ModelError(f'{where}: package "{package}" is not installed.') from error
    else:
        path = Path(name)
    if not path.is_dir():
        raise ModelError(f"{where}: model folder {name} does not exist (a local Hugging Face folder is expected).")
    if not (path / "config.json").is_file():
        adapter = " It is an adapter: name its base, and it as options.adapter." if is_adapter(path) else ""
        raise ModelError(f"{where}: {name} has no config.json: not a Hugging Face model folder.{adapter}")
    if is_adapter(path):
        raise ModelError(
            f"{where}: {name} holds an adapter beside the model ({ADAPTER_CONFIG}), which other libraries would lay over it unasked. "
            "What would do: the adapter in a folder of its own, named as options.adapter, or no adapter."
        )
    if not list(path.glob("*.safetensors")):
        found = " It holds pytorch_model.bin: convert it to safetensors first." if list(path.glob("*.bin")) else ""
        raise ModelError(f"{where}: {name} has no .safetensors weights.{found}")
    return path


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, as peft writes it."""
    return (folder / ADAPTER_CONFIG).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The weights and the configuration that gives them meaning."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob(ADAPTER_CONFIG)])


def weights_hash(folder: Path, read: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 over the weights and their configuration; ``read`` hears of every block of bytes that was read."""
    whole = hashlib.sha256()
    for path in weight_files(folder):
        own = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                own.update(block)
                read(len(block))
        whole.update(path.name.encode() + own.digest())
    return whole.hexdigest()


class LocalModel:
    """A BatchModel. The tokenizer is loaded at once, so that mistakes show early; the network on first use."""

    Options = LocalOptions

    def __init__(self, model: str, options: LocalOptions, *, where: str, notice: Notice) -> None:
        self.where, self.options, self.notice = where, options, notice
        self.folder = model_folder(model, where)
        self.adapter = Path(options.adapter) if options.adapter else None
        if self.adapter and not (self.adapter / "adapter_config.json").is_file():
            raise ModelError(f"{where}: {self.adapter} is not a PEFT adapter folder (no adapter_config.json).")
        self.tokens = ChatTokenizer(
            self.folder, where=where, trust_remote_code=options.trust_remote_code, notice=notice
        )
        self.dtype = options.dtype if options.dtype != "auto" else self._natural_dtype()
        self.name = str(model)
        self._identity: Identity | None = None
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config", config)
        self.context: int = text.get("max_position_embeddings") or text.get("n_positions") or 2**20
        self._network: Any = None
        self.share = self.caches = True  # whether rows share their prompt in scoring, and in sampling
        # rendered and tokenised in planning, wanted again in answering
        self._ids = functools.lru_cache(16_384)(lambda m, prefill: tuple(self.tokens.prompt_ids(m, prefill)))
        self._option_ids = functools.lru_cache(4_096)(self.tokens.option_ids)

    @property
    def identity(self) -> Identity:
        """Hashes of everything that could change a reply; the weights are read for it once."""
        return self.identify()

    def identify(self, done: Callable[[int, int], None] = lambda read, total: None) -> Identity:
        """The identity; ``done`` follows the reading of the weights: bytes read, bytes in all."""
        if self._identity is None:
            files = [path for folder in (self.folder, self.adapter) if folder for path in weight_files(folder)]
            total = sum(path.stat().st_size for path in files)
            finished = 0

            def read(count: int) -> None:
                nonlocal finished
                finished += count
                done(finished, total)

            self._identity = Identity(
                name=self.name,
                revision=None,
                facts=(
                    ("provider", "local"),
                    ("weights", weights_hash(self.folder, read)),
                    ("adapter", weights_hash(self.adapter, read) if self.adapter else ""),
                    ("template", self.tokens.sha256),
                    ("dtype", self.dtype),
                ),
            )
        return self._identity

    def _natural_dtype(self) -> str:
        device = resolve_device(self.options.device)
        if device == "cpu":
            return "float32"
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")

    @property
    def network(self) -> Any:
        """The causal language model, loaded and self-tested on first use."""
        if self._network is None:
            from rlaif.models.shared_prompt import sharing_works

            self._network = load_network(self.folder, self.options, self.dtype, self.where, adapter=self.adapter).eval()
            self.share, why = sharing_works(self._network, self.tokens.pad_id)
            if not self.share:
                self.notice(f"{self.where}: prompts are not shared between rows that this model scores ({why}).")
            self.caches = self.caches_work(self._network)
        return self._network

    def caches_work(self, network: Any) -> bool:
        """Whether this network goes on from a cache of prompts, as far as a test can tell; said where not."""
        from rlaif.models.shared_prompt import cache_self_test, sharing_works

        found, why = sharing_works(network, self.tokens.pad_id, test=cache_self_test)
        if not found:
            self.notice(f"{self.where}: prompts are not shared between rows that this model samples ({why}).")
        return found

    def separates_turns(self, roles: Sequence[Role]) -> bool:
        """Whether judged text may stand in turns of its own without a fence."""
        return self.tokens.separates_turns(roles)

    def without_classifier(self) -> str:
        """The model's type where transformers offers no scalar head for it, else ""; a folder's own code may bring one."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

        kind = str(json.loads((self.folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
        known = kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES or self.options.trust_remote_code
        return "" if known else kind

    def linear_layers(self) -> list[str]:
        """Names of the linear layers of the network, without its weights; none of one that a folder's own code makes."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.pytorch_utils import Conv1D

        if self.options.trust_remote_code:
            return []
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(str(self.folder), local_files_only=True)
            )
        return [name for name, module in network.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]

    def unload(self) -> None:
        """Give the weights' memory back; the next request loads them again."""
        self._network = None

    # --- planning -----------------------------------------------------------------------------------------------------

    def plan(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Batches of like requests, similar in length, those with a common beginning together."""
        items = [self._prepare(i, request) for i, request in enumerate(requests)]
        groups: dict[str, list[_Item]] = {}
        for item in items:
            groups.setdefault(item.kind, []).append(item)
        batches: list[list[int]] = []
        for _, members in sorted(groups.items()):
            ordered = sorted(members, key=lambda item: (item.ids, item.index))
            clusters = cluster([item.ids for item in ordered], equal=ordered[0].new > 0)
            sized = sorted(clusters, key=lambda c: (c.prefix, max(len(ordered[m].ids) for m in c.members)))
            batches += self._fill(sized, ordered)
        return batches

    def _fill(self, clusters: list[Cluster], items: list[_Item]) -> list[list[int]]:
        batches: list[list[int]] = []
        batch: list[Cluster] = []
        for candidate in clusters:
            if batch and self._cost([*batch, candidate], items) > self.options.batch_tokens:
                batches.append([items[m].index for c in batch for m in c.members])
                batch = []
            batch.append(candidate)
        if batch:
            batches.append([items[m].index for c in batch for m in c.members])
        return batches

    @staticmethod
    def _cost(clusters: list[Cluster], items: list[_Item]) -> int:
        rows = sum(len(c.members) for c in clusters)
        prefix = max(c.prefix for c in clusters)
        suffix = max(len(items[m].ids) - c.prefix for c in clusters for m in c.members)
        new = max(items[m].new for c in clusters for m in c.members)
        return len(clusters) * prefix + rows * (suffix + new + (prefix if new else 0))

    def _prepare(self, index: int, request: ChatRequest) -> _Item:
        ids = self._ids(request.messages, request.prefill)
        new = 0 if request.options else request.sampling.max_output_tokens
        kind = "score" if request.options else "generate " + request.sampling.model_dump_json()
        return _Item(index, ids, new, kind)

    def objection(self, request: ChatRequest) -> str | None:
        """Why this request cannot be answered by this model: it wants a schema followed, or its turns do not fit the
        template, or the context."""
        if request.json_schema:
            return (
                "a model in this process cannot be held to a JSON schema: set options.structured to false in the judge"
            )
        new = 1 if request.options else request.sampling.max_output_tokens
        try:
            length = len(self._ids(request.messages, request.prefill))
        except ModelError as error:
            return str(error)
        if length + new > self.context:
            return f"prompt and {new} new tokens {TOO_LONG} of {self.context} tokens"
        return None

    # --- answering ----------------------------------------------------------------------------------------------------

    def complete_batch(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """Replies in the order of ``requests``; all of one kind, as ``plan`` grouped them."""
        import torch

        with torch.inference_mode():
            if requests[0].options:
                return self._score(requests)
            return self._generate(requests)

    def _rows(self, requests: Sequence[ChatRequest]) -> tuple[Any, list[tuple[int, ...]], list[int]]:
        """Shared-prompt rows for the requests, their ids, and for each row the request it belongs to."""
        from rlaif.models.rows import Rows

        ids = [self._ids(r.messages, r.prefill) for r in requests]
        order = sorted(range(len(ids)), key=lambda i: (ids[i], i))
        clusters = cluster([ids[i] for i in order], equal=not requests[0].options)
        prefixes = tuple(ids[order[c.members[0]]][: c.prefix] for c in clusters)
        owner = tuple(n for n, c in enumerate(clusters) for _ in c.members)
        members = [order[m] for c in clusters for m in c.members]
        suffixes = tuple(ids[m][len(prefixes[o]) :] for m, o in zip(members, owner, strict=True))
        return Rows(prefixes, owner, suffixes), ids, members

    def _score(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        from rlaif.models.shared_prompt import last_logits

        network = self.network
        rows, ids, members = self._rows(requests)
        logprobs = last_logits(network, rows, self.tokens.pad_id, share=self.share).double().log_softmax(-1).cpu()
        replies: dict[int, Reply] = {}
        for row, member in enumerate(members):
            request = requests[member]
            before = self.tokens.prompt_text(request.messages) + request.prefill
            wanted = {i for option in request.options for i in self._option_ids(before[-32:], option)}
            wanted.update(logprobs[row].topk(TOP_TOKENS).indices.tolist())
            found = sorted(((float(logprobs[row, i]), i) for i in wanted), reverse=True)
            replies[member] = Reply(
                text=self.tokens.token_text(found[0][1]),
                logprobs=tuple((self.tokens.token_text(i), value) for value, i in found),
                prompt_tokens=len(ids[member]),
            )
        return [replies[i] for i in range(len(requests))]

    def _generate(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        rows, ids, members = self._rows(requests)
        draws = np.stack([self._draws(requests[m], ids[m]) for m in members])
        sampled = Generation(self, rows, requests[members[0]], draws, [ids[m] for m in members]).run()
        replies: dict[int, Reply] = {}
        for member, (tokens, stopped) in zip(members, sampled, strict=True):
            text = self.tokens.decode(tokens)
            text, cut = _cut_at_stop(text, requests[member].sampling.stop)
            replies[member] = Reply(
                text=text,
                finish_reason="stop" if stopped or cut else "length",
                token_ids=tuple(tokens),
                prompt_tokens=len(ids[member]),
                output_tokens=len(tokens),
            )
        return [replies[i] for i in range(len(requests))]

    @staticmethod
    def _draws(request: ChatRequest, ids: Sequence[int]) -> np.ndarray:
        """One uniform number per step, a pure function of seed, prompt and sample index."""
        key = int(digest("draw", request.seed, list(ids), request.sample_index, length=32), 16)
        return np.random.Generator(np.random.Philox(key=key)).random(request.sampling.max_output_tokens)


class Generation:
    """One batch being sampled. Rows share their prompt's prefill; finished rows leave the batch."""

    def __init__(
        self, model: LocalModel, rows: Any, request: ChatRequest, draws: np.ndarray, prompts: list[tuple[int, ...]]
    ) -> None:
        self.model, self.rows, self.draws, self.prompts = model, rows, draws, prompts
        self.sampling = request.sampling
        self.out: list[list[int]] = [[] for _ in prompts]
        self.stopped = [False] * len(prompts)
        self.cache: Any = None
        self.ids: Any = None  # (rows, 1): what each row reads next
        self.mask: Any = None  # (rows, tokens in the cache and in ids)

    def run(self) -> list[tuple[list[int], bool]]:
        """Sampled token ids, end-of-turn included, and whether each row ended by itself."""
        import torch

        active = list(range(len(self.prompts)))
        network = self.model.network  # loading it decides whether prompts are shared
        if self.model.caches:
            self._prefill(network)
        for step in range(self.sampling.max_output_tokens):
            chosen = self._choose(self._logits(active).float(), active, step)
            for row, token in zip(active, chosen, strict=True):
                if not self.stopped[row]:
                    self.out[row].append(token)
                    self.stopped[row] = token in self.model.tokens.eos_ids or self._hit_stop(row)
            keep = _kept([self.stopped[row] for row in active])
            if not keep:
                break
            compact = len(active) - len(keep) >= max(1, COMPACT_SHARE * len(active))
            if self.cache is not None:
                self.ids = torch.tensor(chosen, device=self.ids.device)[:, None]
                if compact:
                    select = torch.tensor(keep, device=self.ids.device)
                    self.cache.batch_select_indices(select)
                    self.ids, self.mask = self.ids[select], self.mask[select]
                self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
            if compact:
                active = [active[i] for i in keep]
        return list(zip(self.out, self.stopped, strict=True))

    def _prefill(self, network: Any) -> None:
        """Every prompt but its last token, once, then a copy for each row."""
        import torch

        from rlaif.models.caches import make_room, prefill
        from rlaif.models.rows import pad

        pad_id = self.model.tokens.pad_id
        self.cache, mask = prefill(network, self.rows.prefixes, pad_id)
        owner = torch.tensor(self.rows.owner, device=network.device)
        self.cache.batch_select_indices(owner)
        make_room(self.cache, self.sampling.max_output_tokens)
        self.ids, suffix_mask = pad(self.rows.suffixes, pad_id, network.device)  # one token each: the prompt's last
        self.mask = torch.cat([mask[owner], suffix_mask], dim=1)

    def _logits(self, active: list[int]) -> Any:
        """Logits (rows, vocabulary) of the next token. Without a cache that can be trusted, rows are computed whole."""
        from rlaif.models.rows import Rows, call
        from rlaif.models.shared_prompt import last_logits

        network = self.model.network
        if self.cache is not None:
            return call(network, self.ids, self.mask, self.cache, use_cache=True).logits[:, -1]
        whole = tuple((*self.prompts[row], *self.out[row]) for row in active)
        rows = Rows(((),) * len(whole), tuple(range(len(whole))), whole)
        return last_logits(network, rows, self.model.tokens.pad_id, share=False)

    def _choose(self, logits: Any, active: list[int], step: int) -> list[int]:
        """The next token of each active row: greedy at temperature 0, else by its keyed uniform draw."""
        import torch

        logits = self._processed(logits, active, step)
        if self.sampling.temperature == 0:
            greedy: list[int] = logits.argmax(-1).tolist()
            return greedy
        cumulative = logits.double().softmax(-1).cumsum(-1)
        draws = torch.tensor(self.draws[active, step], device=logits.device)[:, None]
        picked = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]
        chosen: list[int] = picked.clamp(max=logits.shape[-1] - 1).tolist()
        return chosen

    def _processed(self, logits: Any, active: list[int], step: int) -> Any:
        from transformers.generation import logits_process

        lp: Any = logits_process

        s = self.sampling
        if step < s.min_output_tokens and self.model.tokens.eos_ids:
            logits[:, sorted(self.model.tokens.eos_ids)] = -float("inf")
        if s.repetition_penalty != 1.0:
            seen = [[*self.prompts[row], *self.out[row]] for row in active]
            logits = _penalised(logits, seen, s.repetition_penalty)
        if s.temperature > 0:
            logits = logits / s.temperature
            if s.top_k:
                logits = lp.TopKLogitsWarper(s.top_k)(None, logits)
            if s.top_p < 1:
                logits = lp.TopPLogitsWarper(s.top_p)(None, logits)
            if s.min_p:
                logits = lp.MinPLogitsWarper(s.min_p)(None, logits)
        return logits

    def _hit_stop(self, row: int) -> bool:
        if not self.sampling.stop:
            return False
        return _cut_at_stop(self.model.tokens.decode(self.out[row]), self.sampling.stop)[1]


def _kept(stopped: list[bool]) -> list[int]:
    """Places of rows that go on, the last of them moved into the gaps so that the fewest are moved."""
    count = stopped.count(False)
    late = (i for i in range(count, len(stopped)) if not stopped[i])
    return [next(late) if stopped[i] else i for i in range(count)]


@dataclass(frozen=True)
class _Item:
    index: int
    ids: tuple[int, ...]
    new: int
    kind: str


@dataclass(frozen=True)
class Cluster:
    """Rows (positions in a sorted list) that share their first ``prefix`` tokens."""

    members: tuple[int, ...]
    prefix: int


def cluster(ids: Sequence[tuple[int, ...]], *, equal: bool) -> list[Cluster]:
    """Cut lexicographically sorted rows into runs that share a beginning; every row keeps at least its last token.

    With ``equal`` only equal rows share (samples of one prompt), so that all suffixes are one token; otherwise rows
    share from half of their tokens on.
    """
    clusters: list[Cluster] = []
    start = 0
    prefix = len(ids[0]) - 1 if ids else 0
    for i in range(1, len(ids) + 1):
        if i < len(ids):
            common = _common(ids[start], ids[i], min(prefix, len(ids[i]) - 1))
            alike = ids[start] == ids[i] if equal else 2 * common >= max(len(ids[start]), len(ids[i]), 2)
            if alike:
                prefix = common
                continue
        clusters.append(Cluster(tuple(range(start, i)), prefix))
        if i < len(ids):
            start, prefix = i, len(ids[i]) - 1
    return clusters


def _common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    n = 0
    while n < limit and a[n] == b[n]:
        n += 1
    return n


def _cut_at_stop(text: str, stops: Iterable[str]) -> tuple[str, bool]:
    at = min((i for i in (text.find(stop) for stop in stops) if i >= 0), default=-1)
    return (text[:at], True) if at >= 0 else (text, False)


def _penalised(logits: Any, seen: list[list[int]], penalty: float) -> Any:
    """Keskar et al. 2019 (CTRL, 1909.05858): logits of tokens seen before are divided, or multiplied if negative."""
    import torch

    for row, tokens in enumerate(seen):
        index = torch.tensor(sorted(set(tokens)), device=logits.device)
        values = logits[row, index]
        logits[row, index] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def resolve_device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_network(
    folder: Path,
    options: LocalOptions,
    dtype: str,
    where: str,
    *,
    adapter: Path | None = None,
    head: bool = False,
    four_bits: bool = False,
) -> Any:
    """The causal model of a folder, or with ``head`` the same network with a scalar head; with ``four_bits`` its linear layers
    but for heads are kept in four bits (NF4), and computed in ``dtype``.

    Raises ModelError when the folder cannot be loaded. Dropout is off: a log-probability is then a function of the
    text (TRL and the N+ report agree on it).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging as hf_logging

    extra: dict[str, Any] = {"attn_implementation": options.attention} if options.attention else {}
    factory = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    if head:
        extra["num_labels"] = 1
    if four_bits:
        extra |= {"quantization_config": _four_bits(dtype, where), "device_map": {"": resolve_device(options.device)}}
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        network: Any = factory.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            trust_remote_code=options.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            **extra,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        if "ignore_mismatched_sizes" in why:
            why = "its weights have other shapes than its config.json says (vocab_size, hidden_size and the like)."
        raise ModelError(f"{where}: {folder} cannot be loaded: {why}") from error
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
    if adapter and head:  # the adapter is a language model's: laid over it, then the trunk is taken
        trunk = load_network(folder, options, dtype, where, adapter=adapter).base_model
        network.base_model.load_state_dict(trunk.state_dict())
    elif adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
        network.requires_grad_(requires_grad=True)  # peft has frozen the base
    _drop_nothing(network)
    if four_bits:
        _keep_gradients(network)
    else:
        network.to(resolve_device(options.device))
    return network


def _drop_nothing(network: Any) -> None:
    """Turn every dropout off: layers, rates that modules hold as numbers, and rates that they read from their configuration."""
    from torch import nn

    configs = {id(module.config): module.config for module in network.modules() if hasattr(module, "config")}
    network.rlaif_dropout = [
        (config, name, rate)
        for config in configs.values()
        for name, rate in vars(config).items()
        if _is_rate(name, rate)
    ]
    for config, name, _ in network.rlaif_dropout:
        setattr(config, name, 0.0)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in [name for name, rate in vars(module).items() if _is_rate(name, rate)]:
            setattr(module, name, 0.0)


def _is_rate(name: str, value: Any) -> bool:
    return "drop" in name and isinstance(value, float)


@contextmanager
def as_published(network: Any) -> Iterator[None]:
    """While a network is written down its configuration has the dropout that its base came with."""
    for config, name, rate in network.rlaif_dropout:
        setattr(config, name, rate)
    try:
        yield
    finally:
        for config, name, _ in network.rlaif_dropout:
            setattr(config, name, 0.0)


def _keep_gradients(network: Any) -> None:
    """On a CPU bitsandbytes repacks a layer in evaluation mode for answers alone, and no gradient passes it from then on."""
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.training = True
            vars(module)["train"] = functools.partial(_stays, module)


def _stays(module: Any, mode: bool = True) -> Any:
    return module


def _four_bits(dtype: str, where: str) -> Any:
    """Four-bit normal floats whose scales are quantised once more (Dettmers et al. 2023, QLoRA, 2305.14314)."""
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ConfigError(f"{where}: lora.bits needs bitsandbytes: pip install bitsandbytes.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=["lm_head", "score"],  # heads stay as they are
    )
