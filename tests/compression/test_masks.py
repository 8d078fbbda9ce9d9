"""Masks: beside sorting, beside torch.nn.utils.prune, and what they refuse."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune

from compression import masks
from compression.masks import lowest, n_of_m
from compression.threshold import cut

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=4)
ODD = [0.0, -0.0, 1.0, 1.0000001, 1e-37, 3e38, float("inf")]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.floats(0, 2.0**100, width=32, allow_subnormal=False),
    st.integers(0, 3).map(float),
)


@st.composite
def tensors(draw: st.DrawFn) -> list[torch.Tensor]:
    """Scores of a few tensors, with ties, with the ends of float32, some of no entry."""
    return [
        torch.tensor(draw(st.lists(VALUES, min_size=size, max_size=size)), dtype=torch.float32)
        for size in draw(SIZES)
    ]


def given_as(found: list[torch.Tensor]) -> masks.Scores:
    return lambda: ((str(number), one) for number, one in enumerate(found))


@settings(deadline=None)
@given(scores=tensors(), sparsity=st.floats(0, 0.99))
def test_of_a_model_exactly_the_lowest_go_and_of_equal_ones_the_first(
    scores: list[torch.Tensor], sparsity: float
) -> None:
    """Beside a stable sort of all scores as one."""
    whole = torch.cat(scores)
    wanted = torch.ones(len(whole), dtype=torch.bool)
    wanted[whole.argsort(stable=True)[: round(sparsity * len(whole))]] = False
    found = torch.cat([mask for _, mask in lowest(given_as(scores), sparsity, "model")])
    assert torch.equal(found, wanted)


@settings(deadline=None)
@given(scores=tensors(), share=st.floats(0, 1))
def test_a_cut_lies_where_that_many_go(scores: list[torch.Tensor], share: float) -> None:
    whole = torch.cat(scores)
    found = cut(lambda: scores, share)
    count = round(share * len(whole))
    if count:
        assert int((whole < found.value).sum()) + found.ties == count
        assert 1 <= found.ties <= int((whole == found.value).sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_by_magnitude_it_is_what_torch_prunes(sparsity: float) -> None:
    """torch.nn.utils.prune, of one layer and of several together."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)]
    scores = [layer.weight.detach().abs() for layer in layers]
    together = dict(lowest(given_as(scores), sparsity, "model"))
    apart = dict(lowest(given_as(scores), sparsity, "tensor"))
    for number, layer in enumerate(layers):
        prune.l1_unstructured(layer, "weight", amount=sparsity)
        assert torch.equal(apart[str(number)], layer.weight_mask.bool())
        prune.remove(layer, "weight")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)]
    pruned = [(layer, "weight") for layer in layers]
    prune.global_unstructured(pruned, pruning_method=prune.L1Unstructured, amount=sparsity)
    for number, layer in enumerate(layers):
        assert torch.equal(together[str(number)], layer.weight_mask.bool())


def test_of_each_row_the_same_share_goes() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.1, 0.1, 0.1, 0.1]])
    stack = torch.stack([scores, scores.flip(-1)])
    ((_, mask),) = lowest(given_as([stack]), 0.5, "row")
    first = [[True, False, True, False], [False, False, True, True]]
    second = [[False, True, False, True], [False, False, True, True]]
    assert mask.tolist() == [first, second]


def test_two_of_four_are_the_highest_of_each_four() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0, 3.0, 5.0, 5.0, 5.0, 6.0]])
    assert n_of_m(scores).tolist() == [[False, True, False, True, False, False, True, True]]
    every = n_of_m(torch.rand(6, 3, 16, generator=torch.Generator().manual_seed(0)), 3, 8)
    assert set(every.unflatten(-1, (-1, 8)).sum(-1).flatten().tolist()) == {3}


def test_scores_are_asked_for_one_tensor_after_the_other() -> None:
    """A model's scores are as large as the model."""
    alive: list[int] = []

    def scores() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(5):
            alive.append(number)
            yield str(number), torch.full((3,), float(number))
            alive.remove(number)
            assert not alive

    kept = [int(mask.sum()) for _, mask in lowest(scores, 0.4, "model")]
    assert kept == [0, 0, 3, 3, 3]


def test_what_can_t_be_is_refused() -> None:
    some = given_as([torch.ones(4)])
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="must be at least 0 and less than 1"):
            lowest(some, sparsity, "model")
    with pytest.raises(ValueError, match="scope is 'layer': must be one of model, tensor, row"):
        lowest(some, 0.5, "layer")
    with pytest.raises(ValueError, match="rows of 6 weights: must be a multiple of 4"):
        n_of_m(torch.ones(2, 6))
    with pytest.raises(ValueError, match="5 of 4 are to stay: must be 1 to 4"):
        n_of_m(torch.ones(2, 8), 5)
