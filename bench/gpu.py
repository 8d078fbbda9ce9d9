"""How fast and how large an update is on a GPU, beside a plain Hugging Face Trainer.

    python bench/gpu.py --page bench/results/gpu.md   # under 8 minutes on one H200
    python bench/gpu.py --only nano-4b                # one of the shapes
    python bench/gpu.py --cpu                         # the same tables at toy size, in a minute

Needs torch, lightning, transformers, peft and pyarrow; the Trainer's rows need accelerate. Random
weights of the released shapes are made on the device. A shape that does not fit is left out, and
the table says so. Every row trains with the service's own step (`updater.train`), or with
transformers' Trainer on the same model, tokens, precision and optimizer: some steps to warm up,
then the mean of the following ones by the device's own clock.
"""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import updater  # noqa: F401 - first: it sees to a torchvision that does not fit torch

# isort: split
import transformers
from lightning.pytorch import Callback
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from regularizers.anchor import QuadraticAnchor
from regularizers.formats import Weight, kept, num_bytes
from updater.nemotron import checkpoint, presets
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train.adapt import LINEARS, adapted
from updater.train.encode import Encoded
from updater.train.guards import Guards
from updater.train.importance import estimate
from updater.train.learner import Learner
from updater.train.lesson import Lesson
from updater.train.loop import train
from updater.train.record import Record
from updater.train.schedule import Plan
from updater.train.state import Counters

WARM_UP_STEPS, TIMED_STEPS = 4, 10
STRENGTH = 1.0
REHEARSED_SHARE = 0.5
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """One model, and how it is trained. `length`: tokens an example. `num_fisher`: examples that
    the estimators are clocked on."""

    name: str
    preset: str
    adapt: str
    batch_size: int
    length: int
    pattern: str = ""
    vocabulary: int = 131072
    num_fisher: int = 32

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: what LoRA leaves alone needs no master copy."""
        return torch.bfloat16 if self.adapt == "lora" else torch.float32

    @property
    def fields(self) -> dict[str, Any]:
        """The config.json."""
        fields = presets.config_fields(self.preset, self.vocabulary)
        if self.pattern:
            fields |= {
                "hybrid_override_pattern": self.pattern,
                "num_hidden_layers": len(self.pattern),
            }
        return fields


SHAPES = (
    Shape("nano-4b, full", "nemotron-3-nano-4b", "full", 8, 512),
    Shape("nano, 5 of 52 layers, full", "nemotron-3-nano", "full", 8, 512, pattern="MEM*E"),
    Shape("nano, whole, LoRA", "nemotron-3-nano", "lora", 8, 512, num_fisher=16),
)
TOYS = (
    Shape("tiny, full", "nemotron-3-tiny", "full", 4, 32, vocabulary=2048, num_fisher=8),
    Shape("tiny, LoRA", "nemotron-3-tiny", "lora", 4, 32, vocabulary=2048, num_fisher=8),
)


class Clock(Callback):
    """When each step ended, by the device's clock. Lightning calls it, and the Trainer's rows."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._marks: list[Any] = []

    def on_train_batch_end(self, *_: object, **__: object) -> None:
        """A step is done, or will be when the device comes to it."""
        if not self._on_gpu:
            self._marks.append(time.perf_counter())
            return
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append(mark)

    @property
    def seconds(self) -> float:
        """The mean of a step, without those that warmed up."""
        first, last = self._marks[WARM_UP_STEPS - 1], self._marks[-1]
        number = len(self._marks) - WARM_UP_STEPS
        if not self._on_gpu:
            return (last - first) / number
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3 / number


def model_of(shape: Shape, device: str) -> nn.Module:
    """Random weights of the shape, made on the device."""
    torch.manual_seed(0)
    model = checkpoint.empty(shape.fields, device=device, dtype=shape.dtype)
    with torch.no_grad():
        for module in model.modules():
            model._init_weights(module)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02)
            elif name.endswith(("norm.weight", "norm_f.weight")):
                parameter.fill_(1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()
    return model


def lesson_of(shape: Shape, num_examples: int, *, rehearsed: float = 0.0) -> Lesson:
    """Random tokens, all examples of one length, half of each its completion."""
    random = np.random.default_rng(0)
    tokens = random.integers(3, shape.vocabulary, num_examples * shape.length, dtype=np.int32)
    examples = Encoded(
        tokens=tokens,
        starts=np.arange(num_examples + 1) * shape.length,
        prompt_lengths=np.full(num_examples, shape.length // 2),
        rows=np.arange(num_examples),
        too_long=(),
    )
    return Lesson(examples, num_examples - round(rehearsed * num_examples))


def settings_of(shape: Shape, device: str) -> TrainingSettings:
    """As the service trains, at NVIDIA's learning rate for this family."""
    return TrainingSettings(
        adapt=shape.adapt,
        batch_size=shape.batch_size,
        learning_rate=1e-5,
        epochs=1,
        max_steps=WARM_UP_STEPS + TIMED_STEPS,
        precision="bf16-mixed" if device == "cuda" else "32-true",
    )


def ours(model: nn.Module, shape: Shape, device: str, *, anchor: Any, rehearsed: float) -> float:
    """Seconds a step, of the service's."""
    training = settings_of(shape, device)
    lesson = lesson_of(shape, shape.batch_size * training.max_steps, rehearsed=rehearsed)
    plan = Plan(lesson, training)
    clock = Clock(device)
    with adapted(model, training) as adaptation:
        guards = Guards() if anchor is None else Guards(adaptation.hold(anchor))
        learner = Learner(model, training, num_steps=plan.num_steps, guards=guards)
        with Progress("train", plan.num_examples, shown=False) as progress:
            learner.record = Record(
                (Counters(), []),
                plan=plan,
                vocabulary_size=shape.vocabulary,
                penalty=learner.penalty,
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
        output_dir="/tmp/none",
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
        trainer.train()
        trainer.accelerator.free_memory()
    model.zero_grad(set_to_none=True)
    return clock.seconds


def flops_per_step(model: nn.Module, shape: Shape) -> float:
    """Of the matrix products with weights that a step needs: 6 a weight and token where all are
    trained, 4 under LoRA; the head's for completion tokens only; scans and attention's own not
    counted."""
    tokens = shape.batch_size * shape.length
    head = model.lm_head.weight.numel() * tokens / 2
    body = 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            body += module.weight.numel() * tokens
        elif isinstance(module, NemotronHExperts):
            share = model.config.num_experts_per_tok / module.num_experts
            body += (module.up_proj.numel() + module.down_proj.numel()) * share * tokens
    return (6 if shape.adapt == "full" else 4) * (body + head)


def ceilings(device: str) -> tuple[float, float]:
    """FLOP/s of a large bfloat16 (on the CPU float32) matrix product, and bytes/s of a large
    copy, read and written counted."""
    size, count = (8192, 2**29) if device == "cuda" else (512, 2**22)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = 2 * size**3 / clocked(lambda: a @ b, device)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return product, 2 * source.nbytes / clocked(lambda: target.copy_(source), device)


def clocked(work: Callable[[], object], device: str, times: int = 10) -> float:
    """Seconds of one call, the mean of several after three."""
    for _ in range(3):
        work()
    if device == "cpu":
        started = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - started) / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(times):
        work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3 / times


@contextmanager
def peak(device: str) -> Iterator[Callable[[], float]]:
    """Hands out what tells the most memory that was taken in the block, GiB."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / GIB
    else:
        yield lambda: float("nan")
    gc.collect()


def held_names(model: nn.Module, shape: Shape) -> list[str]:
    """What EWC holds: all weights, or those that LoRA trains."""
    if shape.adapt == "full":
        return [name for name, p in model.named_parameters() if p.requires_grad]
    linears = (n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return [f"{name}.weight" for name in linears if name.rpartition(".")[2] in LINEARS]


def measured(shape: Shape, device: str, product: float, copy: float) -> Iterator[str]:
    """The lines of one shape's tables, as they come."""
    started = time.perf_counter()
    model = model_of(shape, device)
    checkpoint.freeze_routers(model)
    number = sum(p.numel() for p in model.parameters())
    tokens, flops = shape.batch_size * shape.length, flops_per_step(model, shape)
    yield f"\n## {shape.name}: {number / 1e9:.2f} B weights, {shape.batch_size} x {shape.length}"
    yield "\n| way | ms a step | tokens/s | of the product's FLOP/s | peak memory | to plain |"
    yield "|---|---|---|---|---|---|"
    plain = 0.0

    def row(name: str, step: Callable[[], float]) -> str:
        nonlocal plain
        with peak(device) as most:
            try:
                seconds = step()
            except torch.OutOfMemoryError:
                return f"| {name} | does not fit | | | | |"
            memory = most()
        plain = plain or seconds
        cells = [
            name,
            f"{seconds * 1e3:.1f}",
            f"{tokens / seconds:,.0f}",
            f"{flops / seconds / product:.1%}",
            f"{memory:.1f} GiB",
            f"{seconds / plain:.3f}",
        ]
        return "| " + " | ".join(cells) + " |"

    def way(anchor: Any = None, rehearsed: float = 0.0) -> Callable[[], float]:
        return lambda: ours(model, shape, device, anchor=anchor, rehearsed=rehearsed)

    yield row("plain", way())
    yield row("plain, again", way())
    yield row("transformers' Trainer", lambda: theirs(model, shape, device))
    yield row("rehearsal", way(rehearsed=REHEARSED_SHARE))
    importance: dict[str, Weight]
    importance, lines = fishers(model, shape, device)
    for form in ("float32", "factored"):
        importance = kept(importance, form)  # and the one before is gone
        anchor = anchor_of(model, importance)
        yield row(f"EWC, {form}", way(anchor))
        yield row(f"EWC, {form}, rehearsal", way(anchor, REHEARSED_SHARE))
        lines.append(pass_line(model, shape, anchor, form, copy, device))
        del anchor
    yield ""
    yield from lines
    yield f"\n{time.perf_counter() - started:.0f} s in all."


def fishers(model: nn.Module, shape: Shape, device: str) -> tuple[dict[str, Weight], list[str]]:
    """The importance of what is held, and a line on each estimator's speed."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    names = set(held_names(model, shape))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
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
    """Where the model is, held by the importance."""
    parameters = dict(model.named_parameters())
    return QuadraticAnchor({n: parameters[n] for n in importance}, importance, STRENGTH)


def pass_line(
    model: nn.Module, shape: Shape, anchor: QuadraticAnchor, form: str, copy: float, device: str
) -> str:
    """EWC's pass by itself: the fewest bytes that it must move, over the time that it takes."""
    if shape.adapt == "lora":
        held = [dict(model.named_parameters())[name] for name in anchor.names]
        size = sum(p.numel() for p in held)
        return f"\nEWC, {form}: {size / 1e9:.2f} B weights are held."
    parameters = {n: p for n, p in model.named_parameters() if n in anchor.names}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    seconds = clocked(lambda: anchor.add_gradient(parameters), device)
    importance = {n: anchor.term(n, p)[2] for n, p in parameters.items()}
    state = num_bytes(importance)
    least = state + sum(4 * p.nbytes for p in parameters.values())  # theta, anchor, gradient twice
    weights = sum(p.nbytes for p in parameters.values())
    model.zero_grad(set_to_none=True)
    return (
        f"\nEWC, {form}: its pass takes {seconds * 1e3:.2f} ms, {least / seconds / 1e12:.2f} TB/s, "
        f"{least / seconds / copy:.0%} of a copy's. The importance is {state / GIB:.3f} GiB, "
        f"{state / weights:.1%} of the weights' bytes."
    )


def kernels() -> str:
    """Which Mamba-2 the models run."""
    try:
        import causal_conv1d
        import mamba_ssm
    except ImportError:
        return "Mamba-2 in plain PyTorch (mamba-ssm and causal-conv1d are not here)"
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
        f"product runs at {product / 1e12:.1f} TFLOP/s, a copy at {copy / 1e12:.2f} TB/s."
    )
    for shape in TOYS if given.cpu else SHAPES:
        if given.only in shape.name:
            yield from measured(shape, device, product, copy)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
