"""What the stages of an update take of a machine, reckoned before there is any of it.

Each stage's own reckoning is `updater.train`'s. Called by `updater.doctor` and `updater.refusals`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from updater.settings import EvaluationSettings, RegularizerSettings, TrainingSettings

if TYPE_CHECKING:
    import torch

    from updater.train.asking_footprint import AskingFootprint
    from updater.train.footprint import Footprint
    from updater.train.host_footprint import HostFootprint
    from updater.train.importance_footprint import ImportanceFootprint


@dataclass(frozen=True)
class Machine:
    """What trains. `device`: "cuda" or "cpu"; `names`: of the GPUs; `memory_bytes`: of one GPU, or
    of the whole machine. `kernels`: the fused Mamba-2 is there, and has a GPU to run on.
    `free_bytes`: of that memory now, of the GPU that has least, where it was asked; what another
    process holds of it may be gone when an update runs. `host_bytes`: of main memory beside GPUs;
    None: that is `memory_bytes`, or not known."""

    device: str
    names: tuple[str, ...]
    memory_bytes: int
    num_cores: int
    kernels: bool
    free_bytes: int | None = None
    host_bytes: int | None = None

    def share(self, training: TrainingSettings) -> int:
        """Of each process. Those without GPUs share the machine's."""
        return self.memory_bytes // (1 if self.names else training.devices)


@dataclass(frozen=True)
class Stages:
    """What each stage takes of each device, and all of main memory beside it; None: there is no
    such stage, or no such memory. `answers`: of what is asked before and after."""

    training: "Footprint"
    importance: "ImportanceFootprint | None"
    head: "Footprint | None"
    answers: "AskingFootprint"
    host: "HostFootprint | None"

    @property
    def _on_devices(self) -> "Mapping[str, Footprint | ImportanceFootprint | AskingFootprint]":
        stages = {
            "its training": self.training,
            "the estimate of its importance": self.importance,
            "its head's alignment": self.head,
            "its evaluation": self.answers,
        }
        return {name: stage for name, stage in stages.items() if stage is not None}

    @property
    def least(self) -> tuple[int, str]:
        """The most that is there of one device however short the texts are, and in which stage."""
        return max((stage.least, name) for name, stage in self._on_devices.items())

    @property
    def peak(self) -> int:
        """The most of one device at any time."""
        return max(stage.peak for stage in self._on_devices.values())

    def parts(self, stage: str) -> dict[str, int]:
        """Of a stage, by the name of its field here; {}: there is none."""
        found = getattr(self, stage)
        return {} if found is None else asdict(found)


def stages(
    fields: Mapping[str, Any],
    machine: Machine,
    training: TrainingSettings,
    regularizer: RegularizerSettings,
    length: int,
    *,
    released: "torch.dtype",
) -> Stages:
    """Of an update of a checkpoint with these fields of a config.json, whose weights lie on the
    disk in the dtype `released`, with texts of `length` tokens."""
    import torch

    from updater.train.adapt import resting
    from updater.train.footprint import footprint
    from updater.train.head_footprint import head_footprint
    from updater.train.host_footprint import host_footprint
    from updater.train.importance_footprint import importance_footprint

    if regularizer.penalty_strength == 0:  # nothing holds it, and nothing is estimated
        regularizer = replace(regularizer, method="none")
    lora = training.adapt == "lora"
    frozen = resting(training, released) if lora else torch.float32
    beside, kernels = training.beside_training, machine.kernels
    return Stages(
        training=footprint(
            fields,
            training=training,
            regularizer=regularizer if machine.names else replace(regularizer, offload=False),
            length=length,
            frozen_dtype=frozen,
            released_dtype=released,
            kernels=kernels,
        ),
        importance=importance_footprint(
            fields,
            training=beside,
            regularizer=regularizer,
            length=length,
            frozen_dtype=frozen,
            kernels=kernels,
        ),
        head=head_footprint(
            fields,
            training=training,
            length=length,
            resting_dtype=resting(training, released),
            kernels=kernels,
        ),
        answers=answers(fields, machine, training, length, released),
        host=None
        if not machine.names
        else host_footprint(
            fields, training=training, regularizer=regularizer, released_dtype=released
        ),
    )


def answers(
    fields: Mapping[str, Any],
    machine: Machine,
    training: TrainingSettings,
    length: int,
    released: "torch.dtype",
) -> "AskingFootprint":
    """What asking the same takes of each device, in the dtype that it is served in."""
    import torch

    from updater.train.asking_footprint import asking_footprint, states_of_token
    from updater.train.portions import most_tokens

    dtype = released if machine.names else torch.float32  # as `nemotron.dtypes.served_dtype`
    most = max(most_tokens(states_of_token(fields, dtype)), length)

    return asking_footprint(
        fields,
        training=training.beside_training,
        dtype=dtype,
        num_tokens=min(EvaluationSettings.batch_size * length, most),
    )
