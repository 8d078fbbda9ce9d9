"""What comes into quantized matrices is rounded as it is served, by the checkpoint's scales."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from updater.compress.quantize.activations import largest_inputs
from updater.compress.quantize.write import write
from updater.nemotron import checkpoint
from updater.nemotron.incoming import round_inputs, watched

IDS = torch.arange(5, 45).view(2, 20)
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def e4m3(values: Tensor) -> Tensor:
    """The nearest number of three mantissa bits, ties to even: steps of 2^-9 up to 2^-6."""
    exponent = values.abs().log2().floor().clamp(-6, 8)
    step = 2.0 ** (exponent - 3)
    return ((values / step).round() * step).clamp(-448, 448)


def fp8(coming: Tensor, scale: float) -> Tensor:
    return e4m3((coming / scale).clamp(-448, 448)) * scale


def nvfp4(coming: Tensor, scale: float) -> Tensor:
    blocks = coming.view(-1, 16)
    scales = e4m3(blocks.abs().amax(1, keepdim=True) / 6 / scale).clamp(min=2.0**-9) * scale
    units = (blocks / scales).abs()
    nearest = E2M1[(units[..., None] - E2M1).abs().argmin(-1)]
    return (nearest * blocks.sign() * scales).view(coming.shape)


@pytest.fixture
def halves(base: Path) -> Any:
    """The model, and in its place a look at what every matrix gets."""
    model, _ = checkpoint.load(base)
    got: dict[str, Tensor] = {}

    def look(names: Any, coming: Tensor) -> None:
        got[names[0]] = coming.detach().clone()

    return model, got, look


@pytest.mark.parametrize(("scheme", "reference"), [("fp8", fp8), ("nvfp4", nvfp4)])
def test_a_matrix_gets_what_the_format_can_say(
    scheme: str, reference: Any, halves: Any, base: Path
) -> None:
    """Of a Mamba layer's first matrix: what comes into it depends on no other one."""
    model, got, look = halves
    name = "backbone.layers.0.mixer.in_proj"
    largest = largest_inputs(model, [IDS])[name]
    scale = largest / (448 if scheme == "fp8" else 448 * 6)
    plain, _ = checkpoint.load(base)
    watched(plain, look)
    with torch.no_grad():
        plain(input_ids=IDS, use_cache=False)
        before = got[name]
        round_inputs(model, {name: (scheme, torch.tensor(scale))})
        watched(model, look)
        model(input_ids=IDS, use_cache=False)
    wanted = reference(before, scale)
    close = (got[name] - wanted).abs() <= 1e-6 * largest
    assert close.double().mean() > 0.999  # the rest are ties
    assert not torch.equal(got[name], before)
    others = "backbone.layers.0.mixer.out_proj"
    assert got[others].dtype == torch.float32


def test_what_is_larger_than_what_was_seen_is_cut_off(halves: Any) -> None:
    model, got, look = halves
    name = "backbone.layers.0.mixer.in_proj"
    round_inputs(model, {name: ("fp8", torch.tensor(0.1 / 448))})
    watched(model, look)
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    assert float(got[name].abs().max()) == pytest.approx(0.1)


def test_experts_have_the_largest_scale_of_theirs(halves: Any) -> None:
    """Into either projection, as stacks that serve them have it."""
    model, got, look = halves
    stems = [f"backbone.layers.1.mixer.experts.{e}" for e in range(4)]
    scales = {
        f"{stem}.{kind}_proj": ("fp8", torch.tensor((0.1 + number / 10) / 448))
        for number, stem in enumerate(stems)
        for kind in ("up", "down")
    }
    round_inputs(model, scales)
    watched(model, look)
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    assert float(got[f"{stems[0]}.up_proj"].abs().max()) == pytest.approx(0.4)
    assert float(got[f"{stems[0]}.down_proj"].abs().max()) <= 0.4 * (1 + 1e-6)


def test_a_checkpoint_s_scales_hold_where_it_is_loaded(base: Path, tmp_path: Path) -> None:
    """The module's own inputs, seen by a hook that is older than ours, are rounded; of a scheme
    with weights alone they are not."""
    model, _ = checkpoint.load(base)
    seen = largest_inputs(model, [IDS])
    for scheme, inputs in (("fp8", seen), ("int8", None), ("nvfp4", seen), ("nvfp4", None)):
        at = tmp_path / f"{scheme}-{inputs is None}"
        loaded, _ = checkpoint.load(write(base, at, scheme=scheme, inputs=inputs), quantized=True)
        hooked = [m for m in loaded.modules() if isinstance(m, nn.Linear) and m._forward_pre_hooks]
        assert bool(hooked) == (inputs is not None)
        with torch.no_grad():
            logits = loaded(input_ids=IDS, use_cache=False).logits
        assert bool(logits.isfinite().all())
