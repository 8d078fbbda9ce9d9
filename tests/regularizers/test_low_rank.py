"""EWC under LoRA: the same penalty and gradient as autograd's, of the merged weights."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from regularizers import anchor as anchors
from regularizers.anchor import NoAnchor, QuadraticAnchor
from regularizers.formats import FORMATS, kept, whole
from regularizers.low_rank import Factors, LowRankAnchor, under

SHAPES = {"matrix": (7, 5), "experts": (3, 6, 4), "still": (2, 3)}
RANK = 2


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def model():
    """Frozen weights, and factors of the first two, as peft lays them out."""
    frozen = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    leaf = lambda *shape: nn.Parameter(torch.randn(shape))  # noqa: E731
    factors = {
        "matrix": Factors(leaf(RANK, 5), leaf(7, RANK), 4.0),
        "experts": Factors(leaf(3 * RANK, 4), leaf(6, RANK * 3), 0.5, 3),
    }
    return frozen, factors


def merged(frozen, factors):
    """W0 + s B A, by peft's own formulas: einsum over (o r e), (e r i) for experts."""
    m, e = factors["matrix"], factors["experts"]
    stack = torch.einsum("ore,eri->eoi", e.b.view(6, RANK, 3), e.a.view(3, RANK, 4))
    return frozen | {
        "matrix": frozen["matrix"] + m.scale * m.b @ m.a,
        "experts": frozen["experts"] + e.scale * stack,
    }


def random():
    return {name: torch.rand(shape) for name, shape in SHAPES.items()}


def assert_like_autograd(held, anchor, importance, frozen, factors, strength):
    leaves = [leaf for part in factors.values() for leaf in (part.a, part.b)]
    for leaf in leaves:
        leaf.grad = torch.ones_like(leaf)  # what the loss left there stays
    whole_size = merged(frozen, factors)
    terms = [(whole(importance[n]) * (whole_size[n] - anchor[n]) ** 2).sum() for n in anchor]
    expected = strength / 2 * sum(terms)
    torch.testing.assert_close(held.penalty({}), expected.detach())
    assert all(torch.equal(leaf.grad, torch.ones_like(leaf)) for leaf in leaves)
    held.add_gradient({})
    wanted = torch.autograd.grad(expected, leaves)
    for leaf, gradient in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(leaf.grad, 1 + gradient)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chunk", [8, 2**20])
@pytest.mark.parametrize("anchored_at", ["base", "elsewhere"])
def test_penalty_and_gradient_are_those_of_the_full_computation(
    form, chunk, anchored_at, monkeypatch
):
    monkeypatch.setitem(anchors.CHUNK_ELEMENTS, "cpu", chunk)
    frozen, factors = model()
    anchor = frozen if anchored_at == "base" else random()
    importance = kept(random(), form)
    held = LowRankAnchor(QuadraticAnchor(anchor, importance, 3.0), frozen, factors)
    assert held.strength == 3.0
    assert_like_autograd(held, anchor, importance, frozen, factors, 3.0)


class Largest(TorchDispatchMode):
    """The most entries of any tensor that was made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.entries = max(self.entries, made.numel())
        return made


@pytest.mark.parametrize(("form", "is_made"), [("factored", False), ("float32", True)])
def test_of_a_factored_importance_nothing_of_the_weights_size_is_made(form, is_made):
    size = 64
    frozen = {"w": torch.randn(size, size)}
    leaves = nn.Parameter(torch.randn(RANK, size)), nn.Parameter(torch.randn(size, RANK))
    importance = kept({"w": torch.rand(size, size)}, form)
    held = QuadraticAnchor(frozen, importance, 3.0)
    held = LowRankAnchor(held, frozen, {"w": Factors(*leaves, 2.0)})
    with Largest() as largest:
        held.add_gradient({})
        held.penalty({})
    assert (largest.entries >= size**2) is is_made


def test_l2_is_held_in_the_merged_weights_too():
    frozen, factors = model()
    anchor, ones = random(), {n: torch.ones(shape) for n, shape in SHAPES.items()}
    held = LowRankAnchor(QuadraticAnchor(anchor, None, 2.0), frozen, factors)
    assert_like_autograd(held, anchor, ones, frozen, factors, 2.0)


def test_an_anchor_at_the_base_costs_no_memory_and_one_elsewhere_stays():
    frozen, factors = model()
    elsewhere = frozen | {"matrix": torch.zeros(7, 5)}
    quadratic = QuadraticAnchor(elsewhere, random(), 1.0)
    LowRankAnchor(quadratic, frozen, factors)
    storage = {n: quadratic.term(n, frozen[n])[1].data_ptr() for n in SHAPES}
    for name in ("experts", "still"):
        assert storage[name] == frozen[name].data_ptr()
    assert storage["matrix"] != frozen["matrix"].data_ptr()
    assert not quadratic.term("matrix", frozen["matrix"])[1].any()


def test_a_name_that_is_not_held_is_free_and_a_missing_gradient_is_made():
    frozen, factors = model()
    importance = {"matrix": torch.ones(7, 5)}
    held = LowRankAnchor(QuadraticAnchor(random(), importance, 1.0), frozen, factors)
    held.add_gradient({})
    assert factors["experts"].a.grad is None
    assert factors["matrix"].a.grad.any()
    nothing = LowRankAnchor(QuadraticAnchor(frozen, None, 0.0), frozen, factors)
    nothing.add_gradient({})
    assert factors["experts"].a.grad is None


def test_what_cannot_hold_low_rank_weights_is_refused():
    class Other:
        pass

    frozen, factors = model()
    nothing = NoAnchor()
    assert under(nothing, frozen, factors) is nothing
    with pytest.raises(ValueError, match="Other can't hold weights that are under LoRA"):
        under(Other(), frozen, factors)
    with pytest.raises(ValueError, match="none such"):
        under(QuadraticAnchor({"w": torch.zeros(1)}, None, 1.0), frozen, factors)
    wrong = factors | {"matrix": Factors(factors["matrix"].a, torch.zeros(6, RANK), 1.0)}
    with pytest.raises(ValueError, match=r"'matrix' make the shape \(6, 5\), the weight \(7, 5\)"):
        under(QuadraticAnchor(frozen, None, 1.0), frozen, wrong)
