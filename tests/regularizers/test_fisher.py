"""Fisher estimators: closed forms, an independent implementation, and one scale for all sizes.

Shapes: N examples, B batch, D features, K classes.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from regularizers.fisher import ESTIMATORS, empirical, sampled
from regularizers.gradients import mean_over


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_empirical_linear_gaussian_by_the_closed_form():
    """log p(y|x) = -(y - w.x)^2 / 2 + c, so F_i = mean (y - w.x)^2 x_i^2."""
    x_ND, y_N = rows(50, 4), rows(50, seed=1)
    w_D = rows(4, seed=2).requires_grad_()
    found = empirical(
        {"w": w_D}, zip(x_ND, y_N, strict=True), lambda e: (e[1] - w_D @ e[0]) ** 2 / 2
    )
    residual_N = y_N - x_ND @ w_D.detach()
    torch.testing.assert_close(found["w"], (residual_N[:, None] ** 2 * x_ND**2).mean(0))


def test_empirical_against_per_sample_gradients_of_torch_func():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x_ND, y_N = rows(40, 6), torch.arange(40) % 3

    def loss(parameters, x_D, y):
        return functional.cross_entropy(functional_call(model, parameters, (x_D,)), y)

    detached = {name: p.detach() for name, p in model.named_parameters()}
    each = vmap(grad(loss), in_dims=(None, 0, 0))(detached, x_ND, y_N)
    expected = {name: (gradient**2).mean(0) for name, gradient in each.items()}
    found = empirical(
        dict(model.named_parameters()),
        zip(x_ND, y_N, strict=True),
        lambda e: functional.cross_entropy(model(e[0]), e[1]),
    )
    torch.testing.assert_close(found, expected)


class Softmax:
    """p(y|x) = softmax(x W^T): a model whose Fisher is known exactly."""

    def __init__(self, num_examples=24, num_features=3, num_classes=4):
        self.x_ND = rows(num_examples, num_features)
        self.w_KD = (0.7 * rows(num_classes, num_features, seed=1)).requires_grad_()

    def exact(self):
        """mean_x sum_y p(y|x) ((p - onehot(y)) x^T)^2."""
        p_NK = (self.x_ND @ self.w_KD.detach().T).softmax(-1)
        eye_KK = torch.eye(p_NK.shape[1])
        error_NKK = p_NK[:, None, :] - eye_KK
        square_NKKD = (error_NKK[..., None] * self.x_ND[:, None, None, :]) ** 2
        return (p_NK[:, :, None, None] * square_NKKD).sum(1).mean(0)

    def sampled_loss(self, x_BD):
        logits_BK = x_BD @ self.w_KD.T
        y_B = torch.distributions.Categorical(logits=logits_BK.detach()).sample()
        return functional.cross_entropy(logits_BK, y_B), len(x_BD)


def draws(model, batch_size, num_draws):
    """(num_draws, K * D): independent estimates over all examples in batches of that size."""
    torch.manual_seed(batch_size)
    batches = model.x_ND.split(batch_size)
    return np.stack(
        [
            sampled({"w": model.w_KD}, batches, model.sampled_loss)["w"].flatten().numpy()
            for _ in range(num_draws)
        ]
    ).astype(np.float64)


def z_scores(estimates, exact):
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    return (estimates.mean(0) - exact) / error


@pytest.mark.parametrize(("batch_size", "num_draws"), [(1, 300), (5, 600), (24, 1500)])
def test_sampled_is_unbiased_whatever_the_batch_size(batch_size, num_draws):
    """z-test of the mean over draws against the exact Fisher, 12 entries, 3 batch sizes.

    False alarm (over seeds, by the normal approximation) 1e-6 for all 36 together; the seeds are
    fixed. The squared batch-mean gradient without the factor B is found out by the same test. A
    batch of 5 leaves a last one of 4: batches count by their size.
    """
    model = Softmax()
    exact = model.exact().flatten().numpy().astype(np.float64)
    limit = stats.norm.isf(1e-6 / 36 / 2)
    estimates = draws(model, batch_size, num_draws)
    assert np.abs(z_scores(estimates, exact)).max() < limit
    if batch_size > 1:
        assert np.abs(z_scores(estimates / batch_size, exact)).min() > limit


def test_empirical_is_the_exact_fisher_when_every_label_is_as_often_as_the_model_says():
    """With labels y in the proportions p(y|x), here 1/2 and 1/2 (w = 0), both Fishers are one."""
    x_ND = rows(10, 3)
    w_KD = torch.zeros(2, 3, requires_grad=True)
    examples = [(x_D, y) for x_D in x_ND for y in (0, 1)]
    found = empirical(
        {"w": w_KD},
        examples,
        lambda e: functional.cross_entropy(w_KD @ e[0], torch.tensor(e[1])),
    )
    expected = (x_ND**2).mean(0) / 4
    torch.testing.assert_close(found["w"], expected.expand(2, 3))


def test_leaves_gradients_mode_and_frozen_parameters_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1)).eval()
    model[0].bias.requires_grad_(False)
    kept = model[2].weight.grad = torch.full((1, 2), 3.0)
    found = empirical(dict(model.named_parameters()), rows(3, 2), lambda x: model(x).sum())
    assert set(found) == {"0.weight", "2.weight", "2.bias"}
    assert model[2].weight.grad is kept
    assert kept.tolist() == [[3.0, 3.0]]
    assert model[0].weight.grad is None
    assert not model.training
    assert not any(tensor.requires_grad for tensor in found.values())


def test_a_parameter_that_the_loss_does_not_use_has_importance_zero():
    used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    found = empirical({"used": used, "unused": unused}, [1.0, 2.0], lambda c: (c * used).sum())
    assert found["used"].tolist() == [2.5, 2.5]
    assert found["unused"].tolist() == [0.0, 0.0]


def test_bfloat16_gradients_are_squared_and_summed_in_float32():
    """Each square is 2^-20; in bfloat16 a sum of 512 of them would stop growing at 256."""
    w = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    found = empirical({"w": w}, range(512), lambda _: (w * 2.0**-10).sum())
    assert found["w"].dtype == torch.float32
    assert found["w"].item() == 2.0**-20


def test_works_where_gradients_are_off_and_tells_its_progress():
    w, done = torch.ones(1, requires_grad=True), []
    with torch.no_grad():
        found = sampled({"w": w}, [1, 2, 3], lambda b: (w.sum(), b), progress=done.append)
    assert done == [1, 3, 6]
    assert found["w"].item() == pytest.approx((1 + 4 + 9) / 6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_refuses_to_estimate_from_nothing(estimator):
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="at least one"):
        ESTIMATORS[estimator]({"w": w}, [], lambda _: (w.sum(), 1))
    with pytest.raises(ValueError, match="no parameter needs a gradient"):
        ESTIMATORS[estimator]({"w": torch.ones(1)}, [1], lambda _: (w.sum(), 1))


@pytest.mark.parametrize(
    ("loss", "size", "message"),
    [
        (lambda w: w.sum() * float("nan"), 1, "loss after 0 examples is nan"),
        (lambda w: w.sum() / 0, 1, "loss after 0 examples is inf"),
        (lambda w: w, 1, r"has shape \(2,\)"),
        (lambda w: w.sum(), 0, "has 0 examples"),
    ],
)
def test_refuses_a_loss_that_is_not_a_finite_scalar(loss, size, message):
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        sampled({"w": w}, [1], lambda _: (loss(w), size))


def test_of_all_gradients_one_is_in_memory_at_a_time():
    weights = {f"w{n}": torch.full((3,), float(n), requires_grad=True) for n in range(4)}
    seen = []

    def loss(x):
        return sum((w * x).sum() for w in weights.values())

    def accumulate(total, gradient, _size):
        seen.append([name for name, w in weights.items() if w.grad is not None])
        total.add_(gradient)

    found = mean_over(
        weights, [(1.0, 1), (3.0, 1)], lambda it: (loss(it[0]), it[1]), accumulate, progress=None
    )
    assert seen == [[]] * 8
    assert all(torch.equal(tensor, torch.full((3,), 2.0)) for tensor in found.values())


def test_an_error_on_the_way_leaves_gradients_as_they_were():
    w = torch.ones(2, requires_grad=True)
    w.grad = kept = torch.full((2,), 5.0)

    def loss(example):
        if example:
            raise KeyError(example)
        return w.sum()

    with pytest.raises(KeyError):
        empirical({"w": w}, [0, 1], loss)
    assert w.grad is kept
    w.sum().backward()
    assert torch.equal(w.grad, torch.full((2,), 6.0)), "a hook is left"
