"""What EWC adds to an optimizer step: the direct gradient, and beside it the usual ways.

    python bench/ewc_step.py               # both presets, about 6 minutes on 2 cores
    python bench/ewc_step.py --rounds 5    # quicker, no results file

Real Nemotron-H models, as the service builds them, on the CPU, AdamW, one batch of 32
examples of 32 tokens; 2 threads, or 1 on a machine that others use too (--threads 1), where
threads that wait for each other measure the others. In every round each way takes one whole step
(forward, backward, regularizer, clipping, optimizer), in turn, in an order that rotates; the
learning rate is 0, so that all do the same work. The usual ways are the penalty as one term of the
loss, through autograd, and Avalanche 0.6.0's own EWCPlugin (the extra `study`), which does that for
each past period by itself: measured with one and with five. Prints the ratios of a round's times
and, for a full run, writes bench/results/ewc_step.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from regularizers.anchor import NoAnchor, QuadraticAnchor
from updater.nemotron.checkpoint import build
from updater.nemotron.presets import config_fields
from updater.study.peers.library import EWCPlugin, ParamData

PRESETS = {"nemotron-3-tiny": 40, "nemotron-3-small": 20}
VOCABULARY_SIZE = 2048
BATCH_SIZE, NUM_TOKENS = 32, 32
STRENGTH = 1e4
PAST_PERIODS = (1, 5)  # Avalanche holds each of them by itself; ours are one sum
WARM_UP_ROUNDS = 3
RESULTS = Path(__file__).parent / "results" / "ewc_step.md"

Ways = dict[str, Callable[[], None]]


class Subject:
    """One model with an anchor close by, and a step of it in each way."""

    def __init__(self, preset: str) -> None:
        torch.manual_seed(0)
        self.model = build(config_fields(preset, VOCABULARY_SIZE)).train()
        self.parameters = dict(self.model.named_parameters())
        self.num_parameters = sum(p.numel() for p in self.parameters.values())
        self.anchor = {n: p.detach() + 1e-3 * torch.rand(p.shape) for n, p in self.named()}
        self.importance = {n: 1e-4 * torch.rand(p.shape) for n, p in self.named()}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self.tokens = torch.randint(VOCABULARY_SIZE, (BATCH_SIZE, NUM_TOKENS))
        direct = QuadraticAnchor(self.anchor, self.importance, STRENGTH)
        nothing = NoAnchor()
        self.ways: Ways = {
            "none": lambda: self.step(nothing.add_gradient),
            "ewc": lambda: self.step(self.clocked),
            "again": lambda: self.step(nothing.add_gradient),
            "autograd": lambda: self.step(nothing.add_gradient, penalty=self.penalty),
        }
        for number in PAST_PERIODS:
            theirs = self.their_penalty(number)
            self.ways[f"avalanche {number}"] = lambda theirs=theirs: self.step(
                nothing.add_gradient, penalty=theirs
            )
        self.direct, self.inside = direct, []

    def named(self) -> list[tuple[str, Tensor]]:
        return list(self.parameters.items())

    def clocked(self, parameters: dict[str, Tensor]) -> None:
        """The direct gradient within a step, its wall and CPU seconds noted in `inside`."""
        self.inside.append(timed(lambda: self.direct.add_gradient(parameters)))

    def penalty(self) -> Tensor:
        """The same penalty as a term of the loss, as it is usually written."""
        terms = [(self.importance[n] * (p - self.anchor[n]) ** 2).sum() for n, p in self.named()]
        return STRENGTH / 2 * torch.stack(terms).sum()

    def their_penalty(self, num_periods: int) -> Callable[[], Tensor]:
        """Avalanche's plugin after so many periods, each with an importance and weights."""
        plugin = EWCPlugin(STRENGTH / 2, mode="separate")
        for period in range(num_periods):
            plugin.saved_params[period] = _kept(self.anchor)
            plugin.importances[period] = _kept(self.importance)
        strategy = SimpleNamespace(model=self.model, device="cpu")
        strategy.clock = SimpleNamespace(train_exp_counter=num_periods)

        def penalty() -> Tensor:
            strategy.loss = torch.zeros(())
            plugin.before_backward(strategy)
            return strategy.loss

        return penalty

    def step(
        self, add_gradient: Callable[[dict[str, Tensor]], None], penalty: Callable | None = None
    ) -> None:
        self.optimizer.zero_grad()
        loss = self.model(self.tokens, labels=self.tokens).loss
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        add_gradient(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def _kept(tensors: dict[str, Tensor]) -> dict[str, ParamData]:
    """A copy of each, as Avalanche keeps it."""
    return {n: ParamData(n, init_tensor=tensor.clone()) for n, tensor in tensors.items()}


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def rounds_of(ways: Ways, num_rounds: int) -> dict[str, np.ndarray]:
    """way -> wall and CPU seconds, (num_rounds, 2): all ways once a round, each round in an order
    drawn anew, so that no way always follows the same other."""
    names, random = list(ways), np.random.default_rng(0)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for index in range(-WARM_UP_ROUNDS, num_rounds):
        for name in random.permutation(names):
            took = timed(ways[name])
            if index >= 0:
                seconds[name].append(took)
    return {name: np.array(found) for name, found in seconds.items()}


def ratio(ours: np.ndarray, none: np.ndarray) -> str:
    """The median over rounds of the ratio within a round, with its bootstrap 95 % interval."""
    random = np.random.default_rng(0)
    each = ours / none
    medians = np.median(random.choice(each, (2000, len(each))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(each):.3f} ({low:.3f} .. {high:.3f})"


def measure(preset: str, num_rounds: int) -> str:
    """One line of the table."""
    subject = Subject(preset)
    seconds = rounds_of(subject.ways, num_rounds)
    wall_inside, cpu_inside = np.median(subject.inside[WARM_UP_ROUNDS:], axis=0)
    none, cpu = (seconds["none"][:, kind] for kind in (0, 1))
    cells = [
        f"{preset}, {subject.num_parameters / 1e6:.2f} M",
        str(num_rounds),
        f"{np.median(none) * 1e3:.0f} ms",
        f"**{ratio(seconds['ewc'][:, 0], none)}**",
        ratio(seconds["ewc"][:, 1], cpu),
        ratio(seconds["autograd"][:, 0], none),
        *(ratio(seconds[f"avalanche {n}"][:, 0], none) for n in PAST_PERIODS),
        ratio(seconds["again"][:, 0], none),
        f"{wall_inside * 1e3:.2f} ms, {wall_inside / np.median(none):.1%}; "
        f"CPU {cpu_inside / np.median(cpu):.1%}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measures, prints, and writes the results of a full run."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=0, help="instead of the full number")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    lines = [
        "| model | rounds | a step without | EWC, direct gradient | the same, CPU "
        "| EWC, penalty by autograd | Avalanche, 1 past period | Avalanche, 5 "
        "| the same step again | the direct gradient's share |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for preset, num_rounds in PRESETS.items():
        lines.append(measure(preset, given.rounds or num_rounds))
        print(lines[-1], flush=True)
    if not given.rounds:
        RESULTS.write_text(_page(lines))


def _page(lines: list[str]) -> str:
    threads = torch.get_num_threads()
    machine = f"Python {platform.python_version()}, torch {torch.__version__}, "
    return "\n".join(
        [
            "# An optimizer step with EWC beside one without",
            "",
            f"`python bench/ewc_step.py --threads {threads}`, {machine}{os.cpu_count()} cores, "
            f"{time.strftime('%Y-%m-%d')}.",
            "",
            "A step is forward, backward, regularizer, clipping and AdamW on "
            f"{BATCH_SIZE} examples of {NUM_TOKENS} tokens, float32. Ratios are to the step "
            "without, within a round of all ways: the median over rounds, with the bootstrap 95 % "
            "interval of that median. `the same step again` is the noise: twice the same, so 1 is "
            "right. CPU is the same ratio of the process's CPU seconds, which other work on the "
            "machine disturbs less; the share is clocked around the call within the step, and "
            "is the least noisy of all. Avalanche's plugin "
            "(0.6.0) is asked as its strategy would be after so many past periods; ours holds any "
            "number of them in one sum. Target: the direct gradient at most 1.05.",
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
