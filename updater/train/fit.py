"""Fine-tuning with Lightning: new and rehearsed examples in every batch, an anchor, exact resume.

Changes the model it is given and writes its own state in one folder; no evaluation, no export, no
tracking. Called by the train step of `updater.pipeline` and by benchmarks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM

from updater.errors import InputError
from updater.nemotron import kernel_inputs, packing
from updater.nemotron.load import ExpertLoad
from updater.progress import Progress
from updater.settings import TrainingSettings
from updater.train.adapt import adapted, freeze
from updater.train.encode import PADDING
from updater.train.guards import Guards
from updater.train.learner import Learner
from updater.train.lesson import Lesson
from updater.train.loop import train
from updater.train.ranks import ALONE, Ranks
from updater.train.record import Record, Watch
from updater.train.saver import Saver, fingerprint
from updater.train.schedule import Plan
from updater.train.shards import gathered
from updater.train.state import Counters
from updater.train.tracers import TRACERS


@dataclass(frozen=True)
class Fit:
    """What a finished training run did, resumed or not.

    `losses`: the mean loss per completion token of each optimizer step, nats, without the
    penalty. `too_long`: the ids of the examples that were left out. `seconds`: without those of
    steps that a kill made vain. `trace`: name of a trained parameter -> float32, what was recorded
    on the way: the Fisher that the optimizer's accumulator has (`fisher.from_second_moment`), or
    SI's omega, and then `moved` says how far each weight went. `experts`: layer of experts, by its
    released name -> how many tokens each of them got, padding left out.
    """

    num_steps: int
    num_examples: int
    num_tokens: int
    seconds: float
    losses: tuple[float, ...]
    too_long: tuple[str, ...]
    trace: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)
    moved: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)
    experts: Mapping[str, list[int]] = field(default_factory=dict)


def fit(
    model: NemotronHForCausalLM,
    lesson: Lesson,
    *,
    training: TrainingSettings,
    guards: Guards,
    folder: Path,
    watch: Watch,
    trace: str = "",
    ranks: Ranks = ALONE,
) -> Fit:
    """`model` has learnt the new examples of `lesson`, reminded of the rehearsed ones.

    Each epoch passes once over the new and the rehearsed examples, in their ratio in every batch
    of `training.batch_size`. The loss is the mean negative log-likelihood per completion token
    (end of sequence included) of an optimizer step's examples.

    `folder` keeps the run's state every `training.checkpoint_every_steps` steps and at the end.
    Called again with the same arguments after a kill, training goes on from there; on a CPU the
    weights end bit for bit as if it had never stopped, and `watch` is told. A state of other
    arguments is not used.

    `trace`: what is recorded on the way, for `Fit.trace`: "" nothing, "optimizer", or "path". Also
    there where a finished run is asked again.

    `ranks`: the processes that call it together, alike but for `watch`. Each takes its part of
    every batch; the weights end as one's alone would, to rounding. The first has what was recorded.

    Under `training.adapt = "lora"` low-rank factors learn it, and are merged into the weights at
    the end: the model has the same parameters as before, with other values.

    Raises:
        InputError: as `check`; a trace is asked of LoRA; or a row is longer than the kernels reach.
        UpdateError: the loss or a weight is no number, or the loss has diverged.
    """
    _check(training, trace, ranks)
    freeze(model, training)
    plan = Plan(lesson, training)
    _check_rows(model, plan, training, ranks)
    counted = ExpertLoad(model, padding=PADDING, total=ranks.total)
    with adapted(model, training) as adaptation, counted as load:
        guards = replace(guards, anchor=adaptation.hold(guards.anchor))
        learner = Learner(
            model, training, num_steps=plan.num_steps, guards=guards, load=load, ranks=ranks
        )
        try:
            tracer = TRACERS[trace](learner, plan)
            of_run = fingerprint(training, lesson, dict(model.named_parameters()), guards) + trace
            saver = Saver(folder, of_run, training, ranks)
            restored = saver.restore(learner)
            if ranks.first and 0 < restored[0].num_steps < plan.num_steps:
                watch.on_resumed(restored[0].num_steps, plan.num_steps)
            done = restored[0].num_examples
            bar = Progress(watch.title, plan.num_examples, done=done, shown=watch.progress)
            with bar as progress:
                learner.record = record = _record(learner, plan, restored, watch, progress)
                train(learner, plan, training, saver)
            traced, moved = (_at_first(recorded, ranks) for recorded in tracer())
        finally:
            learner.let_go()
    return Fit(
        **asdict(record.counters),
        losses=tuple(record.losses),
        too_long=lesson.examples.too_long,
        trace=traced,
        moved=moved,
        experts=load.tokens(),
    )


def _record(
    learner: Learner,
    plan: Plan,
    restored: tuple[Counters, list[float]],
    watch: Watch,
    progress: Progress,
) -> Record:
    return Record(
        restored,
        plan=plan,
        vocabulary_size=learner.model.config.vocab_size,
        measured=learner.measured,
        ranks=learner.ranks,
        on_metrics=watch.on_metrics,
        progress=progress,
    )


def _at_first(recorded: Mapping[str, torch.Tensor], ranks: Ranks) -> Mapping[str, torch.Tensor]:
    if ranks.mesh is None:
        return recorded
    whole = ((name, gathered(tensor, kept=ranks.first)) for name, tensor in recorded.items())
    return {name: tensor for name, tensor in whole if tensor is not None}


def _check(training: TrainingSettings, trace: str, ranks: Ranks) -> None:
    if training.packing:
        packing.check()
    if trace and training.adapt == "lora":
        raise InputError(
            f'the trace "{trace}" of a training with training.adapt = "lora"',
            "only low-rank factors are trained: nothing is recorded of the full weights",
            'take training.adapt = "full", or a regularizer that is estimated afterwards',
        )
    check(training, ranks)


def _check_rows(
    model: NemotronHForCausalLM, plan: Plan, training: TrainingSettings, ranks: Ranks
) -> None:
    if training.packing:
        what = "a row of several texts (training.packing = true)"
        cure = "lower training.batch_size and raise training.accumulate, or take packing = false"
    else:
        what, cure = "an example", ""
    longest = plan.longest_row(ranks.world)
    kernel_inputs.check_row(model.config, longest, what=what, cure=cure)


def check(training: TrainingSettings, ranks: Ranks = ALONE) -> None:
    """So many processes on this machine can train so.

    Raises:
        InputError: the settings ask for another number of them, or it has no such precision.
    """
    if training.num_processes != ranks.world:
        what = f"training.devices = {training.devices}"
        if training.nodes != 1:
            what += f", training.nodes = {training.nodes}"
        raise InputError(what, f"here training runs on {ranks.world} of them", "set it to 1")
    if training.precision == "16-mixed" and not torch.cuda.is_available():
        # Lightning would take bfloat16 instead, with a warning.
        raise InputError(
            'training.precision = "16-mixed"',
            "float16 is trained on a GPU, and here is none",
            "take 32-true or bf16-mixed",
        )
