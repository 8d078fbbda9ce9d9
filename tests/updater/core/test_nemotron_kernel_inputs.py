"""What the fused kernels get is what they take; what they can't take is refused before any work.

No GPU is needed: the kernels' own demands are asked in their place, of PyTorch's operators.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.nemotron_h import modeling_nemotron_h

from updater import doctor
from updater.errors import InputError
from updater.evaluate import outcomes
from updater.nemotron import checkpoint, kernel_inputs, kernels, presets
from updater.nemotron.releases import RELEASES
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.encode import collate, encode
from updater.train.fit import fit
from updater.train.footprint import footprint
from updater.train.guards import Guards
from updater.train.importance import estimate, spread
from updater.train.lesson import Lesson
from updater.train.likelihood import negative_log_likelihood
from updater.train.record import Watch
from updater.train.schedule import Plan

TINY = presets.config_fields("nemotron-3-tiny", 300)
EVEN = TINY | {"mamba_num_heads": 8}
"""in_proj is 1,096 wide: a multiple of 8."""


class Convolution:
    """PyTorch's in the place of causal-conv1d's, with the demands of that one (1.7.0,
    csrc/causal_conv1d.cpp). `inputs`: what it was given."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self._plain = modeling_nemotron_h.causal_conv1d_fn

    def __call__(self, hidden_bcl: Tensor, *given: Any, **more: Any) -> Tensor:
        per_row, per_channel, per_position = hidden_bcl.stride()
        assert 1 in (per_channel, per_position)
        if per_channel == 1 and per_position > 1:
            assert hidden_bcl.shape[1] % 8 == 0, "channels"
            assert per_row % 8 == 0, "strides"
            assert per_position % 8 == 0, "strides"
        self.inputs.append(hidden_bcl)
        return self._plain(hidden_bcl, *given, **more)


@pytest.fixture
def convolution(monkeypatch: pytest.MonkeyPatch) -> Convolution:
    """causal-conv1d is installed, and there is a GPU."""
    put = Convolution()
    monkeypatch.setattr(modeling_nemotron_h, "causal_conv1d_fn", put)
    monkeypatch.setattr(kernels, "taken", lambda: frozenset({kernels.CONVOLUTION}))
    return put


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(0))


def random(fields: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    return checkpoint.random(fields, device="cpu", dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "length"), [(3, 7), (1, 7), (3, 1), (1, 1), (2, 70)])
def test_the_convolution_gets_strides_that_it_takes(
    request: pytest.FixtureRequest, rows: int, length: int, dtype: torch.dtype
) -> None:
    plain = random(TINY, dtype)(tokens(rows, length)).logits
    put = request.getfixturevalue("convolution")
    model = random(TINY, dtype)
    assert model.model.layers[0].mixer.in_proj.out_features % 8 == 4
    assert torch.equal(model(tokens(rows, length)).logits, plain)
    assert len(put.inputs) == 3


def test_without_that_the_kernel_would_refuse(
    convolution: Convolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_inputs, "align", lambda: None)
    with pytest.raises(AssertionError, match="strides"):
        random(TINY)(tokens(3, 7))


def test_what_it_takes_as_it_is_is_not_copied(convolution: Convolution) -> None:
    model = random(EVEN)
    projected: list[Tensor] = []
    model.model.layers[0].mixer.in_proj.register_forward_hook(
        lambda _module, _inputs, output: projected.append(output)
    )
    model(tokens(3, 7))
    first = convolution.inputs[0].untyped_storage()
    assert first.data_ptr() == projected[0].untyped_storage().data_ptr()


def test_the_gradient_of_a_model_that_is_asked_goes_through_the_copy(
    request: pytest.FixtureRequest, trained: Path, language: Any
) -> None:
    def gradients() -> dict[str, Tensor]:
        model, tokenizer = checkpoint.load(trained)
        batch = collate(encode(tokenizer, language(0, 4), max_length_tokens=64), range(4))
        negative_log_likelihood(model, batch)[0].sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    request.getfixturevalue("convolution")
    found = gradients()
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


MOST = 16_400
"""Elements that are reached here: 100 tokens of the tests' model, whose in_proj is 164 wide."""


class Scan:
    """PyTorch's in the place of mamba-ssm's, of no more elements than that one reaches. `rows`:
    those of each call."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.rows: list[int] = []
        self._plain = plain

    def __call__(
        self, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, *given: Any, **more: Any
    ) -> Any:
        rows, length = dt.shape[:2]
        assert rows * dt.stride(1) * length <= MOST, "dt is a slice of in_proj's output"
        assert rows * -(-length // 16) * x[0, 0].numel() * b.shape[-1] <= MOST, "states"
        self.rows.append(rows)
        return self._plain(x, dt, a, b, *given, **more)


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scan]:
    """mamba-ssm is installed, there is a GPU, and its kernels reach `MOST` elements."""
    put = Scan(modeling_nemotron_h.mamba2_chunk_scan)
    monkeypatch.setattr(modeling_nemotron_h, "mamba2_chunk_scan", put)
    monkeypatch.setattr(kernels, "taken", lambda: frozenset(kernels.FUNCTIONS))
    monkeypatch.setattr(kernel_inputs, "ELEMENTS", MOST)
    return put


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_how_far_they_reach(preset: str) -> None:
    """And what the page says of the released ones."""
    config = presets.config_for(preset, 300)
    with torch.device("meta"):
        mixer = modeling_nemotron_h.NemotronHMamba2Mixer(config, layer_idx=0)
    longest = kernel_inputs.longest_row(config)
    assert longest == 2**31 // mixer.in_proj.out_features
    docs = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text("utf-8")
    assert preset not in RELEASES or f"{longest:,}" in docs


def test_without_mamba_layers_there_is_no_end(base: Path) -> None:
    config = checkpoint.load(base)[0].config
    config.layer_types = ["full_attention", "mlp"]
    assert kernel_inputs.longest_row(config) > 2**40


@pytest.mark.parametrize(
    ("length", "rows"), [(40, [2, 2, 1]), (100, [1] * 5), (7, [5]), (3, [32, 1])]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_takes_as_many_rows_at_a_time_as_they_reach(
    request: pytest.FixtureRequest, base: Path, length: int, rows: list[int], *, training: bool
) -> None:
    """Of short rows the states are more than what goes in."""
    tokens_bl = tokens(sum(rows), length)
    mask_bl = torch.ones_like(tokens_bl)
    mask_bl[0, -1] = 0

    def found() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model = checkpoint.load(base)[0].train(training)
        logits = model(tokens_bl, use_cache=False).logits
        logits.mean().backward()
        masked = model(tokens_bl, attention_mask=mask_bl, use_cache=False).logits
        named = model.named_parameters()
        return logits, masked, {name: p.grad for name, p in named if p.grad is not None}

    plain = found()
    put = request.getfixturevalue("scan")
    torch.testing.assert_close(found(), plain, atol=1e-5, rtol=1e-4)
    assert put.rows == 2 * rows


@pytest.mark.usefixtures("scan")
def test_in_shards_a_batch_is_not_taken_in_parts(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes have unlike rows: they would gather a layer's weights unlike often, and wait."""
    model, _ = checkpoint.load(base)
    model(tokens(3, 100), use_cache=False)
    monkeypatch.setattr(kernel_inputs, "FSDPModule", torch.nn.Linear)
    with pytest.raises(InputError, match=r"3 rows of 100 tokens.*lower training\.batch_size"):
        model(tokens(3, 100), use_cache=False)
    model(tokens(1, 100), use_cache=False)


@pytest.mark.usefixtures("scan")
def test_a_pass_of_a_longer_row_is_refused(base: Path) -> None:
    model, _ = checkpoint.load(base)
    model(tokens(3, 100), use_cache=False)
    with pytest.raises(InputError, match=r"a text of 101 tokens.*take 100 .*at most"):
        model(tokens(1, 101))
    with pytest.raises(InputError, match="take fewer at a time"):
        model(tokens(4, 40), use_cache=True)
    texts = torch.zeros(1, 101, dtype=torch.int32)
    with pytest.raises(InputError, match=r"several texts of 101 tokens.*fewer texts"):
        model(tokens(1, 101), seq_idx=texts)


@pytest.mark.usefixtures("scan")
def test_before_a_work_its_longest_row_is_looked_at(
    base: Path, language: Any, quick: TrainingSettings, tmp_path: Path, monkeypatch: Any
) -> None:
    model, tokenizer = checkpoint.load(base)
    table = language(0, 8)
    encoded = encode(tokenizer, table, max_length_tokens=64)
    monkeypatch.setattr(kernel_inputs, "ELEMENTS", 164 * int(encoded.lengths.max() - 1))
    monkeypatch.setattr(model.model, "forward", None)
    told = {"checkpoint_digest": "", "data_digest": "", "progress": False}
    with pytest.raises(InputError, match="an example of"):
        estimate(model, encoded, estimator="empirical", **told)
    with pytest.raises(InputError, match="an example of"):
        spread(model, encoded, progress=False)
    with pytest.raises(InputError, match="an example of"):
        outcomes(model, tokenizer, table, batch_size=4, max_length_tokens=64)
    with pytest.raises(InputError, match="an example of"):
        fit(
            model,
            Lesson.of(tokenizer, table, None, max_length_tokens=64),
            training=quick,
            guards=Guards(),
            folder=tmp_path / "state",
            watch=Watch(progress=False),
        )
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("scan")
def test_texts_that_share_a_row_are_looked_at_together(
    base: Path, language: Any, quick: TrainingSettings, tmp_path: Path
) -> None:
    model, tokenizer = checkpoint.load(base)
    packed = dataclasses.replace(quick, packing=True, batch_size=16)
    with pytest.raises(InputError, match=r"packing = true\) of .*lower training.batch_size"):
        fit(
            model,
            Lesson.of(tokenizer, language(0, 64), None, max_length_tokens=64),
            training=packed,
            guards=Guards(),
            folder=tmp_path,
            watch=Watch(progress=False),
        )


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("packing", [False, True])
def test_a_plan_knows_its_longest_row(
    base: Path, language: Any, quick: TrainingSettings, world: int, *, packing: bool
) -> None:
    tokenizer = checkpoint.load(base)[1]
    lesson = Lesson.of(tokenizer, language(0, 50), None, max_length_tokens=64)
    plan = Plan(lesson, dataclasses.replace(quick, batch_size=7, packing=packing))
    parts = [b.part(rank, world).batch for b in plan.batches(0) for rank in range(world)]
    rows = [sum(part.lengths) or part.tokens_bl.shape[1] for part in parts]
    assert plan.longest_row(world) == max(rows)


@pytest.mark.usefixtures("scan")
def test_the_doctor_looks_at_it_and_what_has_no_memory_is_reckoned(base: Path) -> None:
    asked = {"training": TrainingSettings(), "regularizer": RegularizerSettings()}
    with pytest.raises(InputError, match=r"examples of 101 tokens.*--length"):
        doctor.diagnose(base, length=101, timed=False, **asked)
    fields = presets.read_config(base / "config.json")
    assert footprint(fields, length=200, kernels=True, **asked).activations > 0
