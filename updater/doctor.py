"""What a checkpoint is, and whether, how and how fast this machine can update it.

Looks and changes nothing. Called by the command line.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from updater import training_core
from updater.errors import InputError
from updater.nemotron.describe import Description, describe
from updater.nemotron.validate import Contents, check
from updater.settings import RegularizerSettings, TrainingSettings, lora_refusal
from updater.settings.regularizing import METHODS

if TYPE_CHECKING:
    from updater.train.footprint import Footprint
    from updater.train.importance_footprint import ImportanceFootprint

_SPARE = 0.95
"""Of a device's memory, what an update may be reckoned to take: reckoned figures were up to 6 %
below what was measured (bench/results/gpu.md)."""


_MOST_PER_BYTE = 16


@dataclass(frozen=True)
class Machine:
    """What trains. `device`: "cuda" or "cpu"; `names`: of the GPUs; `memory_bytes`: of one GPU, or
    of the whole machine. `kernels`: the fused Mamba-2 is there, and has a GPU to run on."""

    device: str
    names: tuple[str, ...]
    memory_bytes: int
    num_cores: int
    kernels: bool


@dataclass(frozen=True)
class Way:
    """One way to update, by so many `devices`, and what it takes of each. `parts`: of the peak of
    its training, in bytes; `importance_parts`: of the estimate before it, empty where there is
    none. `peak_bytes`: of whichever is larger."""

    adapt: str
    regularizer: str
    format: str
    offload: bool
    precision: str
    activation_checkpointing: bool
    devices: int
    strategy: str
    train_routers: bool
    peak_bytes: int
    parts: Mapping[str, int]
    importance_parts: Mapping[str, int]
    fits: bool


@dataclass(frozen=True)
class Diagnosis:
    """`ways`: those that were asked about, the settings' own first. `steps_per_hour`: of the first
    one that fits; None where none does, or it was not timed."""

    model: Description
    machine: Machine
    batch_size: int
    length: int
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
            there is no torch here.
    """
    training_core.check("doctor")
    contents = check(folder)
    described = describe(folder, contents)
    if 0 < described.longest < length:
        raise InputError(
            f"examples of {length} tokens",
            f"the checkpoint takes {described.longest} at most",
            "give a smaller --length, or lower model.max_length_tokens",
        )
    _check_reach(contents, length)
    machine = this_machine()
    asked = _ways(training, regularizer, machine)
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
        ways=tuple(ways),
        steps_per_hour=pace,
    )


def refuse_too_large(
    folder: Path,
    *,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
) -> None:
    """An update of the checkpoint by these settings may fit this machine: asked before any work.

    Only what is there however short the texts are is counted, so that nothing is refused that
    could be done.

    Raises:
        InputError: it can't.
    """
    contents = check(folder)
    machine = this_machine()
    # Nothing takes so much: of each byte on the disk, in bfloat16, float32 weights, gradients,
    # two moments, an anchor and an importance are 12.
    on_disk = sum((folder / name).stat().st_size for name in contents.headers)
    if _MOST_PER_BYTE * on_disk <= _memory(machine, training):
        return
    found = _footprint(contents, machine, training, regularizer, length=1)
    weighing = _importance_footprint(contents, machine, training, regularizer, length=1)
    least = max(found.least, weighing.least if weighing else 0)
    if least > _memory(machine, training):
        gib = 2**30
        raise InputError(
            f"{folder} takes {least / gib:.0f} GiB of each device by these settings",
            f"this machine has {_memory(machine, training) / gib:.0f} GiB of each",
            f"`updater doctor --model {folder}` tells which settings fit",
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
    count = torch.cuda.device_count()
    return Machine(
        device="cuda",
        names=tuple(torch.cuda.get_device_name(number) for number in range(count)),
        memory_bytes=min(
            torch.cuda.get_device_properties(number).total_memory for number in range(count)
        ),
        num_cores=cores,
        kernels=are_fused(),
    )


_Asked = tuple[TrainingSettings, RegularizerSettings]
_COSTLY = ((1, "offload"), (0, "activation_checkpointing"), (1, "format"))
"""Changes that cost an update time or exactness, the costliest first; each of the training (0) or
of the regularizer (1)."""

_LADDER: tuple[Mapping[str, Any], ...] = (
    {"activation_checkpointing": True},
    {"format": "factored"},
    {"offload": True},
    {"strategy": "fsdp"},
    {"adapt": "lora", "train_routers": False, "router_bias_rate": 0.0, "strategy": "auto"},
)
"""What is changed, one thing on top of the other, until an update fits. fsdp is by all GPUs of the
machine."""


def _ways(
    training: TrainingSettings, regularizer: RegularizerSettings, machine: Machine
) -> list[tuple[TrainingSettings, RegularizerSettings]]:
    """The settings, then each cheaper way, every one once."""
    found = [(training, regularizer)]
    mixed = ({"precision": "bf16-mixed"},) if machine.device == "cuda" else ()
    for changes in (*mixed, *_LADDER):
        if "offload" in changes and machine.device != "cuda":
            continue  # where the host's memory is all that there is
        if changes.keys() <= {"format", "offload"}:
            method = METHODS[regularizer.method]
            if "format" in method.heeds or ("offload" in changes and method.importance):
                regularizer = replace(regularizer, **changes)
        elif changes.get("strategy") == "fsdp":
            devices = max(len(machine.names), training.devices)
            more = devices > training.devices or not training.sharded
            if devices > 1 and more and training.adapt == "full":
                training = replace(training, devices=devices, **changes)
        elif changes.get("adapt") != "lora" or lora_refusal(regularizer) is None:
            training = replace(training, **changes)
        if (training, regularizer) not in found:
            found.append((training, regularizer))
    return found


def _slimmed(
    contents: Contents, machine: Machine, own: _Asked, fitting: _Asked, length: int
) -> tuple[_Asked, Way]:
    """`fitting`, and each costly change in it from one's `own` settings taken back where it fits
    without."""
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
    return fitting, way


def _way(
    contents: Contents,
    machine: Machine,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
) -> Way:
    from updater.train.footprint import CONTEXT_BYTES

    found = _footprint(contents, machine, training, regularizer, length)
    weighing = _importance_footprint(contents, machine, training, regularizer, length)
    context = CONTEXT_BYTES if machine.names else 0
    peak = max(found.peak, weighing.peak if weighing else 0) + context
    return Way(
        adapt=training.adapt,
        regularizer=regularizer.method,
        format=regularizer.format,
        offload=regularizer.offload,
        precision=training.precision,
        activation_checkpointing=training.activation_checkpointing,
        devices=training.num_processes,
        strategy="fsdp" if training.sharded else "ddp",
        train_routers=training.train_routers,
        peak_bytes=peak,
        parts=asdict(found),
        importance_parts=asdict(weighing) if weighing else {},
        fits=peak <= _SPARE * _memory(machine, training),
    )


def _footprint(
    contents: Contents,
    machine: Machine,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
) -> "Footprint":
    from updater.nemotron.dtypes import released_dtype
    from updater.train.adapt import frozen_dtype
    from updater.train.footprint import footprint

    return footprint(
        contents.config,
        training=training,
        regularizer=regularizer if machine.names else replace(regularizer, offload=False),
        length=length,
        frozen_dtype=frozen_dtype(training, contents),
        released_dtype=released_dtype(contents),
        kernels=machine.kernels,
    )


def _importance_footprint(
    contents: Contents,
    machine: Machine,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
) -> "ImportanceFootprint | None":
    from updater.train.adapt import frozen_dtype
    from updater.train.importance_footprint import importance_footprint

    return importance_footprint(
        contents.config,
        training=training.on_one_node,
        regularizer=regularizer,
        length=length,
        frozen_dtype=frozen_dtype(training, contents),
        kernels=machine.kernels,
    )


def _memory(machine: Machine, training: TrainingSettings) -> int:
    """Of each process. Those without GPUs share the machine's."""
    return machine.memory_bytes // (1 if machine.names else training.devices)


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
