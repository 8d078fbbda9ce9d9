"""Terms folded into one pull as the separate terms do."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regularizers.anchor import QuadraticAnchor
from regularizers.consolidate import Held, accumulated, newest, summed
from regularizers.formats import kept, whole
from regularizers.methods import METHODS, method_of

FISHER = st.sampled_from([0.0, 0.0, 1e-12, 1e-4, 1.0, 37.5, 1e6])
WEIGHT = st.floats(-3, 3, width=32)
NUM_WEIGHTS = 5


@st.composite
def terms(draw: st.DrawFn) -> list[Held]:
    """One to six terms over five weights, importance 0 in many places."""

    def row(values: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(draw(st.lists(values, min_size=NUM_WEIGHTS, max_size=NUM_WEIGHTS)))

    count = draw(st.integers(1, 6))
    return [Held({"w": row(WEIGHT)}, {"w": row(FISHER)}) for _ in range(count)]


def pull(held: Held, theta: Tensor, strength: float) -> Tensor:
    parameter = torch.nn.Parameter(theta.clone())
    QuadraticAnchor(held.anchor, held.importance, strength).add_gradient({"w": parameter})
    return parameter.grad if parameter.grad is not None else torch.zeros_like(theta)


@given(terms(), st.lists(WEIGHT, min_size=NUM_WEIGHTS, max_size=NUM_WEIGHTS))
def test_one_anchor_pulls_as_the_separate_terms_together(many: list[Held], at: list[float]) -> None:
    """Gradients of sum_k F_k (theta - theta_k)^2, each term written out in float64."""
    theta, held = torch.tensor(at), None
    for term in many:
        held = summed(held, term, decay=0.3)
    assert held is not None
    separate = sum(
        3.0 * t.importance["w"].double() * (theta.double() - t.anchor["w"].double()) for t in many
    )
    total = sum(t.importance["w"].double() for t in many)
    # Rounding of an anchor of size 3 in float32, as often as terms were added.
    slack = 3.0 * total * 3 * 2**-23 * len(many) * 2 + 1e-30
    assert bool(((pull(held, theta, 3.0).double() - separate).abs() <= slack).all())


@given(terms())
def test_where_nothing_matters_the_anchor_is_the_newest_weight(many: list[Held]) -> None:
    held = None
    for term in many:
        held = summed(held, term, decay=1.0)
    assert held is not None
    nothing = held.importance["w"] == 0
    assert torch.equal(held.anchor["w"][nothing], many[-1].anchor["w"][nothing])
    assert bool(held.anchor["w"].isfinite().all())


def test_two_terms_by_hand() -> None:
    """F 1 at 0 and F 3 at 4: 1 (x - 0)^2 + 3 (x - 4)^2 has its least at 3, and curvature 4."""
    first = Held({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])})
    second = Held({"w": torch.tensor([4.0])}, {"w": torch.tensor([3.0])})
    held = summed(first, second, decay=1.0)
    assert (float(held.anchor["w"]), float(held.importance["w"])) == (3.0, 4.0)
    online = accumulated(first, second, decay=0.5)
    assert (float(online.anchor["w"]), float(online.importance["w"])) == (4.0, 3.5)
    alone = newest(first, second, decay=0.5)
    assert alone is second


def test_what_was_frozen_in_an_update_is_held_as_before() -> None:
    first = Held(
        {"w": torch.zeros(2), "gate": torch.ones(2)}, {"w": torch.ones(2), "gate": torch.ones(2)}
    )
    second = Held({"w": torch.ones(2), "gate": torch.ones(2)}, {"w": torch.ones(2)})
    both = summed(first, second, decay=1.0)
    assert both.importance["gate"].tolist() == [1, 1]
    assert accumulated(first, second, decay=0.5).importance["gate"].tolist() == [0.5, 0.5]


def test_the_table_says_what_each_method_is() -> None:
    assert set(METHODS) == {"l2", "ewc", "ewc, periods", "online_ewc", "si", "mas"}
    assert method_of("ewc", "periods") is METHODS["ewc, periods"]
    assert method_of("ewc", "base") is METHODS["ewc"]
    assert method_of("si", "periods") is method_of("si", "base") is METHODS["si"]
    assert method_of("lwf", "base") is None
    assert METHODS["ewc"].trace("optimizer") == "optimizer"
    assert METHODS["mas"].trace("optimizer") == METHODS["ewc"].trace("sampled") == ""
    assert METHODS["si"].trace("empirical") == "path"


def test_strength_is_twice_the_papers_c_of_si_and_lambda_of_mas() -> None:
    """c sum Omega (theta - theta~)^2 (Zenke et al. 2017, eq. 4) and lambda sum Omega (theta -
    theta*)^2 (Aljundi et al. 2018, eq. 4), differentiated by autograd, pull as strength 2 c."""
    omega, start, c = torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0]), 0.7
    theta = torch.nn.Parameter(torch.tensor([1.5, 3.0]))
    (c * (omega * (theta - start) ** 2).sum()).backward()
    ours = pull(Held({"w": start}, {"w": omega}), theta.detach(), strength=2 * c)
    torch.testing.assert_close(ours, theta.grad)


def test_terms_in_a_smaller_format_are_folded_as_what_they_stand_for() -> None:
    """Row and column sums of a factored sum are the sums of both; bfloat16 rounds it once more."""
    torch.manual_seed(0)
    first, second = (Held({"w": torch.rand(6, 5)}, {"w": torch.rand(6, 5)}) for _ in range(2))
    for form in ("factored", "bfloat16"):
        old, new = (Held(t.anchor, kept(t.importance, form)) for t in (first, second))
        for fold in (accumulated, summed):
            found = fold(old, new, decay=0.5).importance["w"]
            past = whole(old.importance["w"]) * (0.5 if fold is accumulated else 1.0)
            total = past + whole(new.importance["w"])
            assert type(found) is type(new.importance["w"])
            if form == "factored":
                for dim in (0, 1):
                    torch.testing.assert_close(whole(found).sum(dim), total.sum(dim))
            else:
                torch.testing.assert_close(whole(found), total, rtol=2**-8, atol=0)
