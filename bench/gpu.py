"""How fast and how large an update is on a GPU, beside a plain Hugging Face Trainer.

    python bench/gpu.py --page gpu.md     # some minutes on one H200
    python bench/gpu.py --only nano-4b    # one of the shapes
    python bench/gpu.py --cpu             # the same tables at toy size

Needs torch, lightning, transformers, peft and pyarrow; the Trainer's rows need accelerate. Random
weights of the released shapes are made on the device. A shape that does not fit is left out, and
the table says so. Every row trains with the service's own step (`updater.train`), or with
transformers' Trainer on the same model, tokens, precision and optimizer: some steps to warm up,
then the mean of the following ones by the device's own clock. What EWC adds is the same for a step
of any size, so it is told of small steps and of large ones.
"""

import argparse
import gc
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import updater  # noqa: F401 - first: it sees to a torchvision that does not fit torch

# isort: split
import transformers
from gpu_clock import Clock, ceilings, clocked, peak
from gpu_shapes import (
    LARGE,
    LARGE_WARM_UP,
    SHAPES,
    TOYS,
    WARM_UP_STEPS,
    Shape,
    flops_per_step,
    lesson_of,
    model_of,
    settings_of,
)

from regularizers.anchor import QuadraticAnchor
from regularizers.formats import Weight, kept, num_bytes
from updater.nemotron import checkpoint
from updater.nemotron import kernels as fused_kernels
from updater.nemotron.load import ExpertLoad
from updater.progress import Progress
from updater.train.adapt import adapted, freeze
from updater.train.encode import PADDING
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.learner import Learner
from updater.train.loop import train
from updater.train.record import Record
from updater.train.schedule import Plan
from updater.train.state import Counters

STRENGTH = 1.0
REHEARSED_SHARE = 0.5


def ours(
    model: nn.Module, shape: Shape, device: str, *, anchor: Any, rehearsed: float, accumulate: int
) -> float:
    """Seconds a step, of the service's."""
    training = settings_of(shape, device, accumulate)
    num_examples = shape.batch_size * accumulate * training.max_steps
    plan = Plan(lesson_of(shape, num_examples, rehearsed=rehearsed), training)
    warm_up = WARM_UP_STEPS if accumulate == 1 else LARGE_WARM_UP
    clock = Clock(device, accumulate=accumulate, warm_up=warm_up)
    with adapted(model, training) as adaptation, ExpertLoad(model, padding=PADDING) as load:
        guards = Guards() if anchor is None else Guards(adaptation.hold(anchor))
        learner = Learner(model, training, num_steps=plan.num_steps, guards=guards, load=load)
        with Progress("train", plan.num_examples, shown=False) as progress:
            learner.record = Record(
                (Counters(), []),
                plan=plan,
                vocabulary_size=shape.vocabulary,
                measured=learner.measured,
                on_metrics=lambda _step, _metrics: None,
                progress=progress,
            )
            train(learner, plan, training, clock)
    model.zero_grad(set_to_none=True)
    return clock.seconds


def theirs(model: nn.Module, shape: Shape, device: str) -> float:
    """Seconds a step, of transformers' Trainer."""
    training = settings_of(shape, device)
    examples = lesson_of(shape, shape.batch_size * training.max_steps).examples
    tokens = torch.from_numpy(examples.tokens.reshape(-1, shape.length)).long()
    labels = tokens.clone()
    labels[:, : shape.length // 2] = -100
    rows = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
    clock = Clock(device)

    class Tick(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.on_train_batch_end()

    arguments = transformers.TrainingArguments(
        output_dir=str(Path(tempfile.gettempdir()) / "updater-bench-gpu"),  # nothing is saved
        max_steps=training.max_steps,
        per_device_train_batch_size=shape.batch_size,
        learning_rate=training.learning_rate,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        optim="adamw_torch_fused",
        max_grad_norm=training.gradient_clip,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    with adapted(model, training):
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[Tick()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.accelerator.free_memory()
    model.zero_grad(set_to_none=True)
    return clock.seconds


def measured(shape: Shape, device: str, product: float, copy: float) -> Iterator[str]:
    """The lines of one shape's tables, as they come."""
    started = time.perf_counter()
    model = model_of(shape, device)
    checkpoint.freeze_routers(model)
    number = sum(p.numel() for p in model.parameters())
    tokens, flops = shape.batch_size * shape.length, flops_per_step(model, shape)
    yield f"\n## {shape.name}: {number / 1e6:,.1f} M weights, {shape.batch_size} x {shape.length}"
    yield "\n| way | ms a step | tokens/s | of the product's FLOP/s | peak memory | to plain |"
    yield "|---|---|---|---|---|---|"
    plain: dict[int, float] = {}

    def row(name: str, step: Callable[[], float], accumulate: int = 1) -> str:
        with peak(device) as most:
            try:
                seconds = step()
            except torch.OutOfMemoryError:
                return f"| {name} | does not fit | | | | |"
            memory = most()
        plain.setdefault(accumulate, seconds)
        cells = [
            name if accumulate == 1 else f"{name}, {accumulate * tokens:,} tokens a step",
            f"{seconds * 1e3:.1f}",
            f"{accumulate * tokens / seconds:,.0f}",
            f"{accumulate * flops / seconds / product:.1%}",
            "–" if memory is None else f"{memory:.1f} GiB",
            f"{seconds / plain[accumulate]:.3f}",
        ]
        return "| " + " | ".join(cells) + " |"

    def way(anchor: Any = None, rehearsed: float = 0.0, accumulate: int = 1) -> Callable[[], float]:
        return lambda: ours(
            model, shape, device, anchor=anchor, rehearsed=rehearsed, accumulate=accumulate
        )

    yield row("plain", way())
    yield row("plain, again", way())
    yield row("transformers' Trainer", lambda: theirs(model, shape, device))
    yield row("rehearsal", way(rehearsed=REHEARSED_SHARE))
    yield row("plain", way(accumulate=LARGE), LARGE)
    importance: dict[str, Weight]
    importance, lines = fishers(model, shape, device)
    for form in ("float32", "factored"):
        importance = kept(importance, form)  # and the one before is gone
        anchor = anchor_of(model, importance)
        yield row(f"EWC, {form}", way(anchor))
        yield row(f"EWC, {form}, rehearsal", way(anchor, REHEARSED_SHARE))
        yield row(f"EWC, {form}", way(anchor, accumulate=LARGE), LARGE)
        lines.append(pass_line(model, shape, anchor, form, copy, device))
        del anchor
    yield ""
    yield from lines
    yield f"\n{time.perf_counter() - started:.0f} s in all."


def fishers(model: nn.Module, shape: Shape, device: str) -> tuple[dict[str, Weight], list[str]]:
    """The importance of what is held, and a line on each estimator's speed."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    training = settings_of(shape, device)
    freeze(model, training)
    examples = lesson_of(shape, shape.num_fisher).examples
    found: dict[str, Weight] = {}
    lines = ["| estimator | examples/s |", "|---|---|"]
    for estimator in ("empirical", "sampled"):
        rates = []
        for _ in range(2):  # the first warms up
            found.clear()
            started = time.perf_counter()
            importance = estimate(
                model,
                examples,
                estimator=estimator,
                checkpoint_digest="",
                data_digest="",
                precision=training.precision,
                progress=False,
            )
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(len(examples) / (time.perf_counter() - started))
            found = dict(importance.tensors)
            del importance
        lines.append(f"| {estimator} | {rates[-1]:.1f} |")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    return found, lines


def anchor_of(model: nn.Module, importance: dict[str, Weight]) -> QuadraticAnchor:
    """Where the model is, in the digits of a checkpoint released in bfloat16, held by the
    importance."""
    parameters = dict(model.named_parameters())
    released = {name: parameters[name].detach().bfloat16() for name in importance}
    return QuadraticAnchor(released, importance, STRENGTH)


def pass_line(
    model: nn.Module, shape: Shape, anchor: QuadraticAnchor, form: str, copy: float, device: str
) -> str:
    """EWC's pass by itself: the fewest bytes that it must move, over the time that it takes. Under
    LoRA its time, for there it moves no weights."""
    if shape.adapt == "lora":
        held = [dict(model.named_parameters())[name] for name in anchor.names]
        size = sum(p.numel() for p in held)
        with adapted(model, settings_of(shape, device)) as adaptation:
            under = adaptation.hold(anchor)
            seconds = clocked(lambda: under.add_gradient({}), device)
        held_by = f"{size / 1e6:,.1f} M weights are held"
        return f"\nEWC, {form}: its pass takes {seconds * 1e3:.2f} ms, {held_by}."
    parameters = {n: p for n, p in model.named_parameters() if n in anchor.names}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    seconds = clocked(lambda: anchor.add_gradient(parameters), device)
    importance = {n: anchor.term(n, p)[2] for n, p in parameters.items()}
    state = num_bytes(importance)
    # theta, its gradient twice, the anchor.
    least = state + sum(3 * p.nbytes + anchor.term(n, p)[1].nbytes for n, p in parameters.items())
    weights = sum(p.nbytes for p in parameters.values())
    model.zero_grad(set_to_none=True)
    return (
        f"\nEWC, {form}: its pass takes {seconds * 1e3:.2f} ms, {least / seconds / 1e9:,.1f} GB/s, "
        f"{least / seconds / copy:.0%} of a copy's. The importance is {state / 2**20:,.2f} MiB, "
        f"{state / weights:.1%} of the weights' bytes."
    )


def kernels() -> str:
    """Which Mamba-2 the models run."""
    if not fused_kernels.are_fused():
        return "Mamba-2 in plain PyTorch (mamba-ssm and causal-conv1d are not here)"
    import causal_conv1d
    import mamba_ssm

    return f"mamba-ssm {mamba_ssm.__version__}, causal-conv1d {causal_conv1d.__version__}"


def main() -> None:
    """Measures and prints, and writes the page if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument("--only", default="", help="the shapes whose name has this in it")
    parser.add_argument("--page", type=Path, help="where the tables go, as Markdown")
    given = parser.parse_args()
    device = "cpu" if given.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --cpu runs the same at toy size")
    transformers.logging.set_verbosity_error()
    lines: list[str] = []
    for line in page(given, device):
        print(line, flush=True)
        lines.append(line)
        if given.page:
            given.page.write_text("\n".join(lines) + "\n")


def page(given: argparse.Namespace, device: str) -> Iterator[str]:
    """The lines of the whole page, as they come."""
    product, copy = ceilings(device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    options = " --cpu" * given.cpu + f' --only "{given.only}"' * bool(given.only)
    yield "# An update's step on a GPU"
    yield (
        f"\n`python bench/gpu.py{options}`, {name}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}, {kernels()}, "
        f"{time.strftime('%Y-%m-%d')}. A {'bfloat16' if device == 'cuda' else 'float32'} matrix "
        f"product runs at {product / 1e12:.3g} TFLOP/s, a copy at {copy / 1e9:,.1f} GB/s."
    )
    for shape in TOYS if given.cpu else SHAPES:
        if given.only in shape.name:
            yield from measured(shape, device, product, copy)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
