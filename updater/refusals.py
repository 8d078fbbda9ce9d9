"""What can't fit this machine is refused before any work, and before anything is copied.

Only what is there however short the texts are is counted, so that nothing is refused that could be
done: `updater doctor` tells what a step takes in all. Called by `updater.steps.room`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from updater import doctor
from updater.errors import InputError
from updater.nemotron.layout import tensor_shapes
from updater.nemotron.validate import Contents, check
from updater.reckoning import Machine, Stages, answers, stages
from updater.settings import RegularizerSettings, TrainingSettings

_MOST_PER_BYTE = 16
"""Nothing takes so much of a device, or of main memory: of each byte on the disk, in bfloat16,
float32 weights, gradients, two moments, an anchor and an importance are 12."""


def refuse_too_large(
    folder: Path, *, training: TrainingSettings, regularizer: RegularizerSettings
) -> None:
    """An update of the checkpoint in the folder by these settings may fit this machine.

    Raises:
        InputError: it can't.
    """
    from updater.nemotron.dtypes import released_dtype

    contents, machine = check(folder), doctor.this_machine()
    if _holds(machine, training, _MOST_PER_BYTE * _on_disk(folder, contents)):
        return
    if (regularizer.method, regularizer.terms) == ("ewc", "periods"):
        # There may be a single term yet, which is anchored at released weights as this one's are.
        regularizer = replace(regularizer, method="online_ewc")
    found = stages(
        contents.config, machine, training, regularizer, 1, released=released_dtype(contents)
    )
    cure = f"`updater doctor --model {folder}` tells which settings fit"
    _refuse(found, machine, training, str(folder), cure)


def refuse_first(fields: Mapping[str, Any], *, training: TrainingSettings, where: str) -> None:
    """The same of a first version, trained from random weights in the shape of these fields of a
    config.json, which nothing holds yet. `where`: what to call it.

    Raises:
        InputError: it can't.
    """
    import torch

    machine = doctor.this_machine()
    shapes = tensor_shapes(fields, where=where)
    if _holds(machine, training, 2 * _MOST_PER_BYTE * sum(map(math.prod, shapes.values()))):
        return
    nothing = RegularizerSettings(method="none")
    found = stages(fields, machine, training, nothing, 1, released=torch.float32)
    cure = "take a smaller model.architecture, or let more GPUs have a part each: training.devices"
    _refuse(found, machine, training, where, cure)


def refuse_unaskable(folder: Path, *, training: TrainingSettings) -> None:
    """The checkpoint in the folder, which is not trained, may be asked on this machine.

    Raises:
        InputError: it can't.
    """
    from updater.nemotron.dtypes import released_dtype

    contents, machine = check(folder), doctor.this_machine()
    if 4 * _on_disk(folder, contents) <= machine.share(training):
        return
    found = answers(contents.config, machine, training, 1, released_dtype(contents))
    has = machine.share(training)
    if found.least > has:
        each = "of each device" if machine.names else "of main memory for each process"
        raise InputError(
            f"{folder} takes {_gib(found.least)} {each} to be asked, which its evaluation does",
            f"this machine has {_gib(has)} of each",
            "take a larger one, or let more GPUs have a part of it each: training.devices, with"
            ' training.strategy = "fsdp"',
        )


def _refuse(
    found: Stages, machine: Machine, training: TrainingSettings, where: str, cure: str
) -> None:
    least, stage = found.least
    has = machine.share(training)
    if least > has:
        raise InputError(
            f"{where} takes {_gib(least)} of each device by these settings, in {stage}",
            f"this machine has {_gib(has)} of each",
            cure,
        )
    host = machine.host_bytes
    if found.host is not None and host is not None and found.host.least > host:
        raise InputError(
            f"{where} takes {_gib(found.host.least)} of main memory by these settings",
            f"this machine has {_gib(host)}",
            cure,
        )


def _holds(machine: Machine, training: TrainingSettings, num_bytes: int) -> bool:
    """So much, in the memory of each device and in main memory beside it."""
    host = machine.host_bytes
    return num_bytes <= machine.share(training) and (host is None or num_bytes <= host)


def _on_disk(folder: Path, contents: Contents) -> int:
    return sum((folder / name).stat().st_size for name in contents.headers)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.0f} GiB"
