"""Criteria by hand, and what they refuse."""

import pytest
import torch

from compression.saliency import CRITERIA, Evidence, score
from regularizers.formats import keep

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
FISHER = torch.tensor([[4.0, 0.25], [2.0, 8.0]])
WHOLE = Evidence(
    fisher=FISHER,
    input_norms=torch.tensor([3.0, 0.5]),
    generator=torch.Generator().manual_seed(0),
)


@pytest.mark.parametrize(
    ("criterion", "wanted"),
    [
        ("magnitude", [[1.0, 2.0], [0.5, 0.0]]),
        ("obd", [[2.0, 0.5], [0.25, 0.0]]),  # 4 * 1 / 2, 0.25 * 4 / 2, 2 * 0.25 / 2
        ("wanda", [[3.0, 1.0], [1.5, 0.0]]),
    ],
)
def test_a_score_is_the_formula_s(criterion: str, wanted: list[list[float]]) -> None:
    found = score(criterion, "w", WEIGHT, WHOLE)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=0)
    half = score(criterion, "w", WEIGHT.bfloat16(), WHOLE)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, found, rtol=0, atol=0)


def test_obd_is_what_ewc_fines_for_the_weight_s_removal() -> None:
    """And so is a quadratic loss's rise, whatever else stays."""
    from regularizers.anchor import QuadraticAnchor

    generator = torch.Generator().manual_seed(1)
    weight, fisher = (torch.rand(3, 4, generator=generator) for _ in range(2))
    anchor = QuadraticAnchor({"w": weight}, {"w": fisher}, 1.0)
    found = score("obd", "w", weight, Evidence(fisher=fisher))
    for place in range(weight.numel()):
        without = weight.clone()
        without.view(-1)[place] = 0
        fine = anchor.penalty({"w": without})
        torch.testing.assert_close(found.flatten()[place], fine)


def test_a_fisher_is_taken_in_whatever_format_it_is_kept() -> None:
    row, column = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0, 5.0]])
    for form in ("bfloat16", "factored"):  # of rank one, both are exact
        evidence = Evidence(fisher=keep(row * column, form))
        wanted = score("obd", "w", WEIGHT, Evidence(fisher=row * column))
        torch.testing.assert_close(score("obd", "w", WEIGHT, evidence), wanted)


def test_a_stack_of_experts_has_its_norms_by_expert() -> None:
    stack = torch.stack([WEIGHT, 2 * WEIGHT])
    norms = torch.tensor([[3.0, 0.5], [1.0, 1.0]])
    found = score("wanda", "w", stack, Evidence(input_norms=norms))
    for one, weight, norm in zip(found, stack, norms, strict=True):
        wanted = score("wanda", "w", weight, Evidence(input_norms=norm))
        torch.testing.assert_close(one, wanted, rtol=0, atol=0)


def test_chance_is_the_generator_s() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return score("random", "w", WEIGHT, Evidence(generator=torch.Generator().manual_seed(seed)))

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


@pytest.mark.parametrize("criterion", [name for name, one in CRITERIA.items() if one.needs])
def test_what_is_needed_and_missing_is_named(criterion: str) -> None:
    with pytest.raises(ValueError, match=rf"{criterion} of 'w' needs \w+, which is not given"):
        score(criterion, "w", WEIGHT, Evidence())


def test_what_can_t_be_is_refused() -> None:
    with pytest.raises(ValueError, match="criterion is 'odb': must be one of random, magnitude"):
        score("odb", "w", WEIGHT, WHOLE)
    for broken in (-FISHER, FISHER * float("nan")):
        with pytest.raises(ValueError, match="'w' by obd is negative or no number"):
            score("obd", "w", WEIGHT, Evidence(fisher=broken))
    shapes = r"of 'w' has shape \(3, 2\), the weight \(2, 2\)"
    with pytest.raises(ValueError, match=f"fisher {shapes}"):
        score("obd", "w", WEIGHT, Evidence(fisher=torch.ones(3, 2)))
    with pytest.raises(ValueError, match=f"input_norms {shapes}"):
        score("wanda", "w", WEIGHT, Evidence(input_norms=torch.ones(3, 2)))
