"""The scan of one chunk, against the recurrence token by token and against transformers' own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.nemotron_h import modeling_nemotron_h

from updater.nemotron import checkpoint, presets, scan


def inputs(rows: int, length: int, heads: int, groups: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": draw(rows, length, heads, 4),
        "dt": draw(rows, length, heads) * 3,
        "A": -draw(heads).exp(),
        "B": draw(rows, length, groups, 5),
        "C": draw(rows, length, groups, 5),
        "D": draw(heads),
        "dt_bias": draw(heads),
        "dt_softplus": True,
        "dt_limit": (0.01, 5.0),
    }


def recurrence(given: dict[str, Any]) -> torch.Tensor:
    """h_t = exp(dt a) h_(t-1) + dt B x, y = C h + D x, in float64 (arXiv 2405.21060, eq. 1)."""
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    dt = torch.nn.functional.softplus(wide["dt"] + wide["dt_bias"]).clamp(*wide["dt_limit"])
    x, heads = wide["hidden_states"], given["dt"].shape[2]
    each = heads // given["B"].shape[2]
    b, c = (wide[name].repeat_interleave(each, 2) for name in "BC")
    state = torch.zeros(*x.shape[:1], *x.shape[2:], b.shape[-1], dtype=torch.float64)
    found = []
    for t in range(x.shape[1]):
        kept = (dt[:, t] * wide["A"]).exp()[..., None, None] * state
        state = kept + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        found.append((state * c[:, t, :, None]).sum(-1) + wide["D"][:, None] * x[:, t])
    return torch.stack(found, 1)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 3),
    length=st.integers(1, 64),
    heads=st.sampled_from([(1, 1), (4, 1), (4, 2), (6, 3)]),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_recurrence(rows: int, length: int, heads: tuple[int, int], seed: int) -> None:
    given = inputs(rows, length, *heads, seed)
    found = scan.chunk_scan(**given, chunk_size=16)
    torch.testing.assert_close(found.double(), recurrence(given), rtol=1e-4, atol=1e-4)


def test_gradients_are_the_recurrences() -> None:
    found = []
    for way in (lambda given: scan.chunk_scan(**given, chunk_size=16), recurrence):
        given = inputs(2, 13, 4, 2, 0)
        leaves = {k: v.requires_grad_() for k, v in given.items() if isinstance(v, torch.Tensor)}
        way(given).square().mean().backward()
        found.append({name: leaf.grad for name, leaf in leaves.items()})
    for name, gradient in found[0].items():
        expected = found[1][name]
        error = (gradient - expected).norm() / expected.norm()
        assert error < 1e-5, (name, error)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("length", [13, 80])
def test_bfloat16_is_scanned_in_float32(length: int, autocast: bool) -> None:
    """By either way; dt_bias, A and D, float32 in a model of bfloat16, are not rounded."""
    exact = inputs(2, length, 4, 2, 0)
    for name in ("hidden_states", "dt", "B", "C"):
        exact[name] = exact[name].bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = scan.chunk_scan(**exact, chunk_size=16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), recurrence(exact), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_token_at_a_time_is_the_recurrence_in_float32(autocast: bool) -> None:
    """Decoding, of which every rounding of the state stays in it."""
    exact = inputs(2, 80, 4, 2, 0) | {"dt_limit": (0.0, float("inf"))}
    for name in ("hidden_states", "dt", "B", "C"):
        exact[name] = exact[name].bfloat16()
    state_bhpn = torch.zeros(2, 4, 4, 5)
    found = []
    for t in range(80):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y_bhp = scan.one_token(
                state_bhpn,
                exact["hidden_states"][:, t],
                exact["dt"][:, t, :, None].expand(-1, -1, 4),
                exact["A"][:, None, None].expand(-1, 4, 5),
                exact["B"][:, t],
                exact["C"][:, t],
                exact["D"][:, None].expand(-1, 4),
                dt_bias=exact["dt_bias"][:, None].expand(-1, 4),
                dt_softplus=True,
            )
        found.append(y_bhp)
    torch.testing.assert_close(
        torch.stack(found, 1).double(), recurrence(exact), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("length", "more", "short"),
    [
        (64, {}, True),
        (65, {}, False),
        (8, {"return_final_states": True}, False),
        (8, {"initial_states": torch.zeros(2, 4, 4, 5)}, False),
        (8, {"seq_idx": torch.zeros(2, 8)}, False),
    ],
)
def test_what_needs_more_goes_transformers_way(
    monkeypatch: pytest.MonkeyPatch, length: int, more: dict[str, Any], short: bool
) -> None:
    asked = []
    monkeypatch.setattr(scan, "REFERENCE", lambda *_, **__: asked.append(1))
    scan.chunk_scan(**inputs(2, length, 4, 2, 0), **more, chunk_size=16)
    assert asked == [] if short else [1]


def test_a_models_answers_are_those_of_transformers_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = presets.config_fields("nemotron-3-tiny", 300)
    model = checkpoint.random(fields, device="cpu", dtype=torch.float32).eval()
    assert modeling_nemotron_h.mamba2_chunk_scan is scan.chunk_scan
    tokens = torch.arange(3, 83).reshape(2, 40)
    found = model(tokens).logits
    monkeypatch.setattr(modeling_nemotron_h, "mamba2_chunk_scan", scan.REFERENCE)
    torch.testing.assert_close(found, model(tokens).logits, rtol=0, atol=1e-5)
