"""What a model does on a device, as numbers that can be compared; and the same in a process that
sees no GPU.

Where the fused kernels are installed transformers takes them for whatever its process computes, on
CPUs too, and there they fail. A process without a GPU takes PyTorch's operators
(`updater.kernels_guard`): so that is where the CPU's side of a comparison comes from.
"""

import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from regularizers.anchor import QuadraticAnchor
from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.encode import encode
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.lesson import Lesson
from updater.train.record import Watch

SHORT = TrainingSettings(epochs=4, batch_size=8, learning_rate=5e-3, checkpoint_every_steps=5)
Weights = dict[str, np.ndarray]


class Stopped(Exception):
    """What a run is stopped by."""


def on_cpu(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What the function of this module returns in a process that sees no GPU."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "asked", Path(folder) / "answer"
        asked.write_bytes(pickle.dumps((function.__name__, given, named)))
        command = [sys.executable, __file__, str(asked), str(answer)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return pickle.loads(answer.read_bytes())


def taught(
    base: Path,
    folder: Path,
    table: pa.Table,
    device: str,
    *,
    stop_at: int | None = None,
    trace: str = "",
    anchored: bool = False,
    offload: bool = False,
    **options: Any,
) -> tuple[Any, Fit]:
    """The model after a run on the table, and what `fit` returned. `offload`: as of a regularizer,
    of what is `anchored`."""
    model, tokenizer = checkpoint.load(base, device=device)
    lesson = Lesson.of(tokenizer, table, None, max_length_tokens=64)

    def metrics(step: int, _metrics: object) -> None:
        if stop_at is not None and step >= stop_at:
            raise Stopped

    guards = Guards()
    if anchored:
        parameters = dict(model.named_parameters())
        anchor = QuadraticAnchor(
            parameters, {name: torch.ones_like(p) for name, p in parameters.items()}, 1.0
        )
        anchor.settle(parameters, offload=offload)
        guards = Guards(anchor)
    done = fit(
        model,
        lesson,
        training=dataclasses.replace(SHORT, **options),
        guards=guards,
        folder=folder,
        watch=Watch(metrics, progress=False),
        trace=trace,
    )
    return model, done


def learnt(*given: Any, **named: Any) -> tuple[Weights, tuple[float, ...]]:
    """The weights after `taught`, and the losses on the way."""
    model, done = taught(*given, **named)
    return numbers(dict(model.named_parameters())), done.losses


def weighed(folder: Path, table: pa.Table, device: str, *, estimator: str) -> Weights:
    """The importance of the checkpoint's weights for the table."""
    model, tokenizer = checkpoint.load(folder, device=device)
    importance = estimate(
        model,
        encode(tokenizer, table, max_length_tokens=64),
        estimator=estimator,
        checkpoint_digest="",
        data_digest="",
        progress=False,
    )
    return numbers(importance.tensors)


def answered(folder: Path, table: pa.Table, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The checkpoint's losses on the table, and which of its answers are right."""
    model, tokenizer = checkpoint.load(folder, device=device)
    said = outcomes(model, tokenizer, table, batch_size=16, max_length_tokens=64)
    return said["loss"].to_numpy(), said["correct"].to_numpy()


def logits(preset: str, tokens: np.ndarray, device: str) -> np.ndarray:
    """Of a model of the preset with random weights, in evaluation mode."""
    from updater.nemotron import presets

    fields = presets.config_fields(preset, 300)
    # Drawn on the CPU, so that they are the same everywhere.
    model = checkpoint.random(fields, device="cpu", dtype=torch.float32).eval().to(device)
    with torch.no_grad():
        found = model(torch.from_numpy(tokens).to(device), use_cache=False).logits
    return found.cpu().numpy()


def numbers(tensors: dict[str, torch.Tensor]) -> Weights:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def far(mine: Weights, theirs: Weights) -> float:
    """How far apart weights are, relative to the norm of all of `theirs`."""
    apart, whole = (
        sum(float(np.square(one, dtype=np.float64).sum()) for one in ones)
        for ones in ((mine[name] - theirs[name] for name in theirs), theirs.values())
    )
    return (apart / whole) ** 0.5


if __name__ == "__main__":
    name, given, named = pickle.loads(Path(sys.argv[1]).read_bytes())
    Path(sys.argv[2]).write_bytes(pickle.dumps(globals()[name](*given, **named)))
