"""Criteria by hand, and what they refuse."""

import pytest
import torch

from compression.saliency import CRITERIA, Evidence, score
from regularizers.formats import keep

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
FISHER = torch.tensor([[4.0, 0.25], [2.0, 8.0]])
SPREAD = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
WHOLE = Evidence(
    fisher=FISHER,
    fisher_sd=SPREAD,
    input_norms=torch.tensor([3.0, 0.5]),
    generator=torch.Generator().manual_seed(0),
)


@pytest.mark.parametrize(
    ("criterion", "wanted"),
    [
        ("magnitude", [[1.0, 2.0], [0.5, 0.0]]),
        ("obd", [[2.0, 0.5], [0.25, 0.0]]),  # 4 * 1 / 2, 0.25 * 4 / 2, 2 * 0.25 / 2
        ("obd_sd", [[3.0, 2.5], [0.25, 0.0]]),  # (4 + 2) 1 / 2, (0.25 + 1) 4 / 2, 2 * 0.25 / 2
        ("obd_spread", [[1.0, 2.0], [0.0, 0.0]]),
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


def test_damping_is_added_to_the_curvature_and_turns_obd_into_magnitude() -> None:
    """(4 + 2) 1 / 2, (0.25 + 2) 4 / 2, (2 + 2) 0.25 / 2, and 0 for what is 0 already."""
    found = score("obd", "w", WEIGHT, WHOLE._replace(damping=2.0))
    assert found.tolist() == [[3.0, 4.5], [0.5, 0.0]]
    order = WEIGHT.abs().flatten().argsort()
    for criterion in ("obd", "obd_sd", "obd_spread"):
        found = score(criterion, "w", WEIGHT, WHOLE._replace(damping=1e4))
        assert torch.equal(found.flatten().argsort(), order)
        assert not torch.equal(score(criterion, "w", WEIGHT, WHOLE).flatten().argsort(), order)
    for criterion in ("magnitude", "wanda", "obd_scaled"):
        kept = score(criterion, "w", WEIGHT, WHOLE._replace(damping=1e4))
        assert torch.equal(kept, score(criterion, "w", WEIGHT, WHOLE))


def test_scaled_is_obd_over_its_deviation_in_the_tensor() -> None:
    """Of obd's 2, 0.5, 0.25 and 0 the mean is 0.6875, and so the mean square deviation
    (1.3125^2 + 0.1875^2 + 0.4375^2 + 0.6875^2) / 4 = 0.60546875; whatever the tensor's scale."""
    wanted = torch.tensor([[2.0, 0.5], [0.25, 0.0]]) / 0.60546875**0.5
    for scale in (1.0, 1e-12, 1e12):
        evidence = Evidence(fisher=FISHER * scale)
        torch.testing.assert_close(score("obd_scaled", "w", WEIGHT, evidence), wanted)


def test_scaled_scores_that_are_all_the_same_never_go_or_are_nothing() -> None:
    for weight, wanted in ((torch.ones(2, 2), float("inf")), (torch.zeros(2, 2), 0.0)):
        found = score("obd_scaled", "w", weight, Evidence(fisher=torch.ones(2, 2)))
        assert found.tolist() == [[wanted, wanted]] * 2
    assert (
        score("obd_scaled", "w", torch.ones(0, 2), Evidence(fisher=torch.ones(0, 2))).numel() == 0
    )


def test_where_examples_agree_obd_sd_is_obd() -> None:
    evidence = Evidence(fisher=FISHER, fisher_sd=torch.zeros(2, 2))
    found = score("obd_sd", "w", WEIGHT, evidence)
    assert torch.equal(found, score("obd", "w", WEIGHT, evidence))
    assert not score("obd_spread", "w", WEIGHT, evidence).any()


def test_what_few_examples_need_stays_before_what_all_need_a_little() -> None:
    """Squared gradients 0, 0, 0, 3.9 and 1, 1, 1, 1: of means 0.975 and 1, so that OBD lets the
    first go, and OBD-SD the second."""
    squares = torch.tensor([[0.0, 0.0, 0.0, 3.9], [1.0, 1.0, 1.0, 1.0]])
    evidence = Evidence(fisher=squares.mean(1), fisher_sd=squares.std(1, correction=0))
    for criterion, goes in (("obd", 0), ("obd_sd", 1), ("obd_spread", 1)):
        assert int(score(criterion, "w", torch.ones(2), evidence).argmin()) == goes


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
    with pytest.raises(ValueError, match=rf"{criterion} of 'w' needs [\w, ]+, which is not given"):
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
    with pytest.raises(ValueError, match=f"fisher_sd {shapes}"):
        score("obd_sd", "w", WEIGHT, Evidence(fisher=FISHER, fisher_sd=torch.ones(3, 2)))
    with pytest.raises(ValueError, match=f"input_norms {shapes}"):
        score("wanda", "w", WEIGHT, Evidence(input_norms=torch.ones(3, 2)))
