"""Experts that saw no token stay where they are; tokens are counted per expert."""

from pathlib import Path

import pytest
import torch
from torch import nn

from updater.nemotron import checkpoint
from updater.nemotron.experts import IdleExperts, routed_tokens

UP = "model.layers.1.mixer.experts.up_proj"
PLAIN = "lm_head.weight"


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {UP: nn.Parameter(torch.randn(4, 3, 2)), PLAIN: nn.Parameter(torch.randn(5))}


def step(
    named: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    used: list[int],
    *,
    guarded: bool,
) -> None:
    optimizer.zero_grad()
    loss = (named[UP][used] ** 2).sum() + (named[PLAIN] ** 2).sum()
    loss.backward()
    idle = IdleExperts(named)
    idle.find()
    if guarded:
        for parameter in named.values():  # an anchor pulls at everything
            parameter.grad.add_(0.5)
        idle.silence(optimizer)
    optimizer.step()
    if guarded:
        idle.put_back()


@pytest.mark.parametrize("fused", [True, False])
def test_an_idle_expert_and_its_momentum_are_bit_for_bit_what_they_were(fused: bool) -> None:
    named = parameters()
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1, fused=fused)
    step(named, optimizer, [0, 1, 2, 3], guarded=True)
    experts, state = named[UP], optimizer.state[named[UP]]
    before = [t.clone() for t in (experts, state["exp_avg"], state["exp_avg_sq"])]
    step(named, optimizer, [0, 2], guarded=True)
    for old, new in zip(before, (experts, state["exp_avg"], state["exp_avg_sq"]), strict=True):
        assert torch.equal(old[[1, 3]], new[[1, 3]])
        assert not torch.equal(old[[0, 2]], new[[0, 2]])


def test_an_idle_experts_factors_are_what_they_were_in_pefts_layout() -> None:
    """Of four experts at rank 2: rows 2e and 2e + 1 of A, and columns e and 4 + e of B."""
    stem = "model.layers.1.mixer.experts"
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(5, 8))
    named = {f"{stem}.lora_A.default.weight": a, f"{stem}.lora_B.default.weight": b}
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1)
    rows, columns = torch.arange(8) // 2, torch.arange(8) % 4

    def stepped(used: list[int]) -> None:
        optimizer.zero_grad()
        seen_rows, seen_columns = (torch.isin(each, torch.tensor(used)) for each in (rows, columns))
        ((a[seen_rows] ** 2).sum() + (b[:, seen_columns] ** 2).sum()).backward()
        idle = IdleExperts(named, lora_rank=2)
        idle.find()
        a.grad.add_(0.5)  # an anchor pulls at everything
        b.grad.add_(0.5)
        idle.silence(optimizer)
        optimizer.step()
        idle.put_back()

    stepped([0, 1, 2, 3])
    before = a.detach().clone(), b.detach().clone()
    stepped([0, 2])
    moved = a.detach() != before[0], b.detach() != before[1]
    assert torch.equal(moved[0], (rows % 2 == 0)[:, None].expand(8, 3))
    assert torch.equal(moved[1], (columns % 2 == 0).expand(5, 8))


def test_without_the_guard_adamw_moves_idle_experts() -> None:
    named = parameters()
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1)
    step(named, optimizer, [0, 1, 2, 3], guarded=False)
    before = named[UP].clone()
    step(named, optimizer, [0, 2], guarded=False)
    assert not torch.equal(before[[1, 3]], named[UP][[1, 3]])


def test_an_expert_never_used_never_moves_even_on_the_first_step() -> None:
    named = parameters()
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1)
    before = named[UP].clone()
    for _ in range(3):
        step(named, optimizer, [2], guarded=True)
    assert torch.equal(before[[0, 1, 3]], named[UP][[0, 1, 3]])
    assert not torch.equal(before[2], named[UP][2])


def test_busy_experts_and_other_weights_step_as_without_the_guard() -> None:
    steps = []
    for guarded in (True, False):
        named = parameters()
        optimizer = torch.optim.AdamW(named.values(), lr=0.1)
        for used in ([0, 1, 2, 3], [0, 2], [0, 1]):
            optimizer.zero_grad()
            ((named[UP][used] ** 2).sum() + (named[PLAIN] ** 2).sum()).backward()
            idle = IdleExperts(named)
            if guarded:
                idle.find()
                idle.silence(optimizer)
            optimizer.step()
            idle.put_back()
        steps.append(named)
    assert torch.equal(steps[0][UP][0], steps[1][UP][0])  # expert 0 was used in every step
    assert torch.equal(steps[0][PLAIN], steps[1][PLAIN])


def test_frozen_experts_are_left_alone() -> None:
    named = parameters()
    named[UP].requires_grad_(False)
    (named[PLAIN] ** 2).sum().backward()
    idle = IdleExperts(named)
    idle.find()
    idle.silence(torch.optim.AdamW([named[PLAIN]]))
    idle.put_back()
    assert named[UP].grad is None


def test_routed_tokens_are_those_of_the_router(base: Path) -> None:
    model, _ = checkpoint.load(base)
    tokens = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with routed_tokens(model) as counts:
            model(tokens)
            model(tokens[:, :5])
        logits = model(tokens, output_router_logits=True).router_logits
        model(tokens)  # after the block nothing is counted
    assert {name: int(c.sum()) for name, c in counts.items()} == {
        "model.layers.1.mixer": 2 * 17,
        "model.layers.4.mixer": 2 * 17,
    }
    for layer, scores in zip((1, 4), logits, strict=True):
        # The correction bias is zero in a new model: the choice is the top-k of the sigmoids.
        chosen = torch.cat([scores.topk(2).indices, scores[:5].topk(2).indices])
        expected = torch.bincount(chosen.flatten(), minlength=6)
        assert torch.equal(counts[f"model.layers.{layer}.mixer"], expected)


def test_experts_compute_in_the_dtype_of_autocast(base):
    model, _ = checkpoint.load(base, device="cpu")
    seen = []
    grouped_mm = torch.nn.functional.grouped_mm

    def noted(tokens, weight, **options):
        seen.append((tokens.dtype, weight.dtype))
        return grouped_mm(tokens, weight, **options)

    tokens = torch.arange(24).reshape(2, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "grouped_mm", noted)
        exact = model(tokens).logits
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(tokens).logits
    half = len(seen) // 2
    assert seen == [(torch.float32,) * 2] * half + [(torch.bfloat16,) * 2] * half
    assert half
    assert (rounded - exact).norm() / exact.norm() < 0.05
    rounded.float().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.dtype == parameter.dtype, name
