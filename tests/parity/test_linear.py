"""Linear layers by oneDNN against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from tests.tiny import tiny_checkpoint
from vistune.model import linear
from vistune.model.linear import OneDnnLinear, use_onednn

pytestmark = pytest.mark.skipif(not linear._is_there(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def products(monkeypatch):
    """Rows of all products that oneDNN computes."""
    seen = []
    product = linear._onednn

    def spy(rows, weight, bias=None):
        seen.append(len(rows))
        return product(rows, weight, bias)

    monkeypatch.setattr(linear, "_onednn", spy)
    return seen


def pair(inside, outside, bias=True):
    torch.manual_seed(0)
    theirs = nn.Linear(inside, outside, bias)
    ours = copy.deepcopy(theirs)
    use_onednn(ours)
    assert type(ours) is OneDnnLinear
    return theirs, ours


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 600), (40, 600), (2, 35, 600), (3, 200, 600)])
def test_products_and_gradients_are_the_same(shape, bias, products):
    theirs, ours = pair(600, 700, bias)
    x = torch.randn(shape)
    grad = torch.randn(*shape[:-1], 700)
    inputs = []
    for layer in (theirs, ours):
        inputs.append(x.clone().requires_grad_())
        layer(inputs[-1]).backward(grad)
    close(ours(x), theirs(x))
    close(inputs[1].grad, inputs[0].grad)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(one.grad, other.grad)
    assert len(products) == 4  # forward, both gradients, forward again


def test_what_is_frozen_costs_no_gradient(products):
    _, ours = pair(600, 700)
    ours.requires_grad_(False)
    x = torch.randn(40, 600, requires_grad=True)
    ours(x).sum().backward()
    assert ours.weight.grad is None and x.grad is not None and len(products) == 2


def test_views_that_are_not_contiguous_are_read_right():
    theirs, ours = pair(600, 700)
    x = torch.randn(600, 40).t()
    close(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_go_the_usual_way(dtype, products):
    theirs, ours = pair(600, 700)
    x = torch.randn(40, 600, dtype=dtype)
    assert torch.equal(ours.to(dtype)(x), theirs.to(dtype)(x)) and not products


def test_autocast_vectors_and_small_products_go_the_usual_way(products):
    theirs, ours = pair(600, 700)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(40, 600)).dtype is torch.bfloat16
    vector = torch.randn(600)
    assert torch.equal(ours(vector), theirs(vector))
    theirs, ours = pair(8, 8)
    x = torch.randn(40, 8)
    assert torch.equal(ours(x), theirs(x)) and not products


def test_a_model_keeps_its_weights_and_their_names(tokenizer):
    model = tiny_checkpoint(tokenizer).model
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert layers and all(type(layer) is OneDnnLinear for layer in layers)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


def test_few_numbers_of_rows_are_met(products):
    _, ours = pair(600, 700)
    for count in range(1, 3000, 7):
        with torch.no_grad():
            assert ours(torch.zeros(count, 600)).shape == (count, 700)
    assert len(set(products)) < 25 and max(products) < 3000 + 256
