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


def noted(model: nn.Module) -> dict[str, Tensor]:
    """From now on by the first of its modules' names what comes into a matrix."""
    got: dict[str, Tensor] = {}

    def look_of(names: Any) -> Any:
        def look(coming: Tensor) -> None:
            got[names[0]] = coming.detach().clone()

        return look

    watched(model, look_of)
    return got


def ask(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def model(base: Path) -> Any:
    return checkpoint.load(base)[0]


@pytest.mark.parametrize(("scheme", "reference"), [("fp8", fp8), ("nvfp4", nvfp4)])
def test_a_matrix_gets_what_the_format_can_say(
    scheme: str, reference: Any, model: Any, base: Path
) -> None:
    """Of a Mamba layer's first matrix, into which comes what no other one has changed; what comes
    into the next is not of the format."""
    name, other = (f"backbone.layers.0.mixer.{one}_proj" for one in ("in", "out"))
    largest = largest_inputs(model, [IDS])[name]
    scale = largest / (448 if scheme == "fp8" else 448 * 6)
    plain, _ = checkpoint.load(base)
    before = noted(plain)
    ask(plain)
    round_inputs(model, {name: (scheme, torch.tensor(scale))})
    got = noted(model)
    ask(model)
    wanted = reference(before[name], scale)
    close = (got[name] - wanted).abs() <= 1e-6 * largest
    assert close.double().mean() > 0.999  # the rest are ties
    assert not torch.equal(got[name], before[name])
    assert len(got[name].unique()) < len(got[other].unique()) / 2


def test_what_is_larger_than_what_was_seen_is_cut_off(model: Any) -> None:
    name = "backbone.layers.0.mixer.in_proj"
    round_inputs(model, {name: ("fp8", torch.tensor(0.1 / 448))})
    got = noted(model)
    ask(model)
    assert float(got[name].abs().max()) == pytest.approx(0.1)


def test_experts_have_the_largest_scale_of_theirs(model: Any) -> None:
    """Into either projection, as stacks that serve them have it."""
    stems = [f"backbone.layers.1.mixer.experts.{e}" for e in range(4)]
    scales = {
        f"{stem}.{kind}_proj": ("fp8", torch.tensor((0.1 + number / 10) / 448))
        for number, stem in enumerate(stems)
        for kind in ("up", "down")
    }
    round_inputs(model, scales)
    got = noted(model)
    ask(model)
    assert float(got[f"{stems[0]}.up_proj"].abs().max()) == pytest.approx(0.4)
    assert 0 < float(got[f"{stems[0]}.down_proj"].abs().max()) <= 0.4 * (1 + 1e-6)


@pytest.mark.parametrize(("scheme", "reference"), [("fp8", fp8), ("nvfp4", nvfp4)])
def test_a_checkpoint_s_scales_hold_where_it_is_loaded(
    scheme: str, reference: Any, base: Path, tmp_path: Path
) -> None:
    """Beside the same weights with inputs in full: what comes into the first layer, and into the
    experts' second projection by their own numbers."""
    seen = largest_inputs(checkpoint.load(base)[0], [IDS])
    target = write(base, tmp_path / "quantized", scheme=scheme, inputs=seen)
    rounded, _ = checkpoint.load(target, quantized=True)
    whole = checkpoint.build(checkpoint.check(target, quantized=True).config).eval()
    whole.load_state_dict(rounded.state_dict())
    before, got = noted(whole), noted(rounded)
    plain, said = ask(whole), ask(rounded)
    assert 0 < float((said - plain).abs().max()) < float(plain.abs().max())
    end = 448 if scheme == "fp8" else 448 * 6
    experts = "backbone.layers.1.mixer.experts.0.down_proj"
    for name, came in (("backbone.layers.0.mixer.in_proj", before), (experts, got)):
        scale = seen[name] / end
        close = (got[name] - reference(came[name], scale)).abs() <= 1e-5 * seen[name]
        assert close.double().mean() > 0.999, name


@pytest.mark.parametrize("scheme", ["int8", "nvfp4"])
def test_without_scales_of_inputs_nothing_is_rounded(
    scheme: str, base: Path, tmp_path: Path
) -> None:
    loaded, _ = checkpoint.load(write(base, tmp_path / "q", scheme=scheme), quantized=True)
    assert not [m for m in loaded.modules() if isinstance(m, nn.Linear) and m._forward_pre_hooks]
