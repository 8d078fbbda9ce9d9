"""An update on a GPU: it stays there, goes on where it was, and says what the CPU says.

Not bit for bit: that the CPU alone keeps. Skipped where there is none, and where it is hidden (see
tests/conftest.py): `make test-gpu`.
"""

import dataclasses

import pytest
import torch

from regularizers.anchor import QuadraticAnchor
from updater.evaluate import outcomes
from updater.nemotron import checkpoint, kernels
from updater.settings import TrainingSettings
from updater.train.encode import encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.loop import Stream
from updater.train.ranks import ALONE
from updater.train.record import Watch
from updater.train.schedule import Plan

DEVICE = "cuda"
SHORT = TrainingSettings(epochs=4, batch_size=8, learning_rate=5e-3, checkpoint_every_steps=5)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Stopped(Exception):
    """What a run is stopped by."""


def taught(
    base, folder, table, device=DEVICE, *, stop_at=None, trace="", anchored=False, **options
):
    """The model after a run on the table, and what `fit` returned."""
    model, tokenizer = checkpoint.load(base, device=device)
    lesson = Lesson.of(tokenizer, table, None, max_length_tokens=64)

    def metrics(step, _metrics):
        if stop_at is not None and step >= stop_at:
            raise Stopped

    parameters = dict(model.named_parameters())
    importance = {name: torch.ones_like(p) for name, p in parameters.items()}
    anchor = QuadraticAnchor(parameters, importance, 1.0) if anchored else None
    done = fit(
        model,
        lesson,
        training=dataclasses.replace(SHORT, **options),
        guards=Guards(anchor) if anchor else Guards(),
        folder=folder,
        watch=Watch(metrics, progress=False),
        trace=trace,
    )
    return model, done


def far(model, other):
    """How far apart two models are, relative to the norm of all weights."""
    mine, theirs = (
        torch.cat([p.detach().float().cpu().flatten() for p in one.parameters()])
        for one in (model, other)
    )
    return float((mine - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_it_learns_and_stays_there(base, language, tmp_path, precision, adapt):
    model, done = taught(base, tmp_path, language(0, 64), precision=precision, adapt=adapt)
    assert {p.device.type for p in model.parameters()} == {DEVICE}
    assert done.losses[-1] < 0.95 * done.losses[0]


@pytest.mark.parametrize("anchored", [False, True])
def test_it_learns_what_the_cpu_learns(base, language, tmp_path, anchored):
    table = language(0, 64)
    there, on_gpu = taught(base, tmp_path / "gpu", table, anchored=anchored)
    here, on_cpu = taught(base, tmp_path / "cpu", table, "cpu", anchored=anchored)
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=0.02)
    assert far(there, here) < 0.02


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_stopped_and_run_again_it_goes_on_where_it_was(base, language, tmp_path, precision):
    table = language(0, 64)
    whole, in_one = taught(base, tmp_path / "whole", table, precision=precision)
    with pytest.raises(Stopped):
        taught(base, tmp_path / "stopped", table, precision=precision, stop_at=20)
    model, done = taught(base, tmp_path / "stopped", table, precision=precision)
    assert done.num_steps == in_one.num_steps
    assert done.losses == pytest.approx(in_one.losses, rel=0.02)
    assert far(model, whole) < 0.02


@pytest.mark.skipif(not kernels.are_fused(), reason="needs mamba-ssm and causal-conv1d")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_without_padding_it_learns_the_same(base, language, tmp_path, precision):
    table = language(0, 64)
    padded, before = taught(base, tmp_path / "padded", table, precision=precision)
    packed, done = taught(base, tmp_path / "packed", table, precision=precision, packing=True)
    assert done.losses == pytest.approx(before.losses, rel=0.02)
    assert far(packed, padded) < 0.02


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
    _, done = taught(base, tmp_path, language(0, 32), trace=trace)
    _, again = taught(base, tmp_path, language(0, 32), trace=trace)
    assert done.trace.keys() == again.trace.keys()
    for name, tensor in again.trace.items():
        assert torch.equal(tensor, done.trace[name]), name


@pytest.mark.parametrize("estimator", ["empirical", "mas"])
def test_importance_is_that_of_the_cpu(trained, language, estimator):
    found = []
    for device in (DEVICE, "cpu"):
        model, tokenizer = checkpoint.load(trained, device=device)
        examples = encode(tokenizer, language(0, 24), max_length_tokens=64)
        importance = estimate(
            model,
            examples,
            estimator=estimator,
            checkpoint_digest="",
            data_digest="",
            progress=False,
        )
        found.append({name: tensor.cpu() for name, tensor in importance.tensors.items()})
    for name, expected in found[1].items():
        assert (found[0][name] - expected).norm() <= 0.01 * expected.norm(), name


def test_it_answers_as_on_the_cpu(trained, language):
    said = []
    for device in (DEVICE, "cpu"):
        model, tokenizer = checkpoint.load(trained, device=device)
        said.append(
            outcomes(model, tokenizer, language(200, 64), batch_size=16, max_length_tokens=64)
        )
    there, here = (table["loss"].to_numpy() for table in said)
    assert there == pytest.approx(here, rel=1e-3, abs=1e-4)
    correct = [table["correct"].to_numpy() for table in said]
    assert (correct[0] != correct[1]).sum() <= 1
