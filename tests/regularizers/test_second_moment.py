"""The Fisher that Adam's accumulator has, in the unit of the others."""

import pytest
import torch
from torch import nn

from regularizers.fisher import from_second_moment


def adam(parameter: nn.Parameter, gradients: list[float], beta2: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([parameter], lr=0.0, betas=(0.9, beta2), weight_decay=0.0)
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return optimizer


def test_one_example_a_step_by_hand() -> None:
    """Two steps of one example of 4 tokens: gradients per token 1 and 3, so of the example 4 and
    12. v = 0.5 (0.5 * 1 + 9), corrected by 1 - 0.25: the weighted mean (1 * 1 + 2 * 9) / 3 of the
    squares per token, times 4^2."""
    w = nn.Parameter(torch.zeros(1))
    found = from_second_moment({"w": w}, adam(w, [1.0, 3.0], 0.5), num_examples=1, num_tokens=4)
    torch.testing.assert_close(found["w"], torch.tensor([16 * 19 / 3]))


def test_a_parameter_that_never_took_a_step_has_none() -> None:
    w, idle = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
    optimizer = adam(w, [1.0], 0.9)
    optimizer.add_param_group({"params": [idle]})
    found = from_second_moment({"w": w, "idle": idle}, optimizer, num_examples=2, num_tokens=2)
    assert found["idle"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("num_examples", "tokens"), [(4, 3), (16, 1)])
def test_many_examples_a_step_give_the_mean_square_of_one(num_examples: int, tokens: int) -> None:
    """Examples with independent gradients of mean 0 and mean square 2.5^2, each of so many tokens:
    what comes out is 2.5^2, whatever the batch (4 standard errors of 400 weights' mean)."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.zeros(400))
    optimizer = torch.optim.AdamW([w], lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(200):
        examples = 2.5 * torch.randn(num_examples, 400)
        w.grad = examples.sum(0) / (num_examples * tokens)
        optimizer.step()
    found = from_second_moment(
        {"w": w}, optimizer, num_examples=num_examples, num_tokens=num_examples * tokens
    )["w"]
    error = float(found.std()) / 400**0.5
    assert abs(float(found.mean()) - 2.5**2) < 4 * error
