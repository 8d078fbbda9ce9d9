"""The quadratic anchor: against autograd, against a closed form, on shards, and what it refuses."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from regularizers import anchor as anchors
from regularizers.anchor import NoAnchor, QuadraticAnchor
from regularizers.formats import kept

SHAPES = {"scalar": (), "bias": (7,), "weight": (5, 3), "experts": (4, 2, 6), "empty": (0, 3)}


def made(seed, **options):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator, **options) for name, shape in SHAPES.items()
    }


def leaves(tensors):
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


def by_autograd(theta, anchor, importance, strength):
    """An independent implementation: the formula, in float64, differentiated."""
    copies = {name: t.detach().double().requires_grad_() for name, t in theta.items()}
    penalty = sum(
        (importance[name].double() * (copies[name] - anchor[name].double()) ** 2).sum()
        for name in copies
    )
    penalty = strength / 2 * penalty
    penalty.backward()
    return penalty.detach(), {name: copy.grad for name, copy in copies.items()}


@pytest.mark.parametrize("chunk", [1, 4, 10**6])
@pytest.mark.parametrize("method", ["ewc", "l2"])
def test_gradient_and_penalty_are_those_of_the_formula(monkeypatch, chunk, method):
    monkeypatch.setitem(anchors.CHUNK_ELEMENTS, "cpu", chunk)
    theta, anchor, importance = leaves(made(0)), made(1), made(2)
    held = QuadraticAnchor(anchor, importance if method == "ewc" else None, 12.5)
    for name, parameter in theta.items():
        if name != "bias":  # bias has no gradient yet
            parameter.grad = torch.full_like(parameter, 0.5)
    held.add_gradient(theta)
    if method == "l2":
        importance = {name: torch.ones_like(tensor) for name, tensor in anchor.items()}
    penalty, gradients = by_autograd(theta, anchor, importance, 12.5)
    for name, parameter in theta.items():
        before = 0.0 if name == "bias" else 0.5
        expected = (gradients[name] + before).float()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(held.penalty(theta), penalty.float(), rtol=1e-6, atol=0)
    assert not held.penalty(theta).requires_grad


def test_the_minimum_is_where_the_closed_form_says():
    """Task A's posterior N(a, 1/F), task B's loss h/2 (theta - b)^2:
    argmin h/2 (theta - b)^2 + s/2 F (theta - a)^2 = (h b + s F a) / (h + s F)."""
    a, b = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([3.0, 3.0, 3.0])
    h, f, s = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, 4.0]), 0.5
    theta = a.clone().requires_grad_()
    held = QuadraticAnchor({"theta": a}, {"theta": f}, s)
    optimizer = torch.optim.SGD([theta], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        (h / 2 * (theta - b) ** 2).sum().backward()
        held.add_gradient({"theta": theta})
        optimizer.step()
    torch.testing.assert_close(theta.detach(), (h * b + s * f * a) / (h + s * f))


def test_zero_at_the_anchor_and_four_times_as_much_at_twice_the_distance():
    anchor, importance, direction = made(0), made(1), made(2)
    held = QuadraticAnchor(anchor, importance, 1e4)

    def penalty(distance):
        return held.penalty({name: anchor[name] + distance * direction[name] for name in anchor})

    assert penalty(0.0) == 0
    theta = leaves(anchor)
    held.add_gradient(theta)
    assert all(bool((parameter.grad == 0).all()) for parameter in theta.values())
    torch.testing.assert_close(penalty(0.2), 4 * penalty(0.1), rtol=1e-4, atol=0)


def test_the_anchor_is_a_copy_and_live_parameters_may_be_given():
    theta = leaves(made(0))
    held = QuadraticAnchor(theta, None, 1.0)
    with torch.no_grad():
        theta["bias"] += 2
    assert held.penalty(theta) == pytest.approx(0.5 * 7 * 4)


def test_frozen_and_unheld_parameters_are_left_alone():
    theta = leaves(made(0))
    theta["bias"].requires_grad_(False)
    importance = {name: tensor for name, tensor in made(2).items() if name != "experts"}
    held = QuadraticAnchor(made(1), importance, 3.0)
    held.add_gradient(theta)
    assert theta["bias"].grad is None
    assert theta["experts"].grad is None
    assert theta["weight"].grad is not None


def test_strength_zero_is_no_gradient():
    theta = leaves(made(0))
    QuadraticAnchor(made(1), made(2), 0.0).add_gradient(theta)
    assert all(parameter.grad is None for parameter in theta.values())


def test_bfloat16_weights_are_held_in_float32():
    anchor = {"w": torch.tensor([1.0, 1.0])}
    theta = {"w": torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16).requires_grad_()}
    held = QuadraticAnchor(anchor, None, 2.0)
    held.add_gradient(theta)
    assert theta["w"].grad.dtype == torch.bfloat16
    assert theta["w"].grad.tolist() == [0.0, 2 * 0.0078125]
    assert held.penalty(theta).dtype == torch.float32
    assert held.penalty(theta).item() == 0.0078125**2


def test_a_gradient_that_is_not_contiguous_is_added_to_in_place():
    theta = {"w": torch.rand(6, 4).t().requires_grad_()}
    gradient = theta["w"].grad = torch.zeros(6, 4).t()
    QuadraticAnchor({"w": torch.zeros(4, 6)}, None, 1.0).add_gradient(theta)
    assert theta["w"].grad is gradient
    torch.testing.assert_close(gradient, theta["w"].detach())


def test_no_temporary_is_larger_than_a_chunk(monkeypatch):
    class Largest(TorchDispatchMode):
        num_elements = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            out = function(*arguments, **(options or {}))
            shares = isinstance(out, torch.Tensor) and any(
                isinstance(a, torch.Tensor)
                and a.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
                for a in arguments
            )
            if isinstance(out, torch.Tensor) and not shares:
                self.num_elements = max(self.num_elements, out.numel())
            return out

    monkeypatch.setitem(anchors.CHUNK_ELEMENTS, "cpu", 1000)
    theta = {"w": torch.rand(100, 300).requires_grad_()}
    theta["w"].grad = torch.zeros(100, 300)
    held = QuadraticAnchor({"w": torch.rand(100, 300)}, {"w": torch.rand(100, 300)}, 1.0)
    with Largest() as largest:
        held.add_gradient(theta)
        held.penalty(theta)
    assert 0 < largest.num_elements <= 1000


def test_the_null_object_does_nothing():
    theta = leaves(made(0))
    nothing = NoAnchor()
    nothing.add_gradient(theta)
    assert nothing.penalty(theta) == 0
    assert all(parameter.grad is None for parameter in theta.values())


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_refuses_a_bad_strength(strength):
    with pytest.raises(ValueError, match="strength"):
        QuadraticAnchor({}, None, strength)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ({"other": torch.ones(7)}, "'other' has no anchor"),
        ({"bias": torch.ones(6)}, r"shape \(6,\), its anchor \(7,\)"),
        ({"bias": -torch.ones(7)}, "finite and at least 0"),
        ({"bias": torch.full((7,), float("nan"))}, "finite and at least 0"),
        ({"bias": torch.full((7,), float("inf"))}, "finite and at least 0"),
    ],
)
def test_refuses_a_bad_importance(importance, message):
    with pytest.raises(ValueError, match=message):
        QuadraticAnchor(made(0), importance, 1.0)


@pytest.mark.parametrize("call", ["penalty", "add_gradient"])
def test_refuses_a_model_that_is_not_the_anchored_one(call):
    held = QuadraticAnchor(made(0), made(1), 1.0)
    lacking, reshaped = leaves(made(0)), leaves(made(0))
    del lacking["weight"]
    reshaped["weight"] = torch.zeros(3, 5)
    with pytest.raises(ValueError, match="'weight' is anchored but"):
        getattr(held, call)(lacking)
    with pytest.raises(ValueError, match="'weight' has shape"):
        getattr(held, call)(reshaped)


@pytest.mark.parametrize("form", ["float32", "bfloat16", "factored"])
def test_settled_or_offloaded_it_holds_alike(form):
    torch.manual_seed(0)
    theta = {"w": torch.rand(6, 4, requires_grad=True), "b": torch.rand(3, requires_grad=True)}
    anchor = {name: torch.rand_like(p) for name, p in theta.items()}
    importance = kept({name: torch.rand_like(p) for name, p in theta.items()}, form)
    found = []
    for offload in (None, False, True):
        held = QuadraticAnchor(anchor, importance, 3.0)
        if offload is not None:
            held.settle(theta, offload=offload)
        for p in theta.values():
            p.grad = None
        held.add_gradient(theta)
        found.append((held.penalty(theta), [p.grad for p in theta.values()]))
    for penalty, gradients in found[1:]:
        assert torch.equal(penalty, found[0][0])
        assert all(map(torch.equal, gradients, found[0][1]))


def test_an_offloaded_anchor_is_shared_with_what_stays():
    theta = {"w": torch.rand(6, 4)}
    held = QuadraticAnchor(theta, {"w": torch.rand(6, 4)}, 3.0)
    held.settle(theta, offload=True)
    assert held.share(theta) == {"w"}
    assert held.term("w", theta["w"])[1].data_ptr() == theta["w"].data_ptr()


def test_an_anchor_released_in_bfloat16_is_kept_so_and_pulls_to_the_same_bit():
    """Beside it one element that has more digits, for which the whole stays float32."""
    torch.manual_seed(0)
    released = torch.rand(6, 4).bfloat16().float()
    longer = released.clone()
    longer[5, 3] = 1 / 3
    importance, theta = torch.rand(6, 4), torch.rand(6, 4)
    gradients = {}
    for dtype, anchor in ((torch.bfloat16, released), (torch.float32, longer)):
        leaf = {"w": theta.clone().requires_grad_()}
        held = QuadraticAnchor({"w": anchor}, {"w": importance}, 3.0)
        kept_as = held.term("w", leaf["w"])[1]
        assert kept_as.dtype == dtype
        assert torch.equal(kept_as.float(), anchor)
        held.add_gradient(leaf)
        gradients[dtype] = leaf["w"].grad.flatten()[:-1]
    assert torch.equal(*gradients.values())


@pytest.mark.parametrize(
    ("anchor", "frozen", "shared"),
    [
        ([1.0, 2.0], torch.float32, True),
        ([1.0, 2.0], torch.bfloat16, True),
        ([1.0, 1 / 3], torch.float32, True),
        ([1.0, 1 / 3], torch.bfloat16, False),  # of which the anchor says more
    ],
)
def test_an_anchor_is_shared_where_the_frozen_weight_says_the_same(anchor, frozen, shared):
    held = QuadraticAnchor({"w": torch.tensor(anchor)}, None, 1.0)
    weight = torch.tensor(anchor).to(frozen)
    assert held.share({"w": weight}) == ({"w"} if shared else frozenset())
    assert (held.term("w", weight)[1].data_ptr() == weight.data_ptr()) is shared


def test_one_number_for_all_stays_one_number_when_it_is_offloaded():
    theta = {"w": torch.rand(6, 4)}
    ones = {"w": torch.ones(()).expand(6, 4)}
    held = QuadraticAnchor({"w": torch.zeros(6, 4)}, ones, 2.0)
    held.settle(theta, offload=True)
    _, _, weight = held.term("w", theta["w"])
    assert weight.stride() == (0, 0)
    torch.testing.assert_close(held.penalty(theta), theta["w"].square().sum())


def test_what_is_settled_still_asks_for_the_right_shape():
    held = QuadraticAnchor({"w": torch.zeros(6, 4)}, {"w": torch.ones(6, 4)}, 2.0)
    held.settle({"w": torch.zeros(6, 4)})
    with pytest.raises(ValueError, match="has shape"):
        held.penalty({"w": torch.zeros(4, 6)})
