"""The pull in one pass on a GPU, against the plain form on the CPU."""

import pytest
import torch

from regularizers import fused
from regularizers.anchor import QuadraticAnchor
from regularizers.formats import keep

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# One of them larger than a block, none a multiple of it.
SHAPES = {"bias": (7,), "weight": (129, 67), "experts": (5, 33, 41), "kernel": (300, 1, 4)}


def drawn(seed, dtype, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(s, generator=generator).to(device, dtype) for n, s in SHAPES.items()}


def pulled(theta, anchor, importance):
    """name -> the gradient after the pull, where it was 0.5 before."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    for leaf in leaves.values():
        leaf.grad = torch.full_like(leaf, 0.5)
    QuadraticAnchor(anchor, importance, 12.5).add_gradient(leaves)
    return {name: leaf.grad.cpu() for name, leaf in leaves.items()}


@needs_gpu
@pytest.mark.parametrize("form", ["float32", "bfloat16", "factored"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_pulls_as_the_plain_form_does(dtype, form):
    theta, anchor, raw = drawn(0, dtype), drawn(1, dtype), drawn(2, torch.float32)
    importance = {name: keep(tensor, form) for name, tensor in raw.items()}
    plain = pulled(theta, anchor, importance)
    there = [{n: t.to("cuda") for n, t in tensors.items()} for tensors in (theta, anchor)]
    weights = {name: weight.to(torch.device("cuda")) for name, weight in importance.items()}
    for name, gradient in pulled(*there, weights).items():
        assert fused.serves(there[0][name], there[1][name], weights[name], there[0][name])
        bound = 1e-5 if dtype == torch.float32 else 8e-3
        torch.testing.assert_close(gradient, plain[name], rtol=bound, atol=bound)
    expected = QuadraticAnchor(anchor, importance, 12.5).penalty(theta)
    found = QuadraticAnchor(there[1], weights, 12.5).penalty(there[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@needs_gpu
def test_tensors_with_gaps_and_anchors_elsewhere_are_pulled_too():
    theta, anchor = drawn(0, torch.float32), drawn(1, torch.float32)
    importance = drawn(2, torch.float32)
    plain = pulled(theta, anchor, importance)
    there = {name: tensor.to("cuda") for name, tensor in theta.items()}
    there["weight"] = there["weight"].T.contiguous().T
    assert not fused.serves(*(there["weight"],) * 3)
    for name, gradient in pulled(there, anchor, importance).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-5)


def test_without_a_gpu_it_serves_nothing():
    tensor = torch.ones(3)
    assert not fused.serves(tensor, tensor, tensor)


def test_where_the_kernel_cannot_be_built_one_warning_says_so(monkeypatch, caplog):
    """As on an image without a C compiler: the plain form is taken, and no update ends there."""

    def failing(*_arguments, **_options):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fused, "_launch", failing)
    fused.compiles.cache_clear()
    found = [fused.compiles(torch.device("cpu")) for _ in range(2)]
    fused.compiles.cache_clear()
    assert found == [False, False]
    (said,) = caplog.messages
    assert "install a C compiler" in said
    assert "Failed to find C compiler" in said
