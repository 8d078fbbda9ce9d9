"""Experts that saw no token stay where they are; tokens are counted per expert."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from updater.nemotron import checkpoint, experts
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
        idle.silence()
        idle.step(optimizer, optimizer.step)
    else:
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_an_idle_expert_and_its_momentum_are_bit_for_bit_what_they_were(fused: bool) -> None:
    named = parameters()
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1, fused=fused)
    step(named, optimizer, [0, 1, 2, 3], guarded=True)
    up, state = named[UP], optimizer.state[named[UP]]
    before = [t.clone() for t in (up, state["exp_avg"], state["exp_avg_sq"])]
    step(named, optimizer, [0, 2], guarded=True)
    for old, new in zip(before, (up, state["exp_avg"], state["exp_avg_sq"]), strict=True):
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
        idle.silence()
        idle.step(optimizer, optimizer.step)

    stepped([0, 1, 2, 3])
    before = a.detach().clone(), b.detach().clone()
    stepped([0, 2])
    moved = a.detach() != before[0], b.detach() != before[1]
    assert torch.equal(moved[0], (rows % 2 == 0)[:, None].expand(8, 3))
    assert torch.equal(moved[1], (columns % 2 == 0).expand(5, 8))


def many_layers() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    stacks = {f"model.layers.{n}.mixer.experts.up_proj": torch.randn(6, 50, 20) for n in range(8)}
    plain = {f"model.layers.{n}.norm.weight": torch.randn(7) for n in range(8)}
    return {name: nn.Parameter(tensor) for name, tensor in (stacks | plain).items()}


def taken(
    monkeypatch: pytest.MonkeyPatch, kept_bytes: int, *, fused: bool
) -> tuple[list[torch.Tensor], list[int]]:
    """Weights and moments after some steps of which most experts are idle, and how many bytes of
    them were kept at a time."""
    monkeypatch.setattr(experts, "KEPT_BYTES", kept_bytes)
    named, at_a_time = many_layers(), []
    whole = experts._put_back_after

    def counted(step: Any, optimizer: torch.optim.Optimizer, turn: list[Any]) -> None:
        at_a_time.append(sum(one.num_bytes(optimizer) for one in turn))
        whole(step, optimizer, turn)

    monkeypatch.setattr(experts, "_put_back_after", counted)
    optimizer = torch.optim.AdamW(named.values(), lr=0.1, weight_decay=0.1, fused=fused)
    for used in ([0, 1, 2, 3, 4, 5], [1], [4, 2]):
        optimizer.zero_grad()
        sum((p[used] ** 2).sum() for p in named.values()).backward()
        idle = IdleExperts(named)
        idle.find()
        idle.silence()
        gradients = [p.grad for p in named.values()]
        idle.step(optimizer, optimizer.step)
        assert all(p.grad is g for p, g in zip(named.values(), gradients, strict=True))
    state = [value for p in named.values() for value in optimizer.state[p].values()]
    monkeypatch.undo()
    return [*named.values(), *state], at_a_time


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_kept_of_idle_experts_is_a_layer_and_not_a_model(
    monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    """Nearly all of all layers may be idle, and what they are kept in is gone when the next layer
    steps: to the same weights, moments and counts of steps, bit for bit."""
    at_once, all_bytes = taken(monkeypatch, 2**40, fused=fused)
    in_turns, few_bytes = taken(monkeypatch, 1, fused=fused)
    assert all(torch.equal(one, other) for one, other in zip(at_once, in_turns, strict=True))
    a_stack = 3 * 4 * 6 * 50 * 20
    assert max(all_bytes) == 8 * a_stack * 5 / 6
    assert max(few_bytes) == a_stack * 5 / 6
    assert len(few_bytes) == 1 + 8 + 8


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
                idle.silence()
            idle.step(optimizer, optimizer.step)
        steps.append(named)
    assert torch.equal(steps[0][UP][0], steps[1][UP][0])  # expert 0 was used in every step
    assert torch.equal(steps[0][PLAIN], steps[1][PLAIN])


def test_frozen_experts_are_left_alone() -> None:
    named = parameters()
    named[UP].requires_grad_(False)
    (named[PLAIN] ** 2).sum().backward()
    idle = IdleExperts(named)
    idle.find()
    idle.silence()
    optimizer = torch.optim.AdamW([named[PLAIN]])
    idle.step(optimizer, optimizer.step)
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
