"""Experts' scores: by hand, and in whatever batches the tokens come."""

import pytest
import torch

from compression.experts import ExpertEvidence

CHOSEN = torch.tensor([[0, 1], [0, 2], [2, 1]])
GATES = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]])
NORMS = torch.tensor([[2.0, 8.0], [4.0, 1.0], [10.0, 20.0]])


def test_the_scores_are_the_formulas() -> None:
    evidence = ExpertEvidence(4)
    evidence.add(CHOSEN, GATES, NORMS)
    # 0: (0.75 * 2 + 0.5 * 4) / 2; 1: (0.25 * 8 + 0.1 * 20) / 2; 2: (0.5 * 1 + 0.9 * 10) / 2
    wanted = torch.tensor([1.75, 2.0, 4.75, 0.0], dtype=torch.float64)
    torch.testing.assert_close(evidence.reap(), wanted, rtol=1e-6, atol=0)
    shares = torch.tensor([2, 2, 2, 0], dtype=torch.float64) / 6
    torch.testing.assert_close(evidence.frequency(), shares)


def test_batches_add_up() -> None:
    whole, parts = ExpertEvidence(4), ExpertEvidence(4)
    whole.add(CHOSEN, GATES, NORMS)
    for rows in (slice(0, 1), slice(1, 1), slice(1, 3)):
        parts.add(CHOSEN[rows], GATES[rows], NORMS[rows])
    assert torch.equal(parts.tokens_e, whole.tokens_e)
    torch.testing.assert_close(parts.reap(), whole.reap())


def test_nothing_seen_is_nothing_said() -> None:
    assert ExpertEvidence(2).reap().tolist() == [0, 0]
    assert ExpertEvidence(2).frequency().tolist() == [0, 0]


def test_what_can_t_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3, 2\), \(3, 2\), \(3,\): must be one"):
        ExpertEvidence(4).add(CHOSEN, GATES, NORMS[:, 0])
    with pytest.raises(ValueError, match="expert 2 was chosen: must be 0 to 1"):
        ExpertEvidence(2).add(CHOSEN, GATES, NORMS)
    with pytest.raises(ValueError, match="expert -1 was chosen: must be 0 to 3"):
        ExpertEvidence(4).add(CHOSEN - 1, GATES, NORMS)
