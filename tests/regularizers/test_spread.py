"""Mean and deviation of squared gradients, beside NumPy in float64, down to the tiniest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from regularizers.fisher import empirical
from regularizers.spread import empirical_spread


def of_gradients(gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is found where example n's gradient is row n, float64."""
    w = torch.zeros(gradients.shape[1], requires_grad=True)
    rows = torch.from_numpy(gradients.astype(np.float32))
    found = empirical_spread({"w": w}, rows, lambda row: row @ w)["w"]
    assert found.mean.dtype == found.sd.dtype == torch.float32
    return found.mean.double().numpy(), found.sd.double().numpy()


def test_by_hand() -> None:
    """Squares 1, 9 and 4, 4: means 5 and 4, deviations 4 and 0."""
    mean, sd = of_gradients(np.array([[1.0, 2.0], [-3.0, -2.0]]))
    assert mean.tolist() == [5.0, 4.0]
    assert sd.tolist() == [4.0, 0.0]


@pytest.mark.parametrize("size", [1e-17, 1e-12, 1.0, 1e12, 1e18])
def test_gradients_of_any_size(size: float) -> None:
    """The fourth power of most of these is not in float32's range."""
    gradients = np.random.default_rng(0).standard_normal((200, 50)) * size
    squares = gradients.astype(np.float32).astype(np.float64) ** 2
    mean, sd = of_gradients(gradients)
    np.testing.assert_allclose(mean, squares.mean(0), rtol=2e-6)
    np.testing.assert_allclose(sd, squares.std(0), rtol=2e-6)


def test_where_examples_hardly_differ_nothing_cancels() -> None:
    """A deviation of 1e-4 of the mean: the difference of two sums in float32 has none of it."""
    gradients = 1 + 1e-4 * np.random.default_rng(1).standard_normal((300, 40))
    squares = (gradients.astype(np.float32) ** 2).astype(np.float64)
    np.testing.assert_allclose(of_gradients(gradients)[1], squares.std(0), rtol=2e-3)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_examples_is_nothing(rows: list[list[float]], chance) -> None:  # type: ignore[no-untyped-def]
    mean, sd = of_gradients(np.array(rows))
    squares = np.square(np.array(rows, np.float32)).astype(np.float64)
    np.testing.assert_allclose(mean, squares.mean(0), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(sd, squares.std(0), rtol=1e-4, atol=1e-6 * squares.max())
    chance.shuffle(rows)
    again = of_gradients(np.array(rows))[1]
    np.testing.assert_allclose(again, sd, rtol=1e-4, atol=1e-6 * squares.max())


def test_of_a_network_the_mean_is_the_fisher() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    model[0].bias.requires_grad_(False)
    examples = [(torch.randn(6), torch.tensor(n % 3)) for n in range(40)]

    def loss(example: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(model(example[0]), example[1])

    named = dict(model.named_parameters())
    found, fisher = empirical_spread(named, examples, loss), empirical(named, examples, loss)
    assert found.keys() == fisher.keys()
    for name, moments in found.items():
        torch.testing.assert_close(moments.mean, fisher[name], rtol=1e-5, atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("used", [[0], [2], [4], [1, 3], [0, 1, 2, 3, 4], []])
def test_an_example_without_the_parameter_counts_as_zero(used: list[int]) -> None:
    """Whether it comes first, between or last."""
    w, always = (torch.zeros(1, requires_grad=True) for _ in range(2))

    def loss(number: int) -> torch.Tensor:
        said = always.sum()
        return said + (number + 2) * w.sum() if number in used else said

    done: list[int] = []
    found = empirical_spread({"w": w, "always": always}, range(5), loss, progress=done.append)
    squares = np.array([(n + 2.0) ** 2 if n in used else 0.0 for n in range(5)])
    assert found["w"].mean.item() == pytest.approx(squares.mean())
    assert found["w"].sd.item() == pytest.approx(squares.std())
    assert found["always"].mean.item() == 1.0
    assert found["always"].sd.item() == 0.0
    assert done == [1, 2, 3, 4, 5]


def test_what_can_t_be_is_refused() -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="at least one"):
        empirical_spread({"w": w}, [], lambda _: w.sum())
    with pytest.raises(ValueError, match="no parameter needs a gradient"):
        empirical_spread({"w": torch.ones(1)}, [1], lambda _: w.sum())
    with pytest.raises(ValueError, match="loss after 0 examples is nan"):
        empirical_spread({"w": w}, [1], lambda _: w.sum() * float("nan"))
