"""A training step with its layers through torch.compile, beside the same step without.

    python bench/compiled.py            # some minutes on two cores; a C++ compiler is needed
    python bench/compiled.py --write    # and writes bench/results/compiled.md

A step is forward, backward and AdamW of nemotron-3-tiny on 32 texts, as batches of an update come:
of like length, each batch another. The device is the GPU where there is one, and there five layers
of Nano's shape too, in bfloat16 autocast: two copies of them, which take some 90 GiB. Both ways
alternate on the same batches, each with a model of its own; the ratio is of each pair, the median
over the rounds, with the bootstrap 95 % interval of that median. What is compiled is each layer by
itself, with sizes that may change: experts' routing makes them change anyway.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import updater  # noqa: F401 - first: it sees to a torchvision that does not fit torch

# isort: split
import numpy as np
import torch
from gpu_shapes import Shape, model_of, settings_of
from torch import nn

from updater.nemotron import checkpoint, kernels
from updater.train.encode import Batch
from updater.train.learner import adamw
from updater.train.likelihood import negative_log_likelihood

# What an earlier row or run compiled would be found again, and cost nothing.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
RESULTS = Path(__file__).parent / "results" / "compiled.md"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 8
FRACTIONS = (1 / 4, 13 / 32, 1 / 2, 5 / 8, 1)
"""Tokens of each batch's texts, as a part of the shape's length."""
SHAPES = (Shape("tiny", "nemotron-3-tiny", "full", 32, 64, vocabulary=2048),)
# The head and the embeddings of 131,072 words are no layers, and would take 10 GiB of each copy.
GPU_SHAPES = (
    Shape("nano, 5 of 52 layers", "nemotron-3-nano", "full", 8, 512, "MEM*E", vocabulary=2048),
)
WAYS = {
    "every layer": lambda layer: True,
    "Mamba-2 layers": lambda layer: layer.block_type == "linear_attention",
    "MoE layers": lambda layer: layer.block_type == "moe",
}


def trained_model(shape: Shape) -> nn.Module:
    """Random weights, the same every time, as they are trained."""
    model = model_of(shape, DEVICE)
    checkpoint.freeze_routers(model)
    return model.train()


def lengths(shape: Shape) -> list[int]:
    """Tokens of a text, batch by batch."""
    return [round(fraction * shape.length) for fraction in FRACTIONS]


def batches(shape: Shape) -> list[Batch]:
    """One of each length."""
    made = []
    for length in lengths(shape):
        size = (shape.batch_size, length)
        tokens_bl = torch.randint(3, shape.vocabulary, size, device=DEVICE)
        targets_bl = torch.zeros_like(tokens_bl, dtype=torch.bool)
        targets_bl[:, -4:] = True
        made.append(Batch(tokens_bl, targets_bl))
    return made


def stepper(model: nn.Module, shape: Shape) -> Callable[[Batch], float]:
    """Takes one optimizer step on a batch, and returns its seconds."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    settings = settings_of(shape, DEVICE)
    optimizer = adamw(trained, settings)
    mixed = settings.precision == "bf16-mixed"

    def step(batch: Batch) -> float:
        started = time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=mixed):
            sums_b, counts_b = negative_log_likelihood(model, batch)
        (sums_b.sum() / counts_b.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def row(shape: Shape, way: str, rounds: int) -> str:
    """One way of compiling a model: a line of the table."""
    torch.compiler.reset()
    plain, chosen = trained_model(shape), trained_model(shape)
    for layer in chosen.model.layers:
        if WAYS[way](layer):
            layer.compile(dynamic=True)
    before, after = stepper(plain, shape), stepper(chosen, shape)
    data = batches(shape)
    first = sum(after(batch) for batch in data) - sum(before(batch) for batch in data)
    pairs = [(before(batch), after(batch)) for _ in range(rounds) for batch in data]
    ratios = np.array([a / b for a, b in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    saved = statistics.mean(a - b for a, b in pairs)
    ratio = f"**{np.median(ratios):.2f}** ({low:.2f} to {high:.2f})"
    worth = f"{first / saved:,.0f}" if saved > 0 else "never"
    return f"| {shape.name} | {way} | {first:.0f} | {ratio} | {worth} |"


def main() -> None:
    """The table, on stdout, and in the results where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    shapes = SHAPES + (GPU_SHAPES if DEVICE == "cuda" else ())
    texts = "; ".join(
        f"{shape.name}: {shape.batch_size} texts of {', '.join(map(str, lengths(shape)))} tokens"
        for shape in shapes
    )
    fused = "fused Mamba-2 kernels" if kernels.are_fused() else "Mamba-2 in plain PyTorch"
    lines = [
        "# A step through torch.compile",
        "",
        f"`python bench/compiled.py`, a step of {texts}. {device}, {fused}, torch"
        f" {torch.__version__}, {torch.get_num_threads()} threads, Python"
        f" {platform.python_version()}, {datetime.date.today()}.",
        "",
        "| model | compiled | first steps take longer by, s | as fast, times"
        " | steps that make it up |",
        "|---|---|--:|--:|--:|",
    ]
    for shape in shapes:
        for way in WAYS:
            lines.append(row(shape, way, arguments.rounds))
            print(lines[-1], flush=True)
    if arguments.write:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
