"""A model that was trained is gone with its last name: no cycle keeps it beside the next one.

Python's search for cycles is off here: what is gone went at once.
"""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from regularizers.anchor import QuadraticAnchor
from updater.errors import UpdateError
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8}


@pytest.fixture(autouse=True)
def _no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive_after(base: Path, language: Any, folder: Path, *, trace: str = "", **how: Any) -> int:
    """How many of the weights, of what anchors them, and of the optimizer's state are still there
    when a trained model is dropped."""
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, language(0, 16), None, max_length_tokens=64)
    anchor = QuadraticAnchor(dict(model.named_parameters()), None, 0.1)
    seen: list[weakref.ref[torch.Tensor]] = [weakref.ref(p) for p in model.parameters()]
    seen += [weakref.ref(tensor) for tensor in anchor._anchor.values()]
    made = torch.optim.AdamW.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        seen.append(weakref.ref(self))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "__init__", noted)
        done = fit(
            model,
            lesson,
            training=TrainingSettings(**SHORT | how),
            guards=Guards(anchor),
            folder=folder,
            watch=Watch(progress=False),
            trace=trace,
        )
    assert bool(done.trace) == bool(trace)
    assert seen[-1]() is None or not seen[-1]().state, "its moments are as large as the weights"
    del model, anchor
    return sum(one() is not None for one in seen[:-1])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"adapt": "lora", "lora_experts": True},
        {"activation_checkpointing": True},
        {"train_routers": True, "router_bias_rate": 1e-3},
        {"trace": "path"},
        {"trace": "optimizer"},
    ],
    ids=str,
)
def test_it_goes_with_its_last_name(
    how: dict[str, Any], base: Path, language: Any, tmp_path: Path
) -> None:
    assert alive_after(base, language, tmp_path, **how) == 0


def test_it_goes_as_well_when_training_fails(base: Path, language: Any, tmp_path: Path) -> None:
    """As a trial of a search does, after which the next one loads the base again."""
    model, tokenizer = checkpoint.load(base)
    weights = [weakref.ref(p) for p in model.parameters()]
    lesson = Lesson.of(tokenizer, language(0, 64), None, max_length_tokens=64)
    wild = TrainingSettings(epochs=8, batch_size=4, learning_rate=1e4, gradient_clip=0)
    with pytest.raises(UpdateError, match="training stopped at step"):
        fit(
            model,
            lesson,
            training=wild,
            guards=Guards(),
            folder=tmp_path,
            watch=Watch(progress=False),
        )
    del model
    assert sum(one() is not None for one in weights) == 0


def test_a_finished_run_that_is_asked_again_goes_too(
    base: Path, language: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        assert alive_after(base, language, tmp_path) == 0
