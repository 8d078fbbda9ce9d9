"""An update on a GPU: it stays there, goes on where it was, and says what the CPU says.

Not bit for bit: that the CPU alone keeps. Skipped where there is none, and where it is hidden (see
tests/conftest.py): `make test-gpu`, which fails where there is none. The CPU's side is computed
where no fused kernels are taken (tests/helpers/devices.py).
"""

import numpy as np
import pytest
import torch
from devices import SHORT, Stopped, answered, far, learnt, logits, numbers, on_cpu, taught, weighed

from regularizers.anchor import QuadraticAnchor
from regularizers.formats import keep
from updater.nemotron import checkpoint, kernels, presets
from updater.train.lesson import Lesson
from updater.train.loop import Stream
from updater.train.ranks import ALONE
from updater.train.schedule import Plan

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_kernels = pytest.mark.skipif(
    not kernels.are_fused(), reason="needs mamba-ssm and causal-conv1d"
)


def weights(model):
    return numbers(dict(model.named_parameters()))


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_it_learns_and_stays_there(base, language, tmp_path, precision, adapt):
    table = language(0, 64)
    model, done = taught(base, tmp_path, table, DEVICE, precision=precision, adapt=adapt)
    assert {p.device.type for p in model.parameters()} == {DEVICE}
    assert done.losses[-1] < 0.95 * done.losses[0]


@pytest.mark.parametrize(
    "guard", [{}, {"anchored": True}, {"anchored": True, "offload": True}], ids=str
)
def test_it_learns_what_the_cpu_learns(base, language, tmp_path, guard):
    """Nothing held, weights held there, and held in the host's memory."""
    table = language(0, 64)
    there, losses = learnt(base, tmp_path / "gpu", table, DEVICE, **guard)
    here, expected = on_cpu(learnt, base, tmp_path / "cpu", table, "cpu", **guard)
    assert losses == pytest.approx(expected, rel=0.02)
    assert far(there, here) < 0.02


@pytest.mark.parametrize("form", ["float32", "bfloat16", "factored"])
def test_what_is_offloaded_is_pinned_and_pulls_as_on_the_cpu(form):
    draw = torch.Generator().manual_seed(0)
    theta, anchor, raw = (torch.rand(129, 67, generator=draw) for _ in range(3))

    def pulled(device):
        leaf = theta.to(device).requires_grad_()
        held = QuadraticAnchor({"w": anchor}, {"w": keep(raw, form)}, 12.5)
        held.settle({"w": leaf}, offload=True)
        held.add_gradient({"w": leaf})
        return leaf.grad.cpu(), held.penalty({"w": leaf}), held

    (there, penalty, held), (here, expected, _) = pulled(DEVICE), pulled("cpu")
    assert held._anchor["w"].is_pinned()
    torch.testing.assert_close(there, here)
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_stopped_and_run_again_it_goes_on_where_it_was(base, language, tmp_path, precision):
    table = language(0, 64)
    whole, in_one = taught(base, tmp_path / "whole", table, DEVICE, precision=precision)
    with pytest.raises(Stopped):
        taught(base, tmp_path / "stopped", table, DEVICE, precision=precision, stop_at=20)
    model, done = taught(base, tmp_path / "stopped", table, DEVICE, precision=precision)
    assert done.num_steps == in_one.num_steps
    assert done.losses == pytest.approx(in_one.losses, rel=0.02)
    assert far(weights(model), weights(whole)) < 0.02


@needs_kernels
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_padding_it_learns_the_same(base, language, tmp_path, precision):
    table = language(0, 64)
    padded, before = taught(base, tmp_path / "padded", table, DEVICE, precision=precision)
    options = {"precision": precision, "packing": True}
    packed, done = taught(base, tmp_path / "packed", table, DEVICE, **options)
    assert done.losses == pytest.approx(before.losses, rel=0.02)
    assert far(weights(packed), weights(padded)) < 0.02


def test_batches_come_from_pinned_memory_and_are_those_of_the_cpu(base, language):
    _, tokenizer = checkpoint.load(base, device="cpu")
    lesson = Lesson.of(tokenizer, language(0, 64), None, max_length_tokens=64)
    plan = Plan(lesson, SHORT)
    device = torch.device(DEVICE, torch.cuda.current_device())
    there = list(Stream(plan, 0, ALONE, device))
    here = list(Stream(plan, 0, ALONE, torch.device("cpu")))
    assert len(there) == len(here) > 8
    moved = [batch.to(device) for batch in there]  # all copies are under way at once
    for mine, pinned, expected in zip(moved, there, here, strict=True):
        assert mine.examples == expected.examples
        for name in ("tokens_bl", "targets_bl"):
            assert getattr(pinned.batch, name).is_pinned()
            assert getattr(mine.batch, name).device == device
            assert torch.equal(getattr(mine.batch, name).cpu(), getattr(expected.batch, name))


@pytest.mark.parametrize("trace", ["optimizer", "path"])
def test_a_finished_run_asked_again_has_its_trace(base, language, tmp_path, trace):
    _, done = taught(base, tmp_path, language(0, 32), DEVICE, trace=trace)
    _, again = taught(base, tmp_path, language(0, 32), DEVICE, trace=trace)
    assert done.trace.keys() == again.trace.keys()
    for name, tensor in again.trace.items():
        assert torch.equal(tensor, done.trace[name]), name


@pytest.mark.parametrize("estimator", ["empirical", "mas"])
def test_importance_is_that_of_the_cpu(trained, language, estimator):
    found = weighed(trained, language(0, 24), DEVICE, estimator=estimator)
    here = on_cpu(weighed, trained, language(0, 24), "cpu", estimator=estimator)
    for name, expected in here.items():
        apart = np.linalg.norm(found[name] - expected)
        assert apart <= 0.01 * np.linalg.norm(expected), name


def test_it_answers_as_on_the_cpu(trained, language):
    losses, right = answered(trained, language(200, 64), DEVICE)
    expected, right_here = on_cpu(answered, trained, language(200, 64), "cpu")
    # Triton's products of float32 keep 10 bits of each factor (TF32).
    rel, abs = (1e-2, 1e-3) if kernels.are_fused() else (1e-3, 1e-4)
    assert losses == pytest.approx(expected, rel=rel, abs=abs)
    assert (right != right_here).sum() <= 1


@needs_kernels
@pytest.mark.parametrize("length", [1, 7, 200])
def test_the_kernels_take_what_a_layer_projects_whatever_its_width(length):
    preset = "nemotron-3-tiny"
    config = presets.config_for(preset, 300)
    inner = config.mamba_num_heads * config.mamba_head_dim
    width = 2 * (inner + config.n_groups * config.ssm_state_size) + config.mamba_num_heads
    assert width % 8, "causal-conv1d takes strides that are multiples of 8"
    tokens = np.random.default_rng(0).integers(3, 300, (1, length))
    there, here = logits(preset, tokens, DEVICE), on_cpu(logits, preset, tokens, "cpu")
    # As above, of the scans: a bound that what is computed of other inputs would miss by far.
    assert np.abs(there - here).max() <= 0.02 * here.std()
