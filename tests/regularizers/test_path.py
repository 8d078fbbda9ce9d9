"""SI's path, on a hand-worked case and against a loop written out."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import nn

from regularizers.path import Path, share


def test_two_steps_by_hand() -> None:
    """Loss 2 w, learning rate 0.1: a step moves w by -0.2 along gradient 2 and lowers the loss by
    0.4, all of it w's doing; two steps move it by -0.4."""
    w = nn.Parameter(torch.tensor([1.0]))
    states: dict[Any, dict[str, Any]] = defaultdict(dict)
    path = Path({"w": w}, states)
    for _ in range(2):
        w.grad = torch.tensor([2.0])
        path.before_step()
        w.grad += 100  # an anchor's pull, which is none of the loss's
        with torch.no_grad():
            w -= 0.2
        path.after_step()
    omega, moved = path.omega(), path.moved()
    torch.testing.assert_close(omega["w"], torch.tensor([0.8]))
    torch.testing.assert_close(moved["w"], torch.tensor([-0.4]))
    found = share(omega, moved, 0.1)
    torch.testing.assert_close(found["w"], torch.tensor([0.8 / (0.16 + 0.1)]))


def test_what_moved_up_the_loss_has_no_importance() -> None:
    found = share({"w": torch.tensor([-1.0, 1.0])}, {"w": torch.zeros(2)}, 0.5)
    assert found["w"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_damping_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="damping"):
        share({}, {}, damping)


def test_it_is_a_loop_written_out_and_adds_up_to_what_the_loss_lost() -> None:
    """A small net under Adam with weight decay, against a loop of plain torch; and, the steps
    being small, the sum over all weights is by how much the loss fell (eq. 2 of the paper)."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    torch.manual_seed(1)
    x = torch.randn(32, 4, dtype=torch.float64)
    y = x.sum(1, keepdim=True).sin()

    def loss_of(model: nn.Module) -> torch.Tensor:
        return ((model(x) - y) ** 2).mean()

    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    path = Path(dict(model.named_parameters()), optimizer.state)
    first = loss_of(model).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss_of(model).backward()
        path.before_step()
        optimizer.step()
        path.after_step()
    fallen = first - loss_of(model).item()

    other = net()
    plain = torch.optim.AdamW(other.parameters(), lr=1e-4, weight_decay=0.01)
    start = [p.detach().clone() for p in other.parameters()]
    sums = [torch.zeros_like(p) for p in start]
    for _ in range(50):
        plain.zero_grad()
        loss_of(other).backward()
        before = [p.detach().clone() for p in other.parameters()]
        plain.step()
        for total, p, old in zip(sums, other.parameters(), before, strict=True):
            total -= p.grad * (p.detach() - old)
    omega, moved = path.omega(), path.moved()
    for (name, p), total, old in zip(other.named_parameters(), sums, start, strict=True):
        torch.testing.assert_close(omega[name], total.float(), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(moved[name], p.detach().float() - old.float())
    assert sum(float(o.sum()) for o in omega.values()) == pytest.approx(fallen, rel=0.02)
