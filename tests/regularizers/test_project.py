"""A-GEM's projection: hand-worked, and what must hold whatever the gradients are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from regularizers.project import correction, project

Gradients = dict[str, torch.Tensor]


def of(seed: int) -> Gradients:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2), "b": (5,), "c": (2, 2, 2)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def copy(gradients: Gradients) -> Gradients:
    return {name: g.clone() for name, g in gradients.items()}


def dot(first: Gradients, second: Gradients) -> float:
    return sum(float((g.double() * second[n].double()).sum()) for n, g in first.items())


def test_by_hand_over_all_parameters_together() -> None:
    """g = (1, -3), r = (1, 1) in two parameters: g.r = -2, r.r = 2, so g + r = (2, -2). One
    parameter at a time the first would stay 1."""
    gradients = {"x": torch.tensor([1.0]), "y": torch.tensor([-3.0])}
    reference = {"x": torch.tensor([1.0]), "y": torch.tensor([1.0])}
    assert correction(gradients, reference) == 1.0
    project(gradients, reference)
    assert {name: g.tolist() for name, g in gradients.items()} == {"x": [2.0], "y": [-2.0]}


def test_a_name_that_one_of_them_lacks_is_zero_there() -> None:
    """g = (-2, 0, 5), r = (1, 1, 0): g.r / r.r = -1, so (-1, 1, 5)."""
    gradients = {"x": torch.tensor([-2.0]), "z": torch.tensor([5.0])}
    project(gradients, {"x": torch.tensor([1.0]), "y": torch.tensor([1.0])})
    assert {n: g.tolist() for n, g in gradients.items()} == {"x": [-1.0], "y": [1.0], "z": [5.0]}
    agreeing = {"x": torch.tensor([2.0])}
    project(agreeing, {"x": torch.tensor([1.0]), "y": torch.tensor([1.0])})
    assert agreeing.keys() == {"x"}


@given(st.integers(0, 2**20), st.integers(0, 2**20), st.floats(1e-6, 1e6))
def test_afterwards_they_agree_or_they_did_before(first: int, second: int, scale: float) -> None:
    before, reference = of(first), of(second)
    after = copy(before)
    project(after, {name: scale * r for name, r in reference.items()})
    size = (dot(before, before) * dot(reference, reference)) ** 0.5
    assert dot(after, reference) >= -1e-6 * size
    if dot(before, reference) >= 0:
        assert all(torch.equal(after[name], g) for name, g in before.items())
    else:  # r's size does not matter, and only the part along r is gone
        assert dot(after, reference) <= 1e-6 * size
        moved = {name: after[name] - g for name, g in before.items()}
        assert dot(moved, reference) ** 2 == pytest.approx(
            dot(moved, moved) * dot(reference, reference), rel=1e-3
        )


@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_no_gradient_that_agrees_is_nearer(seed: int) -> None:
    """Eq. 10: min 1/2 |g - x|^2 such that x.r >= 0, by scipy's solver."""
    before, reference = of(seed), of(seed + 1)
    after = copy(before)
    project(after, reference)
    g, r, found = (
        torch.cat([t.flatten() for t in of_name.values()]).double().numpy()
        for of_name in (before, reference, after)
    )
    solved = optimize.minimize(
        lambda x: ((x - g) ** 2).sum() / 2,
        g,
        jac=lambda x: x - g,
        constraints={"type": "ineq", "fun": lambda x: x @ r, "jac": lambda x: r},
        method="SLSQP",
    )
    assert found == pytest.approx(solved.x, abs=1e-4)


def test_nothing_to_agree_with_changes_nothing() -> None:
    gradients = of(0)
    against = [{name: size * g for name, g in gradients.items()} for size in (-0.0, -1e-25)]
    for reference in ({}, *against):
        after = copy(gradients)
        project(after, reference)
        assert all(torch.equal(after[name], g) for name, g in gradients.items())
    empty: Gradients = {}
    project(empty, of(1))
    assert empty == {}
