"""Experts in pieces beside FSDP2's whole layers: memory and time of an update's steps.

    python bench/pieces.py            # prints the table, about 3 minutes on 2 cores
    python bench/pieces.py --write    # and writes bench/results/pieces.md

Two processes train one model in shards over gloo, on the CPU and in float32: MoE layers that are
most of the model, as Super's and Ultra's are. First as FSDP2 gathers a layer (torch's
`fully_shard`), then in pieces of a quarter to a sixteenth of its experts. The ways take turns.
Memory is the most that PyTorch's allocator gave out at a time in the first process, and beside it
what `updater doctor` would reckon.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from regularizers.shards import local
from updater.nemotron import checkpoint, presets
from updater.settings import RegularizerSettings, TrainingSettings
from updater.train.encode import Encoded
from updater.train.fit import fit
from updater.train.footprint import footprint
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.ranks import Ranks
from updater.train.record import Watch
from updater.train.shards import arranged

RESULTS = Path(__file__).parent / "results" / "pieces.md"
WORLD, STEPS, LENGTH, BATCH_SIZE = 2, 3, 64, 8
VOCABULARY_SIZE = 512
FIELDS = presets.config_fields("nemotron-3-tiny", VOCABULARY_SIZE) | {
    "hybrid_override_pattern": "ME*EME",
    "num_hidden_layers": 6,
    "n_routed_experts": 64,
    "moe_intermediate_size": 512,
    "num_experts_per_tok": 8,  # none is idle, whose weights a step would keep
}
LAYER_BYTES = 4 * 2 * FIELDS["hidden_size"] * FIELDS["moe_intermediate_size"] * 64
PIECES = {"FSDP2": 1, "pieces of 1/4": 4, "pieces of 1/8": 8, "pieces of 1/16": 16}
"""Way -> how many pieces a layer's experts are. The next one is on its way meanwhile."""


def settings(pieces: int, *, checkpointed: bool) -> TrainingSettings:
    """Of a training that gathers a layer's experts in so many."""
    return TrainingSettings(
        devices=WORLD,
        strategy="fsdp",
        epochs=1,
        batch_size=BATCH_SIZE,
        checkpoint_every_steps=1000,
        activation_checkpointing=checkpointed,
        gather_gib=LAYER_BYTES / 2**30 * min(1, 2 / pieces),
    )


def lesson() -> Lesson:
    """Examples of one length, of random tokens."""
    count = STEPS * BATCH_SIZE
    tokens = np.random.default_rng(0).integers(3, VOCABULARY_SIZE, count * LENGTH)
    starts = np.arange(0, count * LENGTH + 1, LENGTH)
    return Lesson(Encoded(tokens, starts, np.full(count, LENGTH // 2), np.arange(count), ()), count)


def trained(training: TrainingSettings, ranks: Ranks) -> float:
    """Seconds of a step of a model that is made for it."""
    cut = arranged(ranks.mesh, gather_bytes=training.gather_bytes)
    model = checkpoint.empty(FIELDS, device="cpu", dtype=torch.float32, arranged=cut)
    torch.manual_seed(ranks.rank)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight")):
                local(parameter).fill_(1)
            else:
                local(parameter).normal_(0, 0.02)
        for buffer in model.buffers():
            buffer.zero_()
    checkpoint.freeze_routers(model)
    with tempfile.TemporaryDirectory() as folder:
        done = fit(
            model,
            lesson(),
            training=training,
            guards=Guards(),
            folder=Path(folder),
            watch=Watch(progress=False),
            ranks=ranks,
        )
    return done.seconds / done.num_steps


def most_allocated(training: TrainingSettings, ranks: Ranks) -> int:
    """Bytes, at a time, while such a model is made and trained."""
    gc.collect()  # a model before it that went meanwhile would count as less than nothing
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trained(training, ranks)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    live = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        most = max(most, live)
    return most


def work(rank: int, rendezvous: str, rounds: int, answer: str) -> None:
    """One of the processes; the first writes what it measured."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD
    )
    ranks = Ranks(rank, WORLD, init_device_mesh("cpu", (WORLD,)))
    found = {}
    for checkpointed in (False, True):
        ways = {name: settings(n, checkpointed=checkpointed) for name, n in PIECES.items()}
        trained(ways["FSDP2"], ranks)  # caches fill
        memory = {name: most_allocated(training, ranks) for name, training in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds[name].append(trained(ways[name], ranks))
        found[str(checkpointed)] = {"memory": memory, "seconds": seconds}
    if ranks.first:
        Path(answer).write_text(json.dumps(found))
    distributed.destroy_process_group()


def measured(rounds: int) -> dict[str, dict[str, dict]]:
    """Checkpointed or not -> what is measured -> way -> figures."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        given = (str(Path(folder) / "rendezvous"), rounds, str(answer))
        multiprocessing.spawn(work, given, nprocs=WORLD)
        return json.loads(answer.read_text())


def table(rounds: int) -> list[str]:
    """All lines of the page."""
    lines = [
        "# Experts in pieces beside whole layers",
        "",
        f"`python bench/pieces.py`, {WORLD} processes over gloo, CPU, float32, torch"
        f" {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores,"
        f" {datetime.date.today()}, load average {os.getloadavg()[0]:.1f} at the start.",
        "",
        f"Three MoE layers with {LAYER_BYTES / 2**20:.0f} MiB of experts each, and little else;"
        f" {BATCH_SIZE} texts of {LENGTH} tokens a step. Memory is the most of the first process at"
        " a time; passing is what of it is neither weights nor gradients nor optimizer, which are"
        " alike in all rows. Reckoned is what `updater doctor` would say, but for idle experts, of"
        f" which there are none. A step is the median of {rounds} turns, each beside FSDP2's in the"
        " same turn, with the least and the most.",
        "",
        "| checkpointed | gathered | memory, MiB | passing, of FSDP2's | reckoned, of measured |"
        " a step, of FSDP2's |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for checkpointed, figures in measured(rounds).items():
        memory, seconds = figures["memory"], figures["seconds"]
        for name, pieces in PIECES.items():
            training = settings(pieces, checkpointed=checkpointed == "True")
            reckoned = footprint(
                FIELDS,
                training=training,
                regularizer=RegularizerSettings(method="none"),
                length=LENGTH,
            )
            reckoned = replace(reckoned, idle=0)
            above = [memory[way] - reckoned.least for way in (name, "FSDP2")]
            ratios = [a / b for a, b in zip(seconds[name], seconds["FSDP2"], strict=True)]
            cells = [
                "yes" if checkpointed == "True" else "no",
                name,
                f"{memory[name] / 2**20:,.0f}",
                f"**{above[0] / above[1]:.2f}**",
                f"{reckoned.peak / memory[name]:.2f}",
                f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """The table is printed, and written where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of every way (default: 5)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    args = parser.parse_args()
    lines = table(args.rounds)
    print("\n".join(lines))
    if args.write:
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
