"""A training run in a process of its own, which kills itself at an optimizer step.

    python fit_driver.py BASE FOLDER KILL_AT ACCUMULATE [TRACE [WAY]]

Trains the checkpoint in BASE on a few examples, keeps its state in FOLDER, and writes
FOLDER/weights.safetensors when it ends. KILL_AT 0: it is not killed. WAY: the method of the
objective, with /lora behind it for LoRA.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import save_file

from regularizers.anchor import QuadraticAnchor
from updater.nemotron import checkpoint
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.objective import Objective
from updater.train.objectives import objective_for
from updater.train.record import Watch

SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "checkpoint_every_steps": 3}


class Killer:
    """An objective that kills the process in the middle of one optimizer step."""

    def __init__(self, objective: Objective, kill_at: int) -> None:
        self.objective, self.calls, self.kill_at = objective, 0, kill_at
        self.loss, self.fingerprint = objective.loss, objective.fingerprint

    def before_step(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.objective.before_step(parameters)


def examples(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": [str(n) for n in numbers],
            "prompt": [f"{'very ' * (n % 4)}{n}\nColour:" for n in numbers],
            "completion": [f" {['red', 'green'][n % 2]}" for n in numbers],
        }
    )


def run(
    base: Path,
    folder: Path,
    kill_at: int,
    accumulate: int,
    trace: str = "",
    way: str = "none",
) -> None:
    torch.set_num_threads(1)
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, examples(0, 40), examples(100, 20), max_length_tokens=64)
    anchor = QuadraticAnchor(dict(model.named_parameters()), None, 0.05)
    method, _, adapt = way.partition("/")
    regularizer = RegularizerSettings(method=method, strength=2.0, top_k=8)
    objective = objective_for(regularizer, model, lesson, progress=False)
    done = fit(
        model,
        lesson,
        training=TrainingSettings(
            **SETTINGS,
            accumulate=accumulate,
            adapt=adapt or "full",
            lora_experts=adapt == "lora",
        ),
        guards=Guards(anchor, Killer(objective, kill_at)),
        folder=folder,
        watch=Watch(progress=False),
        trace=trace,
    )
    weights = {name: t.contiguous() for name, t in model.state_dict().items()}
    for kind, tensors in (("trace", done.trace), ("moved", done.moved)):
        weights |= {f"{kind}/{name}": t.contiguous() for name, t in tensors.items()}
    weights["losses"] = torch.tensor(done.losses, dtype=torch.float64)
    weights["counts"] = torch.tensor([done.num_steps, done.num_examples, done.num_tokens])
    save_file(weights, folder / "weights.safetensors")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
