"""How much faster a smaller checkpoint answers on a CPU, beside the one that it was made of.

    python bench/smaller.py            # three minutes on two cores
    python bench/smaller.py --write    # and writes bench/results/smaller.md
    python bench/smaller.py --rounds 5 # quicker

nemotron-3-tiny with random weights, 30 % of one kind of part gone after the other, and of all at
once. A forward pass is of 32 texts of 26 tokens, the length of CLINC150's examples, float32. The
two alternate; the ratio is of each pair, the median over the rounds, with the bootstrap 95 %
interval of that median.
"""

import argparse
import datetime
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from updater.compress.engine import compress
from updater.compress.looking import Shown
from updater.compress.measured import bytes_of
from updater.nemotron import checkpoint
from updater.nemotron.sparsity import KINDS
from updater.settings import CompressionSettings

RESULTS = Path(__file__).parent / "results" / "smaller.md"
SPARSITY = 0.3
EXAMPLES, LENGTH = 32, 26
ROUNDS, WARM_UP = 40, 5
VOCABULARY = 2048
TEXTS = [f"how do i pay bill {number} of account {number * 7}" for number in range(2000)]


def smaller(base: Path, target: Path, kinds: list[str]) -> Path:
    """`base` without 30 % of these kinds of part, one after the other."""
    for kind in kinds:
        settings = CompressionSettings(method="random", remove=kind, sparsity=SPARSITY)
        made = target.with_name(f"{target.name}-{kind}")
        compress(base, made, settings, Shown("empirical", 0), work=target.with_name("work"))
        base = made
    return base


def clocked(model: torch.nn.Module, tokens_bl: torch.Tensor) -> float:
    """Seconds of a forward pass."""
    started = time.perf_counter()
    with torch.no_grad():
        model(input_ids=tokens_bl, use_cache=False)
    return time.perf_counter() - started


def row(base: Path, folder: Path, name: str, rounds: int) -> str:
    """Of one smaller checkpoint: a line of the table."""
    models = [checkpoint.load(one)[0] for one in (base, folder)]
    tokens_bl = torch.randint(3, models[0].config.vocab_size, (EXAMPLES, LENGTH))
    pairs = [[clocked(model, tokens_bl) for model in models] for _ in range(WARM_UP + rounds)]
    ratios = np.array([before / after for before, after in pairs[WARM_UP:]])
    drawn = np.random.default_rng(0).choice(ratios, (2000, rounds))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    before, after = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    share = bytes_of(folder) / bytes_of(base)
    ratio = f"**{np.median(ratios):.2f}** ({low:.2f} to {high:.2f})"
    return f"| {name} | {share:.0%} | {before:.0f} | {after:.0f} | {ratio} |"


def main() -> None:
    """The table, on stdout, and in the results where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    lines = [
        f"`python bench/smaller.py`, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{datetime.date.today()}: {asked.rounds} rounds.",
        "",
        "| 30 % of | bytes | before, ms | after, ms | times as fast |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as place:
        base = checkpoint.create(
            "nemotron-3-tiny", TEXTS, Path(place) / "base", vocabulary_size=VOCABULARY, seed=0
        )
        for kinds in [[kind] for kind in KINDS] + [["neurons", "experts"], list(KINDS)]:
            name = " and ".join(kinds) if len(kinds) < len(KINDS) else "each of the four"
            folder = smaller(base, Path(place) / "-".join(kinds), kinds)
            lines.append(row(base, folder, name, asked.rounds))
            print(lines[-1], flush=True)
    if asked.write:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
