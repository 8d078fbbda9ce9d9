"""The first model of a stream: from random weights on the first periods, once for each seed.

Also how a model is trained from scratch on any periods, which the `scratch` arms do at each update.
Called by `updater.study.pool`'s workers and by `updater.study.students`.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from store.manifest import Manifest
from updater.errors import UpdateError
from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.nemotron.saving import save_tensors
from updater.settings import Settings
from updater.study import records
from updater.study.job import First, seeded
from updater.study.replay import Outcomes
from updater.study.results import Stage
from updater.study.stream import Stream
from updater.train.fit import Fit, fit
from updater.train.guards import Guards
from updater.train.lesson import Lesson
from updater.train.record import Watch

TRACE = "trace.safetensors"

Scores = dict[str, tuple[int, int]]


@dataclasses.dataclass
class Model:
    """A model in memory with its tokenizer."""

    network: NemotronHForCausalLM
    tokenizer: PreTrainedTokenizerFast


def prepare(first: First, tell: Callable[[], None]) -> Stage:
    """The first model's checkpoint is in `first.place`, and its stage is returned; made once.
    `tell` has nothing to hear: it is no update.

    Raises:
        UpdateError: it diverged.
        InputError: an architecture that can't be built.
    """
    if (known := records.first_stage(first)) is not None:
        return known
    settings, place = seeded(first.settings, first.seed), first.place
    started = time.monotonic()
    model, done = from_scratch(
        settings, first.stream, first.stream.span.first, place, trace=first.trace
    )
    seconds = time.monotonic() - started
    checkpoint.export(model.network, place / "initial", place / "checkpoint")
    shutil.rmtree(place / "initial")
    _write_trace(done, place / TRACE)
    stage = Stage(
        period=first.stream.span.first[-1],
        scores=scores(model, first.stream, settings),
        steps=done.num_steps,
        examples=done.num_examples,
        tokens=done.num_tokens,
        seconds=seconds,
    )
    records.write_first(first, stage, Manifest.of(place / "checkpoint").digest)
    return stage


def attempt(first: First, tell: Callable[[], None]) -> str:
    """`prepare`, and why there can be no such first model: its training diverged. "" where it is
    there. Raises: InputError, as `prepare`."""
    try:
        prepare(first, tell)
    except UpdateError as error:
        return str(error)
    return ""


def from_scratch(
    settings: Settings,
    stream: Stream,
    periods: Sequence[str],
    folder: Path,
    *,
    trace: str = "",
    begun: Callable[[NemotronHForCausalLM], Guards] | None = None,
) -> tuple[Model, Fit]:
    """A model that has learnt these periods from random weights, as `updater scratch` trains one:
    with a tokenizer of their texts, unless one is configured. `folder/initial` is what it began as.

    Args:
        begun: is given the random weights, may change them, and says what guards their training.

    Raises: as `prepare`.
    """
    examples = pa.concat_tables(stream.train(period) for period in periods)
    prompts, completions = (examples[name].to_pylist() for name in ("prompt", "completion"))
    initial = checkpoint.create(
        settings.model.architecture,
        (p + c for p, c in zip(prompts, completions, strict=True)),
        folder / "initial",
        vocabulary_size=settings.model.vocabulary_size,
        tokenizer=settings.model.tokenizer,
        seed=settings.training.seed,
    )
    model = Model(*checkpoint.load(initial))
    longest = settings.model.max_length_tokens
    thinking = settings.training.train_thinking
    lesson = Lesson.of(
        model.tokenizer, examples, None, max_length_tokens=longest, thinking=thinking
    )
    done = fit(
        model.network,
        lesson,
        training=settings.training_from_scratch,
        guards=Guards() if begun is None else begun(model.network),
        folder=emptied(folder / "training"),
        watch=Watch(progress=False),
        trace=trace,
    )
    shutil.rmtree(folder / "training")
    return model, done


def trained(first: First, stage: Stage) -> Fit:
    """What `fit` said when the first model was trained, as far as it was asked to record it."""
    found = load_file(first.place / TRACE)
    parts: dict[str, dict[str, torch.Tensor]] = {"trace": {}, "moved": {}}
    for name, tensor in found.items():
        part, _, parameter = name.partition("/")
        parts[part][parameter] = tensor
    told = (stage.steps, stage.examples, stage.tokens, stage.seconds)
    return Fit(*told, (), (), trace=parts["trace"], moved=parts["moved"])


def _write_trace(done: Fit, path: Path) -> None:
    tensors = {f"trace/{name}": tensor for name, tensor in done.trace.items()}
    tensors |= {f"moved/{name}": tensor for name, tensor in done.moved.items()}
    save_tensors({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)


def scores(model: Model, stream: Stream, settings: Settings) -> Scores:
    """Period -> (right answers, holdout examples), of every period of the stream."""
    return counted(answers(model, stream, settings))


def counted(answered: Outcomes) -> Scores:
    """Period -> (right answers, holdout examples)."""
    return {p: (sum(right for _, right in some), len(some)) for p, some in answered.items()}


def answers(model: Model, stream: Stream, settings: Settings) -> Outcomes:
    """Period -> (id, right) of each holdout example, of every period of the stream."""
    asked = ("id", "prompt", "completion", "messages")
    holdouts = [
        table.select([name for name in asked if name in table.column_names])
        for table in map(stream.holdout, stream.data)
    ]
    found = outcomes(
        model.network,
        model.tokenizer,
        pa.concat_tables(holdouts),
        batch_size=settings.evaluation.batch_size,
        max_length_tokens=settings.model.max_length_tokens,
    )["correct"].to_pylist()
    answered = {}
    start = 0
    for period, holdout in zip(stream.data, holdouts, strict=True):
        rights = found[start : start + len(holdout)]
        answered[period] = list(zip(holdout["id"].to_pylist(), rights, strict=True))
        start += len(holdout)
    return answered


def emptied(folder: Path) -> Path:
    """The folder, with nothing of a run that was killed in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
