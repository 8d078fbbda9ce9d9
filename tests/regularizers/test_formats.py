"""Formats of an importance: what each keeps of it, what it costs, and that an anchor takes each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regularizers import anchor
from regularizers.anchor import QuadraticAnchor
from regularizers.formats import FORMATS, Factored, keep, kept, num_bytes, whole
from updater.settings import IMPORTANCE_FORMATS

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**31)


def random(shape, seed):
    """Non-negative, over ten decades, with zeros."""
    generator = torch.Generator().manual_seed(seed)
    decades = 10 ** (10 * torch.rand(shape, generator=generator) - 8)
    return decades * (torch.rand(shape, generator=generator) > 0.2)


def test_every_format_that_may_be_configured_is_one():
    assert FORMATS == IMPORTANCE_FORMATS


@given(rows=sizes, columns=sizes, seed=seeds)
def test_factored_is_exact_where_the_matrix_has_rank_one(rows, columns, seed):
    matrix = random((rows, 1), seed) * random((1, columns), seed + 1)
    torch.testing.assert_close(whole(keep(matrix, "factored")), matrix, rtol=1e-6, atol=0)


@given(shape=st.lists(sizes, min_size=2, max_size=3), seed=seeds)
def test_factored_keeps_the_sums_of_rows_and_columns(shape, seed):
    matrix = random(shape, seed)
    found = whole(keep(matrix, "factored"))
    assert found.shape == matrix.shape
    for dim in [d for d, size in enumerate(shape) if size > 1][-2:]:
        torch.testing.assert_close(found.sum(dim), matrix.sum(dim), rtol=1e-5, atol=0)


@given(shape=st.lists(st.integers(0, 9), max_size=3), seed=seeds)
def test_bfloat16_is_within_its_rounding_and_float32_is_itself(shape, seed):
    tensor = random(shape, seed)
    rounded = keep(tensor, "bfloat16")
    assert rounded.dtype == torch.bfloat16
    assert ((whole(rounded) - tensor).abs() <= tensor / 256).all()
    assert torch.equal(whole(keep(tensor, "float32")), tensor)


def test_factored_by_hand():
    # Row sums 3 and 9, column sums 4 and 8 of 12: 3*4/12, 3*8/12, 9*4/12, 9*8/12.
    found = whole(keep(torch.tensor([[0.0, 3.0], [4.0, 5.0]]), "factored"))
    big = torch.tensor([[0.0, 3.0, 0.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    assert whole(keep(big, "factored")).tolist() == [[1, 2, 0], [3, 6, 0], [0, 0, 0]]
    assert found.tolist() == [[0, 3], [4, 5]]  # two rows and two columns would save nothing


def test_each_expert_has_its_own_rows_and_columns_and_one_may_have_nothing():
    experts = torch.stack([torch.ones(5, 6), torch.zeros(5, 6), 7 * torch.ones(5, 6)])
    found = keep(experts, "factored")
    assert isinstance(found, Factored)
    assert (found.rows.shape, found.columns.shape) == ((3, 5, 1), (3, 1, 6))
    torch.testing.assert_close(whole(found), experts)


@pytest.mark.parametrize(
    ("shape", "entries"),
    [((7,), 7), ((), 1), ((40, 1, 4), 44), ((6, 8), 14), ((3, 6, 8), 42), ((1, 9), 9)],
)
def test_what_each_shape_costs_factored(shape, entries):
    weight = keep(torch.rand(shape), "factored")
    assert weight.shape == shape
    assert num_bytes({"w": weight}) == 4 * entries


def test_bytes_of_each_format():
    tensors = {"w": torch.rand(100, 50), "b": torch.rand(100)}
    costs = {form: num_bytes(kept(tensors, form)) for form in FORMATS}
    assert costs == {"float32": 20400, "bfloat16": 10200, "factored": 4 * (150 + 100)}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chunk", [7, 2**20])
def test_an_anchor_holds_by_what_the_format_says(form, chunk, monkeypatch):
    monkeypatch.setitem(anchor.CHUNK_ELEMENTS, "cpu", chunk)
    shapes = {"w": (9, 5), "e": (4, 5, 6), "c": (8, 1, 4), "b": (3,)}
    theta = {n: torch.nn.Parameter(torch.rand(shape)) for n, shape in shapes.items()}
    star = {n: torch.rand(shape) for n, shape in shapes.items()}
    weights = kept({n: torch.rand(shape) for n, shape in shapes.items()}, form)
    held = QuadraticAnchor(star, weights, 3.0)
    held.add_gradient(theta)
    expected = sum((whole(weights[n]) * (theta[n] - star[n]) ** 2).sum() for n in theta) * 1.5
    torch.testing.assert_close(held.penalty(theta), expected.detach())
    wanted = torch.autograd.grad(expected, list(theta.values()))
    torch.testing.assert_close([p.grad for p in theta.values()], list(wanted))


def test_refuses_an_unknown_format_and_a_broken_factor():
    with pytest.raises(ValueError, match="format is 'int8': must be one of"):
        keep(torch.rand(2), "int8")
    bad = {"w": Factored(torch.tensor([[-1.0], [1.0]]), torch.ones(1, 3))}
    with pytest.raises(ValueError, match="importance of 'w' must be finite and at least 0"):
        QuadraticAnchor({"w": torch.zeros(2, 3)}, bad, 1.0)
    other = {"w": Factored(torch.ones(2, 1), torch.ones(1, 3))}
    with pytest.raises(ValueError, match="importance of 'w' has shape"):
        QuadraticAnchor({"w": torch.zeros(3, 3)}, other, 1.0)
