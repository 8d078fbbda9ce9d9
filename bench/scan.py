"""A step of the tiny model on a CPU: its scan as attention, beside transformers' operators.

    python bench/scan.py            # a minute on two cores
    python bench/scan.py --write    # and writes bench/results/scan.md
    python bench/scan.py --rounds 5 # quicker

A step is forward, backward and AdamW on 32 texts of one length, float32. Both ways alternate; the
ratio is of each pair, the median over the rounds, with the bootstrap 95 % interval of that median.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from updater.nemotron import checkpoint, presets, scan
from updater.settings import TrainingSettings
from updater.train.encode import Batch
from updater.train.learner import adamw
from updater.train.likelihood import negative_log_likelihood

RESULTS = Path(__file__).parent / "results" / "scan.md"
LENGTHS = (16, 26, 32, 64, 128, 256)
ROUNDS, WARM_UP = 20, 3
VOCABULARY = 2048


def step_of(length: int) -> Callable[[], None]:
    """One optimizer step of nemotron-3-tiny, by whatever scan is in place."""
    fields = presets.config_fields("nemotron-3-tiny", VOCABULARY)
    model = checkpoint.random(fields, device="cpu", dtype=torch.float32)
    checkpoint.freeze_routers(model)
    model.train()
    tokens_bl = torch.randint(3, VOCABULARY, (32, length))
    targets_bl = torch.zeros_like(tokens_bl, dtype=torch.bool)
    targets_bl[:, -4:] = True
    batch = Batch(tokens_bl, targets_bl)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(trained, TrainingSettings())

    def step() -> None:
        sums_b, counts_b = negative_log_likelihood(model, batch)
        (sums_b.sum() / counts_b.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def clocked(step: Callable[[], None], way: Callable) -> float:
    """Seconds of a step with the scan done in that way."""
    scan.modeling_nemotron_h.mamba2_chunk_scan = way
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def row(length: int, rounds: int) -> str:
    """Of one length: a line of the table."""
    step = step_of(length)
    pairs = [
        (clocked(step, scan.REFERENCE), clocked(step, scan.chunk_scan))
        for _ in range(WARM_UP + rounds)
    ][WARM_UP:]
    ratios = np.array([before / now for before, now in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (2000, rounds))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    before, now = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = f"**{np.median(ratios):.2f}** ({low:.2f} to {high:.2f})"
    return f"| {length} | {before * 1000:.0f} | {now * 1000:.0f} | {ratio} |"


def main() -> None:
    """The table, on stdout, and in the results where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    arguments = parser.parse_args()
    lines = [
        "# A step on a CPU by the short scan",
        "",
        f"`python bench/scan.py`, nemotron-3-tiny (chunks of 32), 32 texts a step, torch"
        f" {torch.__version__}, {torch.get_num_threads()} threads, Python"
        f" {platform.python_version()}, {datetime.date.today()}. Longer texts than {scan.SHORT}"
        " tokens go transformers' way, so that there 1 is right.",
        "",
        "| tokens | transformers' operators, ms | ours, ms | as fast, times |",
        "|--:|--:|--:|--:|",
    ]
    for length in LENGTHS:
        lines.append(row(length, arguments.rounds))
        print(lines[-1], flush=True)
    if arguments.write:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
