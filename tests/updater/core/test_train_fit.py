"""Fine-tuning: it learns, resumes exactly, pulls at the anchor once a step, stops when it must."""

import dataclasses
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from regularizers.anchor import NoAnchor, QuadraticAnchor
from updater.errors import InputError, UpdateError
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train import state
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.objective import Likelihood, Objected
from updater.train.record import Watch
from updater.train.schedule import MicroBatch

DRIVER = Path(__file__).with_name("fit_driver.py")
SHORT = TrainingSettings(epochs=1, batch_size=8, learning_rate=5e-3)


class Spy:
    """An anchor that keeps a copy of what it is given to add to."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor(7.0)

    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        self.gradients.append(
            {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        )


def run(base: Path, folder: Path, table: Any, **changes: Any) -> tuple[Any, Fit]:
    """The model after a short run on `table`, and what `fit` returned."""
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(
        tokenizer,
        table,
        changes.pop("rehearsed", None),
        max_length_tokens=changes.pop("max_length_tokens", 64),
    )
    settings = {
        "training": SHORT,
        "guards": Guards(changes.pop("anchor", NoAnchor())),
        "folder": folder,
        "watch": Watch(progress=False),
    } | changes
    return model, fit(model, lesson, **settings)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_language_is_learnt(trained: Path, language: Any) -> None:
    from updater.evaluate import outcomes

    found = outcomes(
        *checkpoint.load(trained), language(300, 60), batch_size=60, max_length_tokens=64
    )
    assert sum(found["correct"].to_pylist()) >= 54


def test_counts_losses_and_metrics(base: Path, tmp_path: Path, language: Any) -> None:
    metrics: dict[int, dict[str, float]] = {}
    model, done = run(
        base,
        tmp_path,
        language(0, 60),
        rehearsed=language(100, 20),
        watch=Watch(lambda step, values: metrics.update({step: values}), progress=False),
    )
    assert (done.num_steps, done.num_examples, len(done.losses)) == (10, 80, 10)
    assert done.too_long == ()
    assert done.seconds > 0
    assert done.losses[-1] < done.losses[0]
    assert set(metrics) == {10}
    assert metrics[10].keys() == {
        "train/loss",
        "train/loss_new",
        "train/loss_rehearsed",
        "train/learning_rate",
        "train/penalty",
        "train/examples_per_second",
        "train/experts_busiest",
        "train/experts_idle",
    }
    low, high = sorted([metrics[10]["train/loss_new"], metrics[10]["train/loss_rehearsed"]])
    assert low <= metrics[10]["train/loss"] <= high
    assert not model.training


def test_routers_stay_unless_they_shall_be_trained(
    base: Path, tmp_path: Path, language: Any
) -> None:
    before = weights(checkpoint.load(base)[0])
    frozen, _ = run(base, tmp_path / "a", language(0, 16))
    free = dataclasses.replace(SHORT, train_routers=True)
    trained, _ = run(base, tmp_path / "b", language(0, 16), training=free)
    for name, tensor in before.items():
        assert torch.equal(tensor, frozen.state_dict()[name]) == (".gate." in name), name
    router = "model.layers.1.mixer.gate.weight"
    assert not torch.equal(before[router], trained.state_dict()[router])


def killed_in_new_process(_: ModuleType, *arguments: Any) -> int:
    """The exit code of the run in a process that shares nothing with this one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.run(command, check=False, env=environment).returncode


def killed_in_fork(module: ModuleType, *arguments: Any) -> int | None:
    """The same in a fork of this one: without the ten seconds that imports take."""
    child = multiprocessing.get_context("fork").Process(target=module.run, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


@pytest.mark.parametrize(
    ("accumulate", "kills", "way", "run_in"),
    [
        (1, (5, 3), "none", killed_in_fork),
        (2, (1, 4), "none", killed_in_fork),
        (1, (9,), "none", killed_in_new_process),
        (2, (5,), "lwf", killed_in_fork),
        (1, (5,), "der", killed_in_fork),
        (1, (9,), "der++", killed_in_fork),
        (2, (5,), "agem", killed_in_fork),
        (1, (5, 3), "none/lora", killed_in_fork),
        (1, (5,), "agem/lora", killed_in_fork),
        (1, (9,), "der++/lora", killed_in_fork),
    ],
)
def test_killed_and_run_again_the_weights_are_bit_for_bit_the_same(
    accumulate: int,
    kills: tuple[int, ...],
    way: str,
    run_in: Callable[..., int | None],
    base: Path,
    tmp_path: Path,
    driver: ModuleType,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Killed with SIGKILL in the middle of an optimizer step, and again after it was resumed, a
    run ends with the weights, losses and counts of one that was never killed. What an objective
    asked of the model it asks again: of the base, not of the weights resumed."""
    driver.run(base, tmp_path / "whole", 0, accumulate, "", way)
    for kill_at in kills:
        arguments = (base, tmp_path / "killed", kill_at, accumulate, "", way)
        assert run_in(driver, *arguments) == -signal.SIGKILL
    assert (tmp_path / "killed" / state.FILE).exists()
    with caplog.at_level(logging.INFO, "updater"):
        assert "goes on" not in caplog.text
        driver.run(base, tmp_path / "killed", 0, accumulate, "", way)
    assert sum(said.startswith("goes on from step ") for said in caplog.messages) == 1
    whole, resumed = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")
    )
    assert same(whole, resumed)


def test_a_finished_run_called_again_trains_nothing(
    base: Path, tmp_path: Path, language: Any
) -> None:
    first, done = run(base, tmp_path, language(0, 16))
    spy = Spy()
    again, redone = run(base, tmp_path, language(0, 16))
    assert redone == done
    assert same(weights(first), weights(again))
    assert spy.gradients == []


@pytest.mark.parametrize("change", ["settings", "examples", "weights", "anchor", "damage"])
def test_a_state_of_another_run_is_not_used(
    change: str, base: Path, trained: Path, tmp_path: Path, language: Any
) -> None:
    run(base, tmp_path / "a", language(0, 16))
    arguments: dict[str, Any] = {}
    start, table = base, language(0, 16)
    if change == "settings":
        arguments["training"] = dataclasses.replace(SHORT, seed=1)
    elif change == "examples":
        table = language(1, 16)
    elif change == "weights":
        start = trained
    elif change == "anchor":
        arguments["anchor"] = QuadraticAnchor({}, None, 3.0)
    else:
        file = tmp_path / "a" / state.FILE
        file.write_bytes(file.read_bytes()[:-50])
    resumed, _ = run(start, tmp_path / "a", table, **arguments)
    fresh, _ = run(start, tmp_path / "b", table, **arguments)
    assert same(weights(resumed), weights(fresh))


def test_the_anchor_pulls_once_a_step_after_accumulation_and_before_clipping(
    base: Path, tmp_path: Path, language: Any
) -> None:
    """Four micro-batches of 8 in two steps give the anchor, twice, the gradient of the mean loss
    over all the tokens of 16 examples, not yet clipped."""
    table = language(0, 32)
    settings = dataclasses.replace(
        SHORT, batch_size=8, accumulate=2, gradient_clip=1e-3, learning_rate=1e-12, weight_decay=0
    )
    spy = Spy()
    run(base, tmp_path, table, training=settings, anchor=spy)
    assert len(spy.gradients) == 2

    from updater.train.encode import collate, encode
    from updater.train.likelihood import negative_log_likelihood

    model, tokenizer = checkpoint.load(base)
    encoded = encode(tokenizer, table, max_length_tokens=64)
    sums, counts = negative_log_likelihood(model, collate(encoded, range(32)))
    sums.sum().backward()
    # Which 16 came first is the sampler's choice; both steps together are all 32, each weighted
    # by its own tokens, of which the language gives every 16 nearly as many.
    for name, parameter in model.named_parameters():
        if ".gate." in name:
            continue
        both = (spy.gradients[0][name] + spy.gradients[1][name]) / 2
        whole = parameter.grad / counts.sum()
        assert (
            torch.linalg.vector_norm(both - whole) <= 0.1 * torch.linalg.vector_norm(whole) + 1e-6
        )
    norm = torch.cat([g.flatten() for g in spy.gradients[0].values()]).norm()
    assert norm > 1e-2  # far above the clip


def test_a_strong_anchor_holds_the_weights(base: Path, tmp_path: Path, language: Any) -> None:
    before = weights(checkpoint.load(base)[0])

    def moved(anchor: Any, name: str) -> float:
        model, _ = run(base, tmp_path / name, language(0, 32), anchor=anchor)
        return sum(
            float((tensor - before[n]).norm() ** 2) for n, tensor in model.state_dict().items()
        )

    start = dict(checkpoint.load(base)[0].named_parameters())
    free = moved(NoAnchor(), "free")
    held = moved(QuadraticAnchor(start, None, 1e4), "held")
    assert held < 0.5 * free


def test_a_loss_that_is_no_number_stops_with_its_step(
    base: Path, tmp_path: Path, language: Any
) -> None:
    class Poison(Spy):
        def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
            super().add_gradient(parameters)
            if len(self.gradients) == 3:
                parameters["lm_head.weight"].grad.fill_(float("nan"))

    with pytest.raises(UpdateError, match=r"step 4 of 6: the loss nan is not a number") as error:
        run(base, tmp_path, language(0, 48), anchor=Poison())
    assert "learning_rate" in str(error.value)
    assert not (tmp_path / state.FILE).exists()


def test_weights_broken_by_the_last_step_are_not_returned(
    base: Path, tmp_path: Path, language: Any
) -> None:
    """No loss is computed after it, so only the weights can tell."""

    class BrokenAtLast(NoAnchor):
        calls = 0

        def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
            self.calls += 1
            if self.calls == 2:
                gradient = parameters["lm_head.weight"].grad
                assert gradient is not None
                gradient[0, 0] = torch.nan

    for _ in range(2):  # nor when the run, which is finished, is asked again
        with pytest.raises(UpdateError, match=r"diverged at its last step, 2: .* is not finite"):
            run(base, tmp_path, language(0, 16), anchor=BrokenAtLast())


def test_a_loss_that_diverges_stops(base: Path, tmp_path: Path, language: Any) -> None:
    wild = dataclasses.replace(SHORT, learning_rate=30.0, warmup_fraction=0.0, gradient_clip=0.0)
    with pytest.raises(UpdateError, match=r"diverged|not a number"):
        run(base, tmp_path, language(0, 160), training=wild)


def test_long_examples_are_left_out_and_named(base: Path, tmp_path: Path, language: Any) -> None:
    table = language(0, 24)
    _, done = run(base, tmp_path, table, max_length_tokens=8)
    assert 0 < len(done.too_long) < 24
    assert done.num_examples == 24 - len(done.too_long)


def test_nothing_short_enough_is_an_error(base: Path, tmp_path: Path, language: Any) -> None:
    with pytest.raises(UpdateError, match="24 of 24 new examples are longer"):
        run(base, tmp_path, language(0, 24), max_length_tokens=2)


def test_several_devices_are_refused(base: Path, tmp_path: Path, language: Any) -> None:
    settings = dataclasses.replace(SHORT, devices=2)
    with pytest.raises(InputError, match=r"training\.devices = 2"):
        run(base, tmp_path, language(0, 8), training=settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_a_precision_that_the_machine_lacks_is_refused(
    base: Path, tmp_path: Path, language: Any
) -> None:
    settings = dataclasses.replace(SHORT, precision="16-mixed")
    with pytest.raises(InputError, match=r"float16 is trained on a GPU"):
        run(base, tmp_path, language(0, 8), training=settings)


def test_it_is_quiet_and_leaves_no_files_of_lightnings(
    base: Path,
    tmp_path: Path,
    language: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(base, tmp_path / "state", language(0, 16))
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "here").iterdir()) == []
    assert [p.name for p in (tmp_path / "state").iterdir()] == [state.FILE]


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision_keeps_float32_weights(
    precision: str, base: Path, tmp_path: Path, language: Any
) -> None:
    settings = dataclasses.replace(SHORT, precision=precision)
    model, done = run(base, tmp_path, language(0, 32), training=settings)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert done.losses[-1] < done.losses[0]


@pytest.mark.parametrize("stop_at", [8, 9, 11])
def test_metrics_up_to_a_saved_state_come_once(
    stop_at: int, base: Path, tmp_path: Path, language: Any
) -> None:
    """What the curve in MLflow relies on: it can take no point back, so a point waits there until
    a metric of a later step says that a state of its step, or of a later one, is on the disk."""
    every = 4
    settings = dataclasses.replace(SHORT, epochs=2, batch_size=4, checkpoint_every_steps=every)

    class Stopped(Exception):
        pass

    class Stopper(NoAnchor):
        def __init__(self, at_call: int) -> None:
            self.num_calls, self.at_call = 0, at_call

        def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
            self.num_calls += 1
            if self.num_calls == self.at_call:
                raise Stopped

    def train(at_call: int, steps: list[int]) -> None:
        run(
            base,
            tmp_path,
            language(0, 32),
            training=settings,
            anchor=Stopper(at_call),
            watch=Watch(lambda step, _: steps.append(step), progress=False),
        )

    before: list[int] = []
    after: list[int] = []
    with pytest.raises(Stopped):
        train(stop_at, before)
    train(0, after)
    assert after[0] > (before[-1] - 1) // every * every
    assert (before + after)[-1] == 16


class Noting(Likelihood):
    """Notes whether any gradient is held when a forward pass begins."""

    def __init__(self) -> None:
        self.held: list[bool] = []

    def loss(self, model: Any, batch: MicroBatch) -> Objected:
        self.held.append(any(p.grad is not None for p in model.parameters()))
        return super().loss(model, batch)


def test_gradients_are_let_go_of_when_a_step_is_done(base, language, tmp_path):
    """Held till after the next forward pass, as Lightning would, they add to its peak."""
    objective = Noting()
    training = dataclasses.replace(SHORT, accumulate=2)
    guards = Guards(objective=objective)
    run(base, tmp_path, language(0, 48), training=training, guards=guards)
    assert objective.held == [False, True] * 3
