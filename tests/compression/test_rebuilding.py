"""Merging by activations: beside least squares of NumPy on the activations themselves."""

import numpy as np
import pytest
import torch

from compression import rebuilding
from compression.mlp import Mlp

EXACT = 1e-12  # damping so small that it can't be seen


def random(seed: int, *, neurons: int = 6, bias: bool = False) -> tuple[Mlp, torch.Tensor]:
    """An MLP, and its neurons' activations (tokens, n) on inputs."""
    chance = torch.Generator().manual_seed(seed)
    up, down, given = (
        torch.randn(shape, generator=chance) for shape in ((neurons, 4), (3, neurons), (80, 4))
    )
    shift = torch.randn(neurons, generator=chance) if bias else None
    before = given @ up.T + (0 if shift is None else shift)
    return Mlp(up, down, shift), before.relu().square()


def moments(said: torch.Tensor) -> torch.Tensor:
    return (said.double().T @ said.double()) / len(said)


def rebuilt(mlp: Mlp, said: torch.Tensor, kept: list[int]) -> tuple[np.ndarray, float]:
    """The best outgoing weights of those that stay, and the mean squared error that is left."""
    wanted = (said.double() @ mlp.down.double().T).numpy()
    down, *_ = np.linalg.lstsq(said.double().numpy()[:, kept], wanted, rcond=None)
    left = wanted - said.double().numpy()[:, kept] @ down
    return down.T, float(np.square(left).sum(1).mean())


def test_by_hand() -> None:
    """C is (2, 1; 1, 1), down (1, 3). Of neuron 1 neuron 0 guesses a half: what is left is
    1 - 1 / 2, times 9; of neuron 0 neuron 1 guesses all of 1: 2 - 1, times 1, the cheaper."""
    mlp = Mlp(torch.eye(2), torch.tensor([[1.0, 3.0]]))
    c = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    found = rebuilding.costs(mlp, c, damping=EXACT)
    assert found.tolist() == [pytest.approx(1.0), float("inf")]
    folded = rebuilding.fold(mlp, torch.tensor([True, False]), c, damping=EXACT)
    assert folded.down.tolist() == [[pytest.approx(1 + 3 / 2)]]
    folded = rebuilding.fold(mlp, torch.tensor([False, True]), c, damping=EXACT)
    assert folded.down.tolist() == [[pytest.approx(3 + 1)]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [1, 4], [3]])
def test_the_outgoing_weights_are_the_best_that_there_are(kept: list[int], bias: bool) -> None:
    mlp, said = random(0, bias=bias)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[kept] = True
    folded = rebuilding.fold(mlp, mask, moments(said), damping=EXACT)
    np.testing.assert_allclose(folded.down.numpy(), rebuilt(mlp, said, kept)[0], rtol=1e-4)
    assert torch.equal(folded.up, mlp.up[kept])
    assert (folded.bias is None) is not bias


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_the_rises_of_the_error_of_the_greedy(seed: int) -> None:
    """Beside a loop that fits every choice anew; and their sum is the error, where none is lower
    than the one before."""
    mlp, said = random(seed)
    alive, wanted, before, highest = list(range(6)), [float("inf")] * 6, 0.0, 0.0
    while len(alive) > 1:
        left = {j: rebuilt(mlp, said, [k for k in alive if k != j])[1] for j in alive}
        goes = min(left, key=left.__getitem__)
        highest = max(highest, left[goes] - before)
        wanted[goes], before = highest, left[goes]
        alive.remove(goes)
    found = rebuilding.costs(mlp, moments(said), damping=EXACT)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3)


def test_what_others_can_say_goes_for_nothing_but_only_once() -> None:
    """Neuron 5 is half of 0 (by twice its outgoing weight, one neuron), 4 says nothing."""
    mlp, said = random(3)
    said[:, 5], said[:, 4] = said[:, 0] / 2, 0
    found = rebuilding.costs(mlp, moments(said))
    kept = found > 1e-2 * float(found[1:4].min())
    assert kept[1:4].all()
    assert int(kept.sum()) == 4
    assert not kept[4]
    folded = rebuilding.fold(mlp, kept, moments(said))
    wanted = said @ mlp.down.T
    torch.testing.assert_close(said[:, kept] @ folded.down.T, wanted, rtol=2e-3, atol=2e-2)


def test_neurons_that_never_said_a_thing_are_let_go() -> None:
    """An expert to which no token came: its moments are 0."""
    mlp, _ = random(1)
    nothing = torch.zeros(6, 6)
    kept = torch.tensor([True] * 3 + [False] * 3)
    folded = rebuilding.fold(mlp, kept, nothing)
    torch.testing.assert_close(folded.down, mlp.down[:, kept])
    assert bool(rebuilding.costs(mlp, nothing).sort().values[:-1].isfinite().all())


def test_the_dtype_is_kept() -> None:
    mlp, said = random(1)
    half = Mlp(mlp.up.bfloat16(), mlp.down.bfloat16())
    folded = rebuilding.fold(half, torch.tensor([True] * 5 + [False]), moments(said).float())
    assert folded.up.dtype == folded.down.dtype == torch.bfloat16


def test_what_can_t_be_is_refused() -> None:
    mlp, said = random(0)
    c = moments(said)
    with pytest.raises(ValueError, match=r"of 6 neurons have shape \(5, 5\): must be \(n, n\)"):
        rebuilding.costs(mlp, c[1:, 1:])
    with pytest.raises(ValueError, match="damping is 0: must be more than 0"):
        rebuilding.costs(mlp, c, damping=0)
    for broken in (-c, c * float("nan")):
        with pytest.raises(ValueError, match="moments must be finite, and means of squares"):
            rebuilding.costs(mlp, broken)
    with pytest.raises(ValueError, match="no neuron stays"):
        rebuilding.fold(mlp, torch.zeros(6, dtype=torch.bool), c)
