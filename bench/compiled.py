"""A training step with its layers through torch.compile, beside the same step without.

    python bench/compiled.py            # some minutes on two cores; a C++ compiler is needed
    python bench/compiled.py --write    # and writes bench/results/compiled.md

A step is forward, backward and AdamW of nemotron-3-tiny on 32 texts, as batches of an update come:
of like length, each batch another. Both ways alternate on the same batches, each with a model of
its own; the ratio is of each pair, the median over the rounds, with the bootstrap 95 % interval of
that median. What is compiled is each layer by itself, with sizes that may change: experts' routing
makes them change anyway. The device is the GPU where there is one.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from updater.nemotron import checkpoint, presets
from updater.settings import TrainingSettings
from updater.train.encode import Batch
from updater.train.learner import adamw
from updater.train.likelihood import negative_log_likelihood

# What an earlier row or run compiled would be found again, and cost nothing.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
RESULTS = Path(__file__).parent / "results" / "compiled.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = (16, 26, 32, 40, 64)
ROUNDS = 8
VOCABULARY = 2048
WAYS = {
    "every layer": lambda layer: True,
    "Mamba-2 layers": lambda layer: layer.block_type == "linear_attention",
    "MoE layers": lambda layer: layer.block_type == "moe",
}


def model_of() -> nn.Module:
    """nemotron-3-tiny of random weights, the same every time, as it is trained."""
    fields = presets.config_fields("nemotron-3-tiny", VOCABULARY)
    model = checkpoint.random(fields, device=DEVICE, dtype=torch.float32)
    checkpoint.freeze_routers(model)
    return model.train()


def batches() -> list[Batch]:
    """One of each length."""
    made = []
    for length in LENGTHS:
        tokens_bl = torch.randint(3, VOCABULARY, (32, length), device=DEVICE)
        targets_bl = torch.zeros_like(tokens_bl, dtype=torch.bool)
        targets_bl[:, -4:] = True
        made.append(Batch(tokens_bl, targets_bl))
    return made


def stepper(model: nn.Module) -> Callable[[Batch], float]:
    """Takes one optimizer step on a batch, and returns its seconds."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(trained, TrainingSettings())

    def step(batch: Batch) -> float:
        started = time.perf_counter()
        sums_b, counts_b = negative_log_likelihood(model, batch)
        (sums_b.sum() / counts_b.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def row(way: str, rounds: int) -> str:
    """One way of compiling: a line of the table."""
    torch.compiler.reset()
    plain, chosen = model_of(), model_of()
    for layer in chosen.model.layers:
        if WAYS[way](layer):
            layer.compile(dynamic=True)
    before, after = stepper(plain), stepper(chosen)
    data = batches()
    first = sum(after(batch) for batch in data) - sum(before(batch) for batch in data)
    pairs = [(before(batch), after(batch)) for _ in range(rounds) for batch in data]
    ratios = np.array([a / b for a, b in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    saved = statistics.mean(a - b for a, b in pairs)
    ratio = f"**{np.median(ratios):.2f}** ({low:.2f} to {high:.2f})"
    worth = f"{first / saved:,.0f}" if saved > 0 else "never"
    return f"| {way} | {first:.0f} | {ratio} | {worth} |"


def main() -> None:
    """The table, on stdout, and in the results where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    lines = [
        "# A step through torch.compile",
        "",
        f"`python bench/compiled.py`, nemotron-3-tiny, 32 texts of {', '.join(map(str, LENGTHS))}"
        f" tokens a step, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads,"
        f" Python {platform.python_version()}, {datetime.date.today()}.",
        "",
        "| compiled | first steps take longer by, s | as fast, times | steps that make it up |",
        "|---|--:|--:|--:|",
    ]
    for way in WAYS:
        lines.append(row(way, arguments.rounds))
        print(lines[-1], flush=True)
    if arguments.write:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
