"""Linear layers by either library against PyTorch's own, and which of both is taken."""

import copy

import pytest
import torch
from torch import nn

from tests.tiny import tiny_checkpoint
from vistune.model import cpu_linear
from vistune.model.cpu_linear import CpuLinear, use_faster_library

pytestmark = pytest.mark.skipif(not cpu_linear._is_there(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.setattr(cpu_linear, "_decided", None)


@pytest.fixture
def products(monkeypatch):
    """Rows of all products that oneDNN computes."""
    seen = []
    product = cpu_linear._onednn

    def spy(rows, weight, bias=None):
        seen.append(len(rows))
        return product(rows, weight, bias)

    monkeypatch.setattr(cpu_linear, "_onednn", spy)
    return seen


def pair(inside, outside, bias=True):
    torch.manual_seed(0)
    theirs = nn.Linear(inside, outside, bias)
    (ours,) = by("onednn", copy.deepcopy(theirs))
    return theirs, ours


def by(library, *layers):
    """The layers, multiplied by ``library``."""
    model = nn.Sequential(*layers)
    use_faster_library(model).library = library
    assert all(type(layer) is CpuLinear for layer in model)
    return model


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
    assert layers and all(type(layer) is CpuLinear for layer in layers)
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


def test_few_numbers_of_rows_are_met(products):
    _, ours = pair(600, 700)
    for count in range(1, 3000, 7):
        with torch.no_grad():
            assert ours(torch.zeros(count, 600)).shape == (count, 700)
    assert len(set(products)) < 25 and max(products) < 3000 + 256


def test_a_frozen_layer_keeps_no_input_and_one_without_gradient_before_it_no_weight():
    def kept(frozen, x):
        _, ours = pair(600, 700, bias=False)
        ours.requires_grad_(not frozen)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.append(tuple(t.shape)) or t, lambda t: t
        ):
            ours(x)
        return saved

    x = torch.randn(40, 600)
    assert kept(True, x.clone().requires_grad_()) == [(700, 600)]
    assert kept(False, x) == [(40, 600)]


@pytest.mark.parametrize(
    ("onednn", "mkl", "wanted"), [(1.0, 2.0, "onednn"), (2.0, 1.0, "mkl"), (0.8, 1.0, "mkl")]
)
def test_the_faster_library_is_taken_and_a_tie_is_mkl(monkeypatch, onednn, mkl, wanted):
    asked = []

    def timed(rows, outside, inside, gradients):
        asked.append((rows, outside, inside, gradients))
        return [("mkl", mkl), ("onednn", onednn)]

    monkeypatch.setattr(cpu_linear, "_time_products", timed)
    kernel = use_faster_library(nn.Sequential(nn.Linear(600, 700), nn.Linear(700, 600), nn.Linear(600, 700)))
    assert kernel.library is None
    assert kernel.choose(200, gradients=True) == kernel.choose(9, gradients=False) == wanted
    assert asked == [(256, 700, 600, True), (256, 600, 700, True)]


def test_what_is_timed_is_what_is_computed():
    model = nn.Sequential(nn.Linear(600, 700))
    assert use_faster_library(model).choose(200, gradients=True) in ("mkl", "onednn")
    assert [library for library, _ in cpu_linear._time_products(64, 70, 60, True)] == ["mkl", "onednn"]


def test_the_first_large_product_decides_and_small_ones_do_not(monkeypatch):
    monkeypatch.setattr(cpu_linear, "_time_products", lambda *_: [("mkl", 2.0), ("onednn", 1.0)])
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(600, 700))
    kernel = use_faster_library(model)
    model[0](torch.randn(3, 8))
    assert kernel.library is None
    model[1](torch.randn(3, 600))
    assert kernel.library == "onednn"


def test_hooks_tied_weights_and_shared_layers_stay():
    one = nn.Linear(600, 700)
    model = nn.ModuleDict({"a": one, "b": one, "c": nn.Linear(600, 700)})
    model["c"].weight = one.weight
    calls = []
    one.register_forward_hook(lambda *_: calls.append(1))
    use_faster_library(model).library = "onednn"
    assert model["a"] is model["b"] and model["c"].weight is model["a"].weight
    model["a"](torch.randn(40, 600))
    assert calls == [1]
