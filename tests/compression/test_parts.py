"""Parts: scored by hand, and a network without its dead neurons says the same."""

import pytest
import torch

from compression.masks import lowest
from compression.parts import Member, totals, without


def test_a_neuron_has_a_row_before_it_and_a_column_after() -> None:
    scores = {
        "up": torch.tensor([[1.0, 2.0], [0.5, 0.0], [3.0, 0.0]]),
        "down": torch.tensor([[10.0, 0.25, 1.0]]),
        "bias": torch.tensor([0.0, 100.0, 0.0]),
    }
    members = [Member.each("up", 0, 3), Member.each("down", 1, 3), Member.each("bias", 0, 3)]
    found = totals(scores.__getitem__, members)
    assert found.tolist() == [13.0, 100.75, 4.0]
    ((_, kept),) = lowest(lambda: [("neurons", found)], 1 / 3, "model")
    assert kept.tolist() == [True, True, False]
    assert without(scores["up"], members[0], kept).tolist() == [[1.0, 2.0], [0.5, 0.0]]
    assert without(scores["down"], members[1], kept).tolist() == [[10.0, 0.25]]


def test_a_head_s_rows_lie_in_segments_and_what_is_shared_stays() -> None:
    """Two heads of two rows in each of two segments, with a row between that is everybody's."""
    head = Member("in_proj", 0, torch.tensor([[0, 1, 5, 6], [2, 3, 7, 8]]))
    rows = torch.arange(9.0)[:, None].expand(9, 3)
    assert totals(lambda _: rows, [head]).tolist() == [3 * 12.0, 3 * 20.0]
    kept = torch.tensor([False, True])
    assert without(rows, head, kept)[:, 0].tolist() == [2, 3, 4, 7, 8]


def test_a_network_without_what_says_nothing_says_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 6)))
    given = torch.randn(5, 4, generator=generator)
    down[:, [1, 4]] = 0
    members = [Member.each("up", 0, 6), Member.each("down", 1, 6)]
    ((_, kept),) = lowest(
        lambda: [("neurons", totals(lambda _: down.abs(), members[1:]))], 1 / 3, "model"
    )
    smaller = (without(up, members[0], kept), without(down, members[1], kept))
    assert [tuple(one.shape) for one in smaller] == [(4, 4), (4, 4)]
    whole = (given @ up.T).relu().square() @ down.T
    torch.testing.assert_close((given @ smaller[0].T).relu().square() @ smaller[1].T, whole)


def test_what_can_t_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"int64 of shape \(3,\): must be int64 \(parts, width\)"):
        Member("w", 0, torch.arange(3))
    with pytest.raises(ValueError, match="an entry is in two of them"):
        Member("w", 0, torch.tensor([[0, 1], [1, 2]]))
    with pytest.raises(ValueError, match="an entry is negative"):
        Member("w", 0, torch.tensor([[-1]]))
    with pytest.raises(ValueError, match="'w' has 2 entries there, and a part has entry 2"):
        totals(lambda _: torch.ones(2, 2), [Member.each("w", 0, 3)])
    with pytest.raises(ValueError, match="'b' has 2 parts, others 3"):
        totals(lambda _: torch.ones(3, 3), [Member.each("a", 0, 3), Member.each("b", 0, 2)])
    with pytest.raises(ValueError, match="parts without a member"):
        totals(lambda _: torch.ones(1), [])
    with pytest.raises(ValueError, match=r"kept of 'w' is torch.bool \(2,\): must be bool \(3,\)"):
        without(torch.ones(3), Member.each("w", 0, 3), torch.ones(2, dtype=torch.bool))
