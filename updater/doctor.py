"""What a checkpoint is, and whether, how and how fast this machine can update it.

Looks and changes nothing. Called by the command line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from updater import training_core
from updater.errors import InputError
from updater.nemotron import heads
from updater.nemotron.describe import Description, describe
from updater.nemotron.validate import Contents, check
from updater.reckoning import Machine, stages
from updater.settings import RegularizerSettings, TrainingSettings, lora_refusal
from updater.settings.regularizing import METHODS


@dataclass(frozen=True)
class Way:
    """One way to update, by so many `devices`, and what it takes of each. `parts`: of the peak of
    its training, in bytes; `importance_parts`, `head_parts`, `answers_parts`: of the estimate
    before it, of the alignment of a multi-token-prediction head after it, and of what is asked;
    empty where there is none. `peak_bytes`: of whichever is largest. `host_parts` and `host_bytes`:
    of main memory beside GPUs, empty and 0 where there are none. `lora_experts`: heeded by "lora".

    `fits`: the machine, with nothing else on it. `fits_now`: beside what other processes hold of
    its GPUs now."""

    adapt: str
    regularizer: str
    format: str
    offload: bool
    precision: str
    batch_size: int
    accumulate: int
    activation_checkpointing: bool
    devices: int
    strategy: str
    gather_gib: float
    train_routers: bool
    lora_experts: bool
    peak_bytes: int
    parts: Mapping[str, int]
    importance_parts: Mapping[str, int]
    head_parts: Mapping[str, int]
    answers_parts: Mapping[str, int]
    host_bytes: int
    host_parts: Mapping[str, int]
    fits: bool
    fits_now: bool


@dataclass(frozen=True)
class Diagnosis:
    """`ways`: those that were asked about, the settings' own first, each by `nodes` such machines
    together. `steps_per_hour`: of the first one that fits; None where none does, or it was not
    timed."""

    model: Description
    machine: Machine
    batch_size: int
    length: int
    nodes: int
    ways: tuple[Way, ...]
    steps_per_hour: float | None


def diagnose(
    folder: Path,
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    timed: bool = True,
) -> Diagnosis:
    """The checkpoint in the folder and this machine, by these settings.

    Args:
        length: tokens of every example.
        timed: a step is timed, which takes some seconds.

    Raises:
        InputError: the folder holds no checkpoint that can be trained; which one is needed. Or
            it has no head, which is to be aligned, or there is no torch here.
    """
    training_core.check("doctor")
    contents = check(folder)
    heads.check(training, contents.config, contents.entries, where=str(folder))
    described = describe(folder, contents)
    if 0 < described.longest < length:
        raise InputError(
            f"examples of {length} tokens",
            f"the checkpoint takes {described.longest} at most",
            "give a smaller --length, or lower model.max_length_tokens",
        )
    _check_reach(contents, length)
    machine = this_machine()
    if machine.free_bytes is None:
        machine = replace(machine, free_bytes=_free_bytes())
    own, *others = _ways(training, regularizer, machine)
    found = (_with_room_in_the_host(contents, machine, other, length) for other in others)
    asked = list(dict.fromkeys([own, *found]))
    ways = [_way(contents, machine, *settings, length) for settings in asked]
    pace = None
    first = next((number for number, way in enumerate(ways) if way.fits), None)
    if first:  # not the settings' own: some of the changes on the way to it may not be needed
        asked[first], ways[first] = _slimmed(contents, machine, asked[0], asked[first], length)
    if first is not None and timed:
        pace = _steps_per_hour(contents, machine, asked[first][0], length)
    return Diagnosis(
        model=described,
        machine=machine,
        batch_size=training.batch_size,
        length=length,
        nodes=training.nodes,
        ways=tuple(ways),
        steps_per_hour=pace,
    )


def _check_reach(contents: Contents, length: int) -> None:
    from updater.nemotron.kernel_inputs import check_row
    from updater.nemotron.presets import transformers_config

    check_row(
        transformers_config(contents.config),
        length,
        what="examples",
        cure="give a smaller --length, or lower model.max_length_tokens",
    )


def this_machine() -> Machine:
    """The GPUs that PyTorch sees, else the cores."""
    import torch

    from updater.nemotron.kernels import are_fused

    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return Machine("cpu", (), psutil.virtual_memory().total, cores, kernels=False)
    numbers = range(torch.cuda.device_count())
    return Machine(
        device="cuda",
        names=tuple(torch.cuda.get_device_name(number) for number in numbers),
        memory_bytes=min(torch.cuda.get_device_properties(n).total_memory for n in numbers),
        num_cores=cores,
        kernels=are_fused(),
        host_bytes=psutil.virtual_memory().total,
    )


def _free_bytes() -> int | None:
    """Of the GPU that has least free, with what this process holds of it and could use again; None
    where there is none. Asking takes some memory of every GPU until this process ends, so that it
    is not asked before a training."""
    import torch

    numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return min(
        (torch.cuda.mem_get_info(n)[0] + torch.cuda.memory_reserved(n) for n in numbers),
        default=None,
    )


_Asked = tuple[TrainingSettings, RegularizerSettings]
_COSTLY = (
    (1, "offload"),
    (0, "activation_checkpointing"),
    (0, "gather_gib"),
    (1, "format"),
)
"""Changes that cost an update time or exactness, the costliest first; each of the training (0) or
of the regularizer (1)."""

_LADDER: tuple[Mapping[str, Any], ...] = (
    {"batch_size": 1},
    {"activation_checkpointing": True},
    {"gather_gib": 1.0},
    {"format": "factored"},
    {"offload": True},
    {"strategy": "fsdp"},
    {"gather_gib": 1.0},
    {"adapt": "lora", "train_routers": False, "router_bias_rate": 0.0, "strategy": "auto"},
    {"strategy": "fsdp"},
    {"gather_gib": 1.0},
    {"lora_experts": False},
)
"""What is changed, one thing on top of the other, until an update fits. A smaller batch_size comes
with a larger accumulate: steps of as many examples, in more passes. fsdp is by all GPUs of the
machine, of all weights first, and then under LoRA; gather_gib is heeded there alone."""


def _ways(
    training: TrainingSettings, regularizer: RegularizerSettings, machine: Machine
) -> list[tuple[TrainingSettings, RegularizerSettings]]:
    """The settings, then each cheaper way, every one once."""
    own, found = training, [(training, regularizer)]
    mixed = ({"precision": "bf16-mixed"},) if machine.device == "cuda" else ()
    for changes in (*mixed, *_LADDER):
        if "offload" in changes and machine.device != "cuda":
            continue  # where the host's memory is all that there is
        if changes.keys() <= {"format", "offload"}:
            method = METHODS[regularizer.method]
            if "format" in method.heeds or ("offload" in changes and method.importance):
                regularizer = replace(regularizer, **changes)
        elif "batch_size" in changes:
            training = _in_passes(own, training, _sizes(own, training.num_processes)[0])
        elif changes.get("strategy") == "fsdp":
            devices = max(len(machine.names), training.devices)
            if devices > 1 and (devices > training.devices or not training.sharded):
                training = _in_passes(own, training, _sizes(own, devices)[0])
                training = replace(training, devices=devices, **changes)
        elif "gather_gib" in changes:
            if training.sharded and training.gather_gib > changes["gather_gib"]:
                training = replace(training, **changes)
        elif "lora_experts" in changes:
            if training.adapt == "lora":
                training = replace(training, **changes)
        elif "adapt" not in changes or lora_refusal(regularizer) is None:
            training = replace(training, **{"gather_gib": own.gather_gib} | changes)
        if (training, regularizer) not in found:
            found.append((training, regularizer))
    return found


def _sizes(training: TrainingSettings, devices: int) -> list[int]:
    """Of examples a pass that make whole steps, ascending; with one for each device where there are
    as many."""
    own = training.batch_size
    return [size for size in range(min(devices, own), own + 1) if own % size == 0]


def _in_passes(own: TrainingSettings, training: TrainingSettings, size: int) -> TrainingSettings:
    """The training with `own` steps, in passes of so many examples."""
    passes = own.accumulate * own.batch_size // size
    return replace(training, batch_size=size, accumulate=passes)


def _with_room_in_the_host(
    contents: Contents, machine: Machine, asked: _Asked, length: int
) -> _Asked:
    """The settings, without offloading where main memory can't hold what is offloaded."""
    training, regularizer = asked
    if machine.host_bytes is None or not regularizer.offload:
        return asked
    from updater.train.footprint import SPARE

    fits = _way(contents, machine, *asked, length).host_bytes <= SPARE * machine.host_bytes
    return asked if fits else (training, replace(regularizer, offload=False))


def _slimmed(
    contents: Contents, machine: Machine, own: _Asked, fitting: _Asked, length: int
) -> tuple[_Asked, Way]:
    """`fitting`, and each costly change in it from one's `own` settings taken back where it fits
    without; then in as few passes as fit."""
    way = _way(contents, machine, *fitting, length)
    for section, name in _COSTLY:
        if getattr(fitting[section], name) == getattr(own[section], name):
            continue
        back = {name: getattr(own[section], name)}
        less = (
            (replace(fitting[0], **back), fitting[1])
            if section == 0
            else (fitting[0], replace(fitting[1], **back))
        )
        found = _way(contents, machine, *less, length)
        if found.fits:
            fitting, way = less, found
    training, regularizer = fitting
    for size in _sizes(own[0], training.num_processes):
        larger = _in_passes(own[0], training, size)
        found = _way(contents, machine, larger, regularizer, length)
        if not found.fits:
            break
        fitting, way = (larger, regularizer), found
    return fitting, way


def _way(
    contents: Contents,
    machine: Machine,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
) -> Way:
    from updater.nemotron.dtypes import released_dtype
    from updater.train.footprint import CONTEXT_BYTES, SPARE

    released = released_dtype(contents)
    found = stages(contents.config, machine, training, regularizer, length, released=released)
    peak = found.peak + (CONTEXT_BYTES if machine.names else 0)
    host = found.host.peak if found.host else 0
    has_host = host if machine.host_bytes is None else SPARE * machine.host_bytes
    fits = peak <= SPARE * machine.share(training) and host <= has_host
    free = machine.share(training) if machine.free_bytes is None else machine.free_bytes
    return Way(
        adapt=training.adapt,
        regularizer=regularizer.method,
        format=regularizer.format,
        offload=regularizer.offload,
        precision=training.precision,
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        activation_checkpointing=training.activation_checkpointing,
        devices=training.num_processes,
        strategy="fsdp" if training.sharded else "ddp",
        gather_gib=training.gather_gib,
        train_routers=training.train_routers,
        lora_experts=training.lora_experts,
        peak_bytes=peak,
        parts=found.parts("training"),
        importance_parts=found.parts("importance"),
        head_parts=found.parts("head"),
        answers_parts=found.parts("answers"),
        host_bytes=host,
        host_parts=found.parts("host"),
        fits=fits,
        fits_now=fits and found.peak <= SPARE * free,  # this process has its context already
    )


def _steps_per_hour(
    contents: Contents, machine: Machine, training: TrainingSettings, length: int
) -> float | None:
    import torch

    from updater.train.adapt import frozen_dtype
    from updater.train.pace import step_seconds

    try:
        seconds = step_seconds(
            contents.config,
            training=training,
            length=length,
            device=machine.device,
            frozen_dtype=frozen_dtype(training, contents),
        )
    except torch.OutOfMemoryError:
        return None
    return 3600 / seconds
