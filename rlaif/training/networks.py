"""The network that a training moves: opened whole or with low-rank adapters, and written down as an ordinary model folder.

With ``lora`` the base is frozen and small matrices beside its linear layers learn (Hu et al. 2022, 2106.09685). The start model
is then the same network with its adapters off, so that a reference costs no memory. What is written is the whole model with
the adapters merged in, and ``adapter/`` beside it, which ``peft`` and vLLM load onto the base; not where that is a folder with an
adapter of its own, onto which none can be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from rlaif.component import Options as BaseOptions
from rlaif.errors import ConfigError, ModelError
from rlaif.models.local import LocalModel, load_network
from rlaif.models.packing import checkpointing
from rlaif.models.shared_prompt import hidden_self_test, logits_self_test, sharing_works
from rlaif.training import processes
from rlaif.training.checkpoints import save_whole, saving

POLYNOMIAL_END = 1e-7  # that transformers' schedule of this name falls to
ADAPTER = "adapter"  # folder of the adapters beside the merged weights


class LoraOptions(BaseOptions):
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)  # what adapters add is scaled by alpha/rank
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"  # names of layers
    bits: Literal[4] | None = None  # that the frozen base is kept in (QLoRA); None: as it is

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value != "all-linear" else value


Schedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
]


class NetworkOptions(BaseOptions):
    """How a network is held while it learns."""

    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products; weights and optimiser stay float32
    lora: LoraOptions | None = None  # None: all weights learn
    gradient_checkpointing: bool = False  # activations are computed again: less memory, more time

    def autocast(self, network: Any) -> Any:
        """The context in which passes run at this precision."""
        return torch.autocast(network.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def check_schedule(options: Any) -> None:
    """Raises ValueError for a schedule and a learning rate, or a warm-up, that do not go together."""
    if options.schedule == "polynomial" and options.learning_rate <= POLYNOMIAL_END:
        raise ValueError(f"schedule polynomial falls to {POLYNOMIAL_END:g}, and learning_rate begins no higher")
    if options.schedule == "constant" and options.warmup and "warmup" in options.model_fields_set:
        raise ValueError("schedule constant has no warmup: set constant_with_warmup, or leave it out")


class Trained:
    """A network of a base model, made ready to learn. With LoRA its layers are the base's own with adapters in them."""

    def __init__(
        self,
        base: LocalModel,
        options: NetworkOptions,
        *,
        seed: int,
        head: bool = False,
        pad_id: int | None = None,
        device: str | None = None,  # None: the base's
    ) -> None:
        self.base, self.options = base, options
        self.how: dict[str, Any] = {"seed": seed, "head": head, "pad_id": pad_id}
        lora = options.lora
        four_bits = lora is not None and lora.bits is not None
        if four_bits and (base.adapter or processes.sharding()):
            found = f"the adapter {base.adapter}" if base.adapter else f"weights that {processes.sharding()} splits"
            raise ConfigError(f"{base.where}: lora.bits keeps the base in four bits, and does not go with {found}.")
        opened = base.options.model_copy(update={"device": device}) if device else base.options
        self.network: Any = load_network(
            base.folder, opened, "float32", base.where, adapter=base.adapter, head=head, four_bits=four_bits
        )
        if head:
            initialise_head(self.network, seed)
        if pad_id is not None:
            self.network.config.pad_token_id = pad_id
        self.peft: Any = None
        if lora:
            self.peft = _with_adapters(self.network, lora, seed, base.where)
            if head:
                self.network.score.requires_grad_(requires_grad=True)
        test = hidden_self_test if head else logits_self_test
        pad_id = base.tokens.pad_id if pad_id is None else pad_id
        self.share, why = sharing_works(self.network, pad_id, test=test)
        if not self.share:
            base.notice(f"{base.where}: prompts are not shared between rows of this model ({why}).")
        if options.gradient_checkpointing:
            checkpoint(self.network)
            if lora:
                self.network.enable_input_require_grads()

    def as_before(self) -> AbstractContextManager[Any]:
        """With LoRA, the context in which the network is the start model."""
        assert self.peft is not None
        found: AbstractContextManager[Any] = self.peft.disable_adapter()
        return found

    def whole(self, weights: Mapping[str, Tensor] | None = None) -> Trained:
        """The same with every weight here and none in four bits; ``weights``: what it has learnt, where that is not here."""
        lora = self.options.lora
        if weights is None and not (lora and lora.bits):
            return self
        options = self.options.model_copy(update={"lora": lora.model_copy(update={"bits": None})} if lora else {})
        found = Trained(self.base, options, **self.how, device="cpu" if weights is None else None)
        take(found.network, learnt(self.network) if weights is None else weights)
        for name, value in self.network.config.to_dict().items():
            if name.startswith("rlaif_"):
                setattr(found.network.config, name, value)
        return found

    def save(self, out: Path, *, pad_id: int | None = None) -> None:
        """The whole model, as an ordinary folder, renamed into place when complete; with LoRA ``adapter/`` in it."""
        if self.peft is None:
            save_whole(self.network, self.base, out, pad_id=pad_id)
            return
        beside = {}
        if (
            not self.how["head"] and not self.base.adapter
        ):  # adapters alone are no reward model: its head has learnt too
            beside[ADAPTER] = out.with_name(f".{out.name}.{ADAPTER}")
            with saving(out):
                self.peft.save_pretrained(str(beside[ADAPTER]))
        save_whole(self.whole().peft.merge_and_unload(), self.base, out, pad_id=pad_id, beside=beside)


def decaying_groups(network: Any, **settings: float) -> list[dict[str, Any]]:
    """What learns, for an optimiser: weight decay is of matrices, not of norms and biases."""
    weights = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], **settings},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0, **settings},
    ]


def learnt(network: Any) -> dict[str, Tensor]:
    """The weights that learn, by name."""
    return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def take(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Set the weights of these names. Raises ModelError for a name that the network lacks, or for one that learns and is
    not among them."""
    missing, unknown = network.load_state_dict(weights, strict=False)
    if lost := [*unknown, *(name for name in missing if name in learnt(network))]:
        raise ModelError(f"{lost[0]}: {len(lost)} weights are not those of this network; another version of a library?")


def initialise_head(network: Any, seed: int) -> None:
    """N(0, 1/(d + 1)): Stiennon et al. 2020 (2009.01325) App. B.1."""
    generator = torch.Generator().manual_seed(seed)
    weight = network.score.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) / (weight.shape[1] + 1) ** 0.5)


def by_head(network: Any, hidden: Tensor) -> Tensor:
    """What a scalar head makes of hidden states, without their last dimension: in its own precision, whatever the trunk's, and at
    least float32."""
    with torch.autocast(hidden.device.type, enabled=False):
        found: Tensor = network.score(hidden.to(network.score.weight.dtype))[..., 0]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _with_adapters(network: Any, options: LoraOptions, seed: int, where: str) -> Any:
    """Put adapters into the network's layers; what they begin as depends on the seed alone."""
    from peft import LoraConfig, get_peft_model

    targets = options.targets if options.targets == "all-linear" else list(options.targets)
    head = ["score"] if hasattr(network, "score") else None  # which learns whole
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=targets, exclude_modules=head
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            found = get_peft_model(network, config)
        except ValueError as error:
            raise ConfigError(f"{where}: lora.targets {targets}: {str(error).splitlines()[0]}") from error
    return found


@contextmanager
def learning(network: Any, options: NetworkOptions) -> Iterator[None]:
    """While gradients are made: checkpointed layers do their work in training mode alone. Dropout is off in either."""
    network.train(options.gradient_checkpointing)
    try:
        yield
    finally:
        network.eval()


def take_calls(network: Any) -> None:
    """Let ``called_with`` call the network, where it learns in several processes."""
    if processes.count() == 1:
        return
    forward = network.forward

    def either(*arguments: Any, run: Callable[[Any], Tensor] | None = None, **options: Any) -> Any:
        return run(network) if run else forward(*arguments, **options)

    network.forward = either
    network.one_pass = bool(processes.sharding())


def called_with(model: Any, run: Callable[[Any], Tensor]) -> Tensor:
    """``run(network)`` as one call of it, so that what is wrapped around it (DDP, FSDP, DeepSpeed) knows of the pass."""
    if processes.count() == 1:
        return run(model)
    found: Tensor = model(run=run)
    return found


def checkpoint(network: Any) -> None:
    """Have activations computed again in the backward pass."""
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing(network))
