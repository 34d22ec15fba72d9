"""Rows that share their prompt equal rows on their own: values and gradients, in thirteen architectures."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from rlaif.models import packing, shared_prompt
from rlaif.models.rows import Rows, cut
from rlaif.models.shared_prompt import (
    cache_self_test,
    hidden_self_test,
    last_hidden,
    last_logits,
    logits_self_test,
    sharing_works,
    token_hidden,
    token_logprobs,
)
from rlaif.training.losses import soft_preference_loss
from rlaif.training.networks import checkpoint
from tests.tiny import config

ARCHITECTURES = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "opt",
    "phi3",
    "longrope",
    "olmo2",
    "gpt_oss",
]
VOCABULARY = 97


@pytest.fixture(autouse=True, params=["a pass for each length", "one pass"])
def _passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rows are cut into passes, nothing changes; in one pass there is the most padding."""
    overhead = {"a pass for each length": 0, "one pass": 10**6}[request.param]
    monkeypatch.setitem(shared_prompt.PASS_OVERHEAD, "cpu", overhead)
    monkeypatch.setattr(packing, "RUN_OVERHEAD", overhead)


@functools.cache
def network(kind: str) -> Any:
    """A model whose attention matters: weights as large as trained ones, so that a wrong mask shows in the logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(kind, VOCABULARY, hidden=32))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model.eval()


def rows(seed: int = 0) -> Rows:
    """Prompts of unequal length, one of a single token, two longer than every window; K unequal."""
    draw = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=draw).tolist())

    prompts = [ids(5), ids(1), ids(23), ids(41)]
    continuations = [[ids(3), ids(12), ids(1)], [ids(6), ids(2)], [ids(19)], [ids(2), ids(9), ids(4), ids(17)]]
    return Rows.of(prompts, continuations)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def gradients(model: Any, loss: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss().backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def assert_gradients_equal(one: Sequence[Tensor], other: Sequence[Tensor], relative: float) -> None:
    """Each parameter's gradient, relative to its norm; those that are zero but for rounding, to the whole."""
    whole = float(torch.stack([g.norm() for g in other]).norm())
    assert whole > 0
    for a, b in zip(one, other, strict=True):
        assert float((a - b).norm()) <= relative * max(float(b.norm()), 1e-3 * whole)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_shared_rows_equal_separate_rows(kind: str) -> None:
    model, many = network(kind), rows()
    with torch.no_grad():
        together, apart = (token_hidden(model, many, 0, share=share) for share in (True, False))
        assert difference(together, apart) < 2e-5 * max(1.0, float(apart.std()))
        together, apart = (token_logprobs(model, many, 0, share=share)[0] for share in (True, False))
        assert difference(together, apart) < 1e-5
        hidden, alone = (last_hidden(model, many, 0, share=share) for share in (True, False))
        assert difference(hidden, alone) < 1e-5 * max(1.0, float(alone.std()))
        ends, sole = (last_logits(model, many, 0, share=share) for share in (True, False))
        assert difference(ends, sole) < 2e-5


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_gradients_through_the_shared_prompt(kind: str) -> None:
    model, many = network(kind), rows()
    scale = torch.randn(len(many.suffixes), generator=torch.Generator().manual_seed(1))

    def likelihood(share: bool) -> Tensor:
        logprobs, _ = token_logprobs(model, many, 0, share=share)
        return (logprobs.sum(-1) * scale).sum()

    def reward(share: bool) -> Tensor:
        return (last_hidden(model, many, 0, share=share).tanh().sum(-1) * scale).sum()

    for loss in (likelihood, reward):
        together, apart = (gradients(model, functools.partial(loss, share)) for share in (True, False))
        assert_gradients_equal(together, apart, 1e-4)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_comparison_could_fail(kind: str) -> None:
    """Prompts matter to these networks by far more than the tolerance, so a prompt lost or misplaced would show."""
    model, many = network(kind), rows()
    other = Rows(tuple(p[::-1] for p in many.prefixes), many.owner, many.suffixes)
    with torch.no_grad():
        values = [token_logprobs(model, r, 0, share=True)[0] for r in (many, other)]
    assert difference(*values) > 1e-2


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_self_test_allows_sharing(kind: str) -> None:
    for test in (logits_self_test, hidden_self_test, cache_self_test):
        assert sharing_works(network(kind), 0, test=test) == (True, "")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("bloom", "positions of its own"),
        ("jamba", "layers that do not attend"),
        ("lfm2", "layers that do not attend"),
        ("llama4", "attention by places in the input"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_in_which_rows_would_meet_are_refused_in_every_precision(
    kind: str, why: str, dtype: torch.dtype
) -> None:
    model = network.__wrapped__(kind).to(dtype)
    assert sharing_works(model, 0) == (False, f"NotImplementedError: {why}")


def test_attention_of_its_own_lets_rows_share_a_cache_alone() -> None:
    assert sharing_works(network("bloom"), 0, test=cache_self_test) == (True, "")


def test_dropout_is_refused() -> None:
    model = network.__wrapped__("llama")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(NotImplementedError):
        last_hidden(model.train(), rows(), 0, share=True)


@pytest.mark.parametrize("share", [True, False])
def test_a_long_row_leaves_the_frequencies_of_shorter_ones(share: bool) -> None:
    """Prompts of 5 and 1 tokens, alone and beside others whose rows are longer than 32."""
    model, many = network("longrope"), rows()
    few = Rows(many.prefixes[:2], many.owner[:5], many.suffixes[:5])
    with torch.no_grad():
        alone = token_logprobs(model, few, 0, share=share)[0]
        beside = token_logprobs(model, many, 0, share=share)[0]
    assert difference(alone, beside[:5, : alone.shape[1]]) < 1e-5


def test_rows_may_lie_in_any_order_and_prompts_have_no_continuation() -> None:
    model, many = network("llama"), rows()
    order = [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
    mixed = Rows(
        (*many.prefixes, (5, 6, 7)), tuple(many.owner[i] for i in order), tuple(many.suffixes[i] for i in order)
    )
    with torch.no_grad():
        straight, other = (last_hidden(model, each, 0, share=True) for each in (many, mixed))
        by_token, others = (token_logprobs(model, each, 0, share=True)[0] for each in (many, mixed))
    assert difference(straight[order], other) < 1e-5
    assert difference(by_token[order], others) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gemma3", "gpt_oss"])
def test_in_bfloat16_gradients_are_those_of_separate_rows_up_to_its_precision(kind: str) -> None:
    """Both are held against float32: packed rows are no further from it than separate ones are, or hardly."""
    model, many = network(kind), rows()
    scale = torch.randn(len(many.suffixes), generator=torch.Generator().manual_seed(1))

    def loss(share: bool, half: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return (token_logprobs(model, many, 0, share=share)[0].sum(-1) * scale).sum()

    exact, packed, apart = (
        torch.cat([g.flatten() for g in gradients(model, functools.partial(loss, share, half))])
        for share, half in ((True, False), (True, True), (False, True))
    )
    assert float((packed - exact).norm()) < 1.5 * float((apart - exact).norm())
    assert float((packed - exact).norm()) < 0.2 * float(exact.norm())


def test_all_prompts_of_one_token_have_nothing_to_share() -> None:
    model, many = network("llama"), Rows.of([(5,), (6,)], [[(7, 8), (9,)], [(10,)]])
    together, apart = (token_logprobs(model, many, 0, share=share)[0] for share in (True, False))
    assert difference(together, apart) < 1e-5


def test_a_prompt_goes_through_the_network_once_and_nothing_is_padded() -> None:
    model, many = network("llama"), rows()
    seen: list[list[int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"][0].tolist()), with_kwargs=True
    )
    with torch.no_grad():
        last_hidden(model, many, 0, share=True)
    hook.remove()
    both = zip(many.owner, many.suffixes, strict=True)
    pieces = [(many.prefixes[o], *(s for _, s in own)) for o, own in itertools.groupby(both, lambda each: each[0])]
    assert seen == [[token for each in pieces for piece in each for token in piece]]
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("again", [True, False])
def test_every_way_of_computing_attention_is_the_same(kind: str, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain attention, whole and in tiles of seven queries whose weights are computed again, beside the fused one."""
    model, many = network(kind), rows()
    scale = torch.randn(len(many.suffixes), generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        return (token_logprobs(model, many, 0, share=True)[0].sum(-1) * scale).sum()

    value, whole = loss().item(), gradients(model, loss)
    monkeypatch.setattr(model.config, "_attn_implementation", "eager")
    if again:
        monkeypatch.setattr(packing, "TILE", 7)
        monkeypatch.setattr(packing, "KEPT_UP_TO", 0)
    assert loss().item() == pytest.approx(value, rel=1e-6)
    assert_gradients_equal(gradients(model, loss), whole, 1e-5)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_checkpointed_activations_are_those_of_the_pass(kind: str, half: bool) -> None:
    """Computed again outside of the context in which attention was switched, twice over one graph."""
    model, many = network.__wrapped__(kind), rows()

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return token_logprobs(model, many, 0, share=True)[0].sum()

    kept = gradients(model, loss)
    checkpoint(model)
    model.train()
    assert sharing_works(model, 0) == (True, "")
    assert model.training
    assert_gradients_equal(gradients(model, loss), kept, 1e-6)
    found = loss()
    found.backward(retain_graph=True)
    found.backward()
    assert_gradients_equal([p.grad / 2 for p in model.parameters()], kept, 1e-6)
    model.eval()
    assert sharing_works(model, 0, test=cache_self_test) == (True, "")


def test_token_logprobs_are_those_of_a_direct_pass() -> None:
    """By hand: one row, no padding, log-softmax of the logits before each continuation token."""
    model = network("llama")
    prompt, continuation = (5, 6, 7), (8, 9)
    values, mask = token_logprobs(model, Rows.of([prompt], [[continuation]]), 0, share=True)
    with torch.no_grad():
        table = model(torch.tensor([[*prompt, *continuation]])).logits[0].log_softmax(-1)
    assert mask.tolist() == [[1, 1]]
    assert values[0].tolist() == pytest.approx([float(table[2, 8]), float(table[3, 9])], abs=1e-5)


def test_rows_are_cut_where_padding_costs_more_than_a_pass() -> None:
    """By hand: 3·4 + 90 + 2·10 = 122 positions against 4·90 + 10 = 370; with an overhead of 300: 702 against 660."""
    assert cut([3, 90, 4, 4], 10) == [[0, 2, 3], [1]]
    assert cut([3, 90, 4, 4], 300) == [[0, 2, 3, 1]]
    assert cut([3, 90, 4, 4], 0) == [[0], [2, 3], [1]]
    assert cut([7], 64) == [[0]]


def pairs_of(many: Rows) -> tuple[Tensor, Tensor]:
    """First and second row of every pair of one prompt."""
    found = [
        (i, j) for i in range(len(many.owner)) for j in range(i + 1, len(many.owner)) if many.owner[i] == many.owner[j]
    ]
    return torch.tensor([i for i, _ in found], dtype=torch.long), torch.tensor([j for _, j in found], dtype=torch.long)


def preference_loss(model: Any, many: Rows, share: bool, kind: str) -> Tensor:
    """The summed soft loss over all pairs: of rewards (a fixed head), or DPO's against a fixed reference."""
    a, b = pairs_of(many)
    if kind == "reward":
        values = last_hidden(model, many, 0, share=share)[:, 0]
        d = values[a] - values[b]
    else:
        values = token_logprobs(model, many, 0, share=share)[0].sum(-1)
        d = 0.1 * ((values[a] + 20.0) - (values[b] + 19.0))
    # p and weight follow the pair, not its place in the batch
    key = torch.tensor([hash((many.suffixes[i], many.suffixes[j])) % 1000 / 1000 for i, j in zip(a, b, strict=True)])
    return soft_preference_loss(d, key, 0.5 + key)


def parts(many: Rows) -> list[Rows]:
    """The same rows, one prompt to a micro-batch."""
    return [
        Rows((prefix,), tuple(0 for o in many.owner if o == i), tuple(s for o, s in zip(many.owner, many.suffixes, strict=True) if o == i))
        for i, prefix in enumerate(many.prefixes)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["reward", "dpo"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])  # two with a sliding window
@pytest.mark.parametrize("share", [True, False])
def test_loss_does_not_depend_on_the_split(architecture: str, kind: str, share: bool) -> None:
    model, many = network(architecture), rows()
    with torch.no_grad():
        whole = float(preference_loss(model, many, share, kind))
        split = sum(float(preference_loss(model, part, share, kind)) for part in parts(many))
    assert split == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("kind", ["reward", "dpo"])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])  # norms in the model's own precision
def test_loss_does_not_depend_on_the_split_in_double_precision(architecture: str, kind: str) -> None:
    model = network.__wrapped__(architecture).double()
    many = rows()
    with torch.no_grad():
        whole = float(preference_loss(model, many, True, kind))
        split = sum(float(preference_loss(model, part, True, kind)) for part in parts(many))
        apart = float(preference_loss(model, many, False, kind))
    assert split == pytest.approx(whole, rel=1e-9)
    assert apart == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_never_changes_a_loss(architecture: str) -> None:
    """A longer prompt with longer responses joins the batch: the others' log-probabilities stay."""
    model, many = network(architecture), rows()
    long = tuple(range(3, 90))
    grown = Rows((*many.prefixes, long), (*many.owner, len(many.prefixes)), (*many.suffixes, long[:60]))
    with torch.no_grad():
        for share in (True, False):
            before, _ = token_logprobs(model, many, 0, share=share)
            after, mask = token_logprobs(model, grown, 0, share=share)
            count, width = before.shape
            assert difference(after[:count, :width], before) < 1e-5
            assert not after[:count, width:].any()
            assert not mask[:count, width:].any()


def test_pad_id_does_not_matter() -> None:
    model, many = network("llama"), rows()
    with torch.no_grad():
        values = [token_logprobs(model, many, pad_id, share=True)[0] for pad_id in (0, 50)]
    assert difference(*values) == 0


class Forgetful(LlamaForCausalLM):
    """Its layers take a mask and look past it, as some models of unusual make do."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        for layer in self.model.layers:
            layer.self_attn.forward = functools.partial(self._attend, layer.self_attn.forward)

    @staticmethod
    def _attend(inner: Any, attention_mask: Any, **rest: Any) -> Any:
        if isinstance(attention_mask, packing.Seen):
            attention_mask = packing.Seen(attention_mask.packing, lambda *where: torch.tensor(True))
        return inner(attention_mask=attention_mask, **rest)


def test_sharing_is_refused_where_it_would_be_wrong() -> None:
    torch.manual_seed(0)
    broken = Forgetful(config("llama", VOCABULARY, hidden=32)).eval()
    broken.load_state_dict(network("llama").state_dict())
    works, why = sharing_works(broken, 0)
    assert not works
    assert "shared and separate rows differ by" in why


def test_sharing_is_refused_where_the_attention_of_bfloat16_alone_would_be_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = packing._Plain.apply
    assert sharing_works(network("llama"), 0) == (True, "")
    monkeypatch.setattr(packing._Plain, "apply", lambda *given: 1.5 * right(*given))
    works, why = sharing_works(network("llama"), 0)
    assert not works
    assert re.search("shared and separate rows differ by .* in the attention of bfloat16", why)
    assert network("llama").config._attn_implementation != "eager"


def test_a_cache_is_refused_where_it_is_not_read() -> None:
    model = network.__wrapped__("llama")
    inner = model.model.forward

    def forward(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **rest: Any) -> Any:
        rest.pop("past_key_values", None)
        return inner(input_ids, attention_mask[:, -input_ids.shape[1] :], position_ids, **rest)

    model.model.forward = forward
    works, why = sharing_works(model, 0, test=cache_self_test)
    assert not works
    assert "rows after a cache and separate rows differ by" in why


def test_sharing_is_refused_with_the_reason_where_it_cannot_run() -> None:
    model = network.__wrapped__("llama")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no cache here")

    model.model.forward = refuse
    for test in (logits_self_test, cache_self_test):
        assert sharing_works(model, 0, test=test) == (False, "NotImplementedError: no cache here")
