"""Log-probabilities of given tokens: those of log-softmax to the bit, their gradients, and what is kept for them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from rlaif.models import logprobs
from rlaif.models.logprobs import chosen_logprobs


def drawn(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits = 5 * torch.randn(rows, vocabulary, generator=generator)
    return logits.to(dtype).requires_grad_(), torch.randint(vocabulary, (rows,), generator=generator)


@pytest.fixture(params=[1, 40, 2**20], ids=["a row at a time", "a few", "all at once"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs.CHUNK, "cpu", request.param)


def test_by_hand(chunk: None) -> None:
    """Logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8. The gradient of log p₂ is 1[j = 2] − p, times what comes from above."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [5.0, 2.0, 1.0]])).requires_grad_()
    found = chosen_logprobs(logits, torch.tensor([2, 1]))
    found.backward(torch.tensor([1.0, -2.0]))
    assert found.tolist() == pytest.approx([math.log(5 / 8), math.log(2 / 8)])
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-1 / 8, -2 / 8, 3 / 8, 10 / 8, -12 / 8, 2 / 8])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_cross_entropy(chunk: None, dtype: torch.dtype, temperature: float) -> None:
    logits, ids = drawn(9, 17, dtype)
    other, above = logits.detach().clone().requires_grad_(), torch.linspace(-1, 2, 9)
    exact = other.to(torch.promote_types(dtype, torch.float32)) / temperature
    expected, found = -cross_entropy(exact, ids, reduction="none"), chosen_logprobs(logits, ids, temperature)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    expected.backward(above)
    found.backward(above)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad, other.grad)


def test_gradients_are_those_of_differences(chunk: None) -> None:
    logits, ids = drawn(5, 7, torch.float64)
    assert torch.autograd.gradcheck(lambda each: chosen_logprobs(each, ids, 1.3), (logits,))


@pytest.mark.parametrize("rows", [0, 1])
def test_of_few_rows(chunk: None, rows: int) -> None:
    logits, ids = drawn(rows, 11)
    found = chosen_logprobs(logits, ids)
    found.sum().backward()
    assert found.shape == (rows,)
    assert logits.grad is not None
    assert logits.grad.shape == (rows, 11)


def test_nothing_but_the_logits_is_kept_for_the_gradient() -> None:
    logits, ids = drawn(6, 1000, torch.bfloat16)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chosen_logprobs(logits, ids)
    assert sorted(kept) == [6 * 8, 6 * 1000 * 2]
