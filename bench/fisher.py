"""How fast the Fisher's estimators are and how well they agree, on a model that has learnt.

    python bench/fisher.py            # a few minutes on 2 cores, prints
    python bench/fisher.py --write    # the same, and writes bench/results/fisher.md

A nemotron-3-tiny learns two months of the demo's tickets from random weights; then every way
estimates the Fisher of the same examples of them. The ways: one example a backward pass with its
true completion (`empirical`, what the others are compared with) or with one drawn from the model;
whole batches of drawn ones (`sampled`); and exact gradients of each example of a batch at once, by
torch.func.vmap. Speed is examples a second of the CPU, which other work on the machine disturbs
less than the clock on the wall. Agreement is Spearman's rank correlation over all weights with
evidence (an importance above 0 in `empirical`), as a whole and for each kind of layer.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from regularizers import fisher
from updater.demo import tickets
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.encode import Batch, encode
from updater.train.fit import fit
from updater.train.guards import Guards
from updater.train.importance import batches
from updater.train.lesson import Lesson
from updater.train.likelihood import completion_logits, negative_log_likelihood
from updater.train.record import Watch

MONTHS, NUM_PER_MONTH = ("2026-01", "2026-02"), 800
TRAINING = TrainingSettings(epochs=8, learning_rate=2e-3, train_routers=True)  # as `scratch`
MAX_LENGTH_TOKENS = 64
BATCH_SIZES = (8, 16, 32, 64)
DRAWS = 4
RESULTS = Path(__file__).parent / "results" / "fisher.md"

Fisher = dict[str, Tensor]

KINDS = {
    "embeddings": ("embeddings.weight",),
    "head": ("lm_head.weight",),
    "routed experts": (".experts.",),
    "shared experts": (".shared_experts.",),
    "router": (".gate.weight",),
    "attention": (".q_proj.", ".k_proj.", ".v_proj.", ".o_proj."),
    "Mamba": ("A_log", ".D", "dt_bias", "conv1d", "in_proj", "out_proj", "mixer.norm"),
    "norms": ("norm",),
}
"""Kind of layer -> parts of its parameters' names; the first kind that fits is it."""


class Way(NamedTuple):
    """One way to estimate: its name in the table, and what does it."""

    name: str
    estimate: Callable[[], Fisher]


class Subject:
    """A trained model, and the examples whose Fisher is asked for."""

    def __init__(self, num_examples: int) -> None:
        rows = [*tickets.generate(MONTHS, NUM_PER_MONTH, seed=0)]
        table = pa.table(
            {
                "id": [row["id"] for row in rows],
                "prompt": [f"{row['text']}\nQueue:" for row in rows],
                "completion": [f" {row['category']}" for row in rows],
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            self.model, tokenizer = _trained(table, Path(folder))
        self.parameters = dict(self.model.named_parameters())
        chosen = np.random.default_rng(0).permutation(len(rows))[:num_examples]
        self.examples = encode(tokenizer, table.take(chosen), max_length_tokens=MAX_LENGTH_TOKENS)

    def batches(self, size: int) -> Iterator[Batch]:
        """Of one length each, as the service makes them: not all are full."""
        return batches(self.model, self.examples, size)

    def empirical(self) -> Fisher:
        """One example a pass, true completions."""
        batches = self.batches(1)
        return fisher.empirical(
            self.parameters,
            batches,
            lambda batch: negative_log_likelihood(self.model, batch)[0].sum(),
        )

    def sampled(self, size: int, seed: int = 0) -> Fisher:
        """Batches of `size`, completions drawn from the model; at 1 each example by itself."""
        return fisher.sampled(self.parameters, self.batches(size), drawn(self.model, seed))

    def several(self, size: int, draws: int) -> Fisher:
        """The mean over so many draws of `sampled`, none of them drawn by another way."""
        each = [self.sampled(size, seed) for seed in range(100, 100 + draws)]
        return {name: sum(one[name] for one in each) / draws for name in each[0]}

    def vmapped(self, size: int) -> Fisher:
        """True completions, and the gradients of all examples of a batch at once."""
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        frozen = {name: p.detach() for name, p in self.parameters.items()}
        gradients = torch.func.vmap(torch.func.grad(self._loss), in_dims=(None, 0, 0))
        for batch in self.batches(size):
            found = gradients(frozen, batch.tokens_bl, batch.targets_bl)
            for name, each in found.items():
                total[name] += each.square().sum(0)
        return {name: square / len(self.examples) for name, square in total.items()}

    def _loss(self, weights: Fisher, tokens_l: Tensor, targets_l: Tensor) -> Tensor:
        arguments = {"input_ids": tokens_l[None], "use_cache": False}
        logits_lv = torch.func.functional_call(self.model, weights, (), arguments).logits[0, :-1]
        losses_l = functional.cross_entropy(logits_lv, tokens_l[1:], reduction="none")
        return (losses_l * targets_l[1:]).sum()


def _trained(table: pa.Table, folder: Path) -> tuple[Any, Any]:
    """nemotron-3-tiny that has learnt the table, in evaluation mode, and its tokenizer."""
    pairs = zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True)
    base = checkpoint.create(
        "nemotron-3-tiny",
        [prompt + completion for prompt, completion in pairs],
        folder / "base",
        vocabulary_size=2048,
        seed=0,
    )
    model, tokenizer = checkpoint.load(base)
    lesson = Lesson.of(tokenizer, table, None, max_length_tokens=MAX_LENGTH_TOKENS)
    watch = Watch(progress=False)
    done = fit(
        model, lesson, training=TRAINING, guards=Guards(), folder=folder / "state", watch=watch
    )
    print(f"trained: {done.num_steps} steps, {done.losses[0]:.2f} to {done.losses[-1]:.3f} nats")
    return model, tokenizer


def drawn(model: Any, seed: int) -> Callable[[Batch], tuple[Tensor, int]]:
    """The loss of completions that are drawn from the model, as `updater.train.importance` does."""
    generator = torch.Generator().manual_seed(seed)

    def loss(batch: Batch) -> tuple[Tensor, int]:
        logits_cv, _, _ = completion_logits(model, batch)
        labels_c = torch.multinomial(logits_cv.detach().softmax(-1), 1, generator=generator)[:, 0]
        size = len(batch.tokens_bl)
        return functional.cross_entropy(logits_cv, labels_c, reduction="sum") / size, size

    return loss


def kind_of(name: str) -> str:
    """The kind of layer that a parameter belongs to."""
    return next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))


def agreement(one: Fisher, other: Fisher, evidence: Fisher) -> dict[str, float]:
    """Kind -> rank correlation over its weights with evidence; "all" of them, too."""
    flat: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in ["all", *KINDS]}
    for name, seen in evidence.items():
        there = seen > 0
        pair = (one[name][there], other[name][there])
        flat["all"].append(pair)
        flat[kind_of(name)].append(pair)
    found = {}
    for kind, pairs in flat.items():
        ours, theirs = (torch.cat(side).numpy() for side in zip(*pairs, strict=True))
        found[kind] = float(spearmanr(ours, theirs).statistic)
    return found


def main() -> None:
    """Measures, prints, and with --write keeps the page."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--examples", type=int, default=256)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--write", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    subject = Subject(given.examples)
    page = _page(given, _measured(subject))
    print(page)
    if given.write:
        RESULTS.write_text(page)


def _ways(subject: Subject) -> list[Way]:
    return [
        Way("`empirical`: one a pass, true", subject.empirical),
        Way("vmap of 16, true", lambda: subject.vmapped(16)),
        Way("one a pass, drawn", lambda: subject.sampled(1)),
        Way("one a pass, drawn again", lambda: subject.sampled(1, seed=1)),
        Way(f"one a pass, {DRAWS} draws", lambda: subject.several(1, DRAWS)),
        *(Way(f"`sampled`, batch {n}", lambda n=n: subject.sampled(n)) for n in BATCH_SIZES),
        Way(f"`sampled`, batch 32, {DRAWS} draws", lambda: subject.several(32, DRAWS)),
    ]


def _measured(subject: Subject) -> list[list[str]]:
    """The lines of the three tables: the ways, and twice the kinds of layer."""
    ways = _ways(subject)
    found: dict[str, Fisher] = {}
    seconds: dict[str, float] = {}
    subject.sampled(BATCH_SIZES[0])  # a warm-up
    for name, estimate in ways:
        started = time.process_time()
        found[name] = estimate()
        seconds[name] = time.process_time() - started
        print(f"{name}: {len(subject.examples) / seconds[name]:.0f} examples/s", flush=True)
    true, many = ways[0].name, ways[4].name
    tables: list[list[str]] = [[], [], []]
    for name, _ in ways:
        rows = [agreement(found[name], found[other], found[true]) for other in (true, many)]
        rate, ratio = len(subject.examples) / seconds[name], seconds[true] / seconds[name]
        whole = [f"{row['all']:.3f}" for row in rows]
        tables[0].append(_row([name, f"{rate:.0f}", f"{ratio:.2f}", *whole]))
        for table, row in zip(tables[1:], rows, strict=True):
            table.append(_row([name, *(f"{row[kind]:.3f}" for kind in KINDS)]))
    return tables


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _page(given: argparse.Namespace, tables: list[list[str]]) -> str:
    options = f"--examples {given.examples} --threads {given.threads} --write"
    machine = f"Python {platform.python_version()}, torch {torch.__version__}"
    load = f"load average at the end {os.getloadavg()[0]:.1f}"
    by_kind = [_row(["way", *KINDS]), "|---" * (len(KINDS) + 1) + "|"]
    return "\n".join(
        [
            "# The Fisher's estimators",
            "",
            f"`python bench/fisher.py {options}`, {machine}, {os.cpu_count()} cores, "
            f"{time.strftime('%Y-%m-%d')}, {load}.",
            "",
            f"nemotron-3-tiny, trained on {len(MONTHS) * NUM_PER_MONTH:,} tickets, asked about "
            f"{given.examples} of them. The rank correlation is Spearman's, over all weights whose "
            "importance in `empirical` is above 0. Targets: `sampled` at least 3 times the "
            "examples a CPU second of `empirical`, at a rank correlation of at least 0.9.",
            "",
            "| way | examples/CPU s | times `empirical` | correlation to `empirical` "
            f"| to one a pass with {DRAWS} draws |",
            "|---|---|---|---|---|",
            *tables[0],
            "",
            "A drawn completion is another than the true one where the model is in doubt, so even "
            "one a pass, drawn, agrees with `empirical` only so far: that is the labels' part. "
            f"What batches add is read off beside one a pass with {DRAWS} draws.",
            "",
            "## The correlation to `empirical` by kind of layer",
            "",
            *by_kind,
            *tables[1],
            "",
            f"## The correlation to one a pass with {DRAWS} draws by kind of layer",
            "",
            *by_kind,
            *tables[2],
            "",
        ]
    )


if __name__ == "__main__":
    main()
