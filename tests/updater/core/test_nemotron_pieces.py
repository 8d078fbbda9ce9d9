"""A layer's experts in pieces: where each lies, what is whole at a time, and what comes of it.

One process is its own world here; that several come to the weights of one, `test_launch_together`
shows.
"""

import math
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from regularizers.low_rank import Factors
from updater.nemotron import checkpoint, pieces
from updater.nemotron.pieces import STACKS, Pieces
from updater.train.encode import collate, encode
from updater.train.likelihood import negative_log_likelihood
from updater.train.shards import arranged


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40))
def test_each_expert_is_at_one_place_of_one_piece(num_experts: int, world: int, rows: int) -> None:
    held = math.ceil(num_experts / world)
    layout = Pieces(
        experts=SimpleNamespace(num_experts=num_experts),
        stacks={},
        factors={},
        dtype=torch.float32,
        world=world,
        held=held,
        rows=min(rows, held),
    )
    experts = torch.arange(num_experts)
    which, place = layout.places(experts)
    assert int(which.max()) < len(layout)
    assert len({*zip(which.tolist(), place.tolist(), strict=True)}) == num_experts
    for expert in experts.tolist():
        assert layout.experts_at(int(which[expert]), experts.device)[place[expert]] == expert
    # What a process sends of a piece stands where the piece has it.
    shards = experts.split(held)
    for piece in range(len(layout)):
        sent = [layout.of_piece(shard, piece).tolist() for shard in shards]
        mine = [e for part in sent for e in part]
        assert mine == experts[which == piece].tolist()


def run(
    folder: Path, language: Any, *, autocast: bool, factors: bool, **how: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses, and every gradient, with the model in shards of one process."""
    model, tokenizer = checkpoint.load(folder, arranged=arranged(**how))
    on_top = {}
    torch.manual_seed(0)
    for name, module in model.named_modules():
        if factors and isinstance(module, NemotronHExperts):
            on_top |= {(name, stack): low_rank(module, stack) for stack in STACKS}
            pieces.put_on_top(module, {stack: on_top[name, stack] for stack in STACKS})
    batch = collate(encode(tokenizer, language(0, 8), max_length_tokens=64), range(8))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sums_b, _ = negative_log_likelihood(model.train(), batch)
    sums_b.sum().backward()
    gradients = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
    for (name, stack), part in on_top.items():
        assert part.a.grad is not None, name
        assert part.b.grad is not None, name
        gradients |= {f"{name}.{stack}.a": part.a.grad, f"{name}.{stack}.b": part.b.grad}
    return sums_b.detach(), gradients


def low_rank(experts: NemotronHExperts, stack: str) -> Factors:
    num_experts, out, into = getattr(experts, stack).shape
    a = torch.randn(num_experts * 2, into, requires_grad=True)
    b = torch.randn(out, num_experts * 2).mul_(0.1).requires_grad_()
    return Factors(a, b, 0.5, num_experts)


@pytest.mark.parametrize("autocast", [False, True])
def test_they_compute_what_they_compute_all_at_once(
    base: Path, language: Any, mesh: DeviceMesh, autocast: bool
) -> None:
    precision = "bf16-mixed" if autocast else "32-true"
    found = [
        run(
            base,
            language,
            autocast=autocast,
            factors=False,
            mesh=mesh,
            gather_bytes=most,
            precision=precision,
        )
        for most in (2**40, 1)
    ]
    (losses, gradients), (in_pieces, their_gradients) = found
    torch.testing.assert_close(in_pieces, losses)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == their_gradients[name].dtype == torch.float32
        largest = float(gradient.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(
            their_gradients[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name
        )


def test_factors_of_each_expert_are_added_to_it_alone(
    base: Path, language: Any, mesh: DeviceMesh
) -> None:
    """In pieces of one expert as in one of all, and with the gradient that the whole weight's
    gives by the chain rule."""
    found = [
        run(base, language, autocast=False, factors=True, mesh=mesh, gather_bytes=most, **more)
        for most, more in ((1, {}), (2**40, {"with_factors": True}))
    ]
    (losses, gradients), (together, at_once) = found
    plain, _ = run(base, language, autocast=False, factors=False, mesh=mesh, gather_bytes=1)
    assert float((losses - plain).abs().max()) > 0.1
    torch.testing.assert_close(losses, together)
    torch.manual_seed(0)
    checked = 0
    for name, gradient in gradients.items():
        torch.testing.assert_close(at_once[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
        if name.endswith(STACKS):
            part = low_rank(_Shape(gradient), name.rpartition(".")[2])
            a, b = part.a_of(part.a), part.b_of(part.b)
            of_a = part.a_of(gradients[f"{name}.a"])
            torch.testing.assert_close(
                of_a, part.scale * b.mT @ gradient, rtol=1e-4, atol=1e-5, msg=name
            )
            of_b = part.b_of(gradients[f"{name}.b"])
            torch.testing.assert_close(
                of_b, part.scale * gradient @ a.mT, rtol=1e-4, atol=1e-5, msg=name
            )
            checked += 1
    assert checked


class _Shape:
    """Has a stack of that shape, whatever it is called."""

    def __init__(self, stack: Tensor) -> None:
        self._stack = stack

    def __getattr__(self, name: str) -> Tensor:
        return self._stack


@pytest.mark.parametrize("factors", [False, True])
def test_no_more_is_whole_at_a_time_than_is_asked_for(
    base: Path, language: Any, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, factors: bool
) -> None:
    """The piece that computes and the one on its way, forth and back; and then none."""
    alive: list[weakref.ref[Tensor]] = []
    seen: list[tuple[int, int]] = []  # bytes that were asked for, and those that are there then
    plain = distributed.all_gather_single

    def gather(whole: Tensor, part: Tensor, **how: Any) -> Any:
        alive.append(weakref.ref(whole))
        there = [found.nbytes for ref in alive if (found := ref()) is not None]
        seen.append((whole.nbytes, sum(there)))
        return plain(whole, part, **how)

    monkeypatch.setattr(distributed, "all_gather_single", gather)
    plain_model, tokenizer = checkpoint.load(base)
    batch = collate(encode(tokenizer, language(0, 2), max_length_tokens=64), range(2))
    layers = [m for m in plain_model.modules() if isinstance(m, NemotronHExperts)]
    num_experts = layers[0].num_experts
    one = sum(getattr(layers[0], stack)[0].numel() for stack in STACKS) * 4
    for most, at_a_time in ((1, 1), (4 * one, 2), (4 * one + 1, 2), (2**40, num_experts)):

        def check(at_a_time: int = at_a_time) -> None:
            assert len(seen) == 2 * len(layers) * math.ceil(num_experts / at_a_time)
            assert sum(asked for asked, _ in seen) == len(layers) * num_experts * one
            assert max(there for _, there in seen) <= 2 * at_a_time * one
            assert not [ref for ref in alive if ref() is not None]
            seen.clear()

        cut = arranged(mesh, gather_bytes=most, with_factors=True)
        model, _ = checkpoint.load(base, arranged=cut)
        for module in model.modules():
            if factors and isinstance(module, NemotronHExperts):
                pieces.put_on_top(module, {stack: low_rank(module, stack) for stack in STACKS})
        sums_b, _ = negative_log_likelihood(model.train(), batch)
        check()
        sums_b.sum().backward()
        check()


@pytest.mark.parametrize("factors", [False, True])
def test_what_is_added_to_float32_weights_is_added_in_float32(
    base: Path,
    language: Any,
    mesh: DeviceMesh,
    monkeypatch: pytest.MonkeyPatch,
    factors: bool,
) -> None:
    """In bfloat16 a small factor's part would be rounded away before the product sees it."""
    dtypes: set[torch.dtype] = set()
    plain = distributed.all_gather_single

    def gather(whole: Tensor, part: Tensor, **how: Any) -> Any:
        dtypes.add(whole.dtype)
        return plain(whole, part, **how)

    monkeypatch.setattr(distributed, "all_gather_single", gather)
    how: dict[str, Any] = {"precision": "bf16-mixed", "with_factors": True}
    run(base, language, autocast=True, factors=factors, mesh=mesh, gather_bytes=1, **how)
    assert dtypes == {torch.float32 if factors else torch.bfloat16}
