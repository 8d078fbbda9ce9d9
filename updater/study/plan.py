"""What a study is to do: its streams, arms and seeds. Data, checked by `updater.study.file`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from updater.settings import Settings
from updater.study.replay import ReplaySettings
from updater.study.ways import Way

KINDS = ("update", "scratch", "frozen", "average", "avalanche", "compress")
STILL = ("frozen", "compress")
"""The kinds that learn no update: a stream of these alone needs none."""

CONTROLS = ("none", "scratch")
EVERY = ("each", "last")
SECTIONS = ("model", "rehearsal", "regularizer", "training", "scratch", "evaluation")
"""Of the settings: those that every run obeys."""
OF_SETTINGS = (*SECTIONS, "compression")
"""Those that `[settings]` may have; the last is of arms that compress alone."""
ARM_SECTIONS = ("rehearsal", "regularizer", "training", "scratch", "compression")
"""Those of them that an arm may have of its own."""
REFERENCE = "rehearsal"
"""The arm that others are compared with, where there is one: what paper A found best alone."""


def reference(arms: Sequence[str]) -> str:
    """Which of these arms the others are compared with: `REFERENCE`, or else the first."""
    return REFERENCE if REFERENCE in arms else arms[0]


@dataclass(frozen=True)
class Span:
    """The periods of a stream, in order: the first model learns `first` at once, then `then` one
    by one."""

    first: tuple[str, ...]
    then: tuple[str, ...]

    @property
    def periods(self) -> tuple[str, ...]:
        """All of them."""
        return self.first + self.then


@dataclass(frozen=True)
class Validation:
    """The stream on which sweeps are decided, with seeds of its own. `holdout_fraction` of each
    period's train examples is held back from learning, to be scored on."""

    span: Span
    seeds: tuple[int, ...]
    holdout_fraction: float


@dataclass(frozen=True)
class Arm:
    """One way to keep a model up to date.

    `kind`: `update` fine-tunes as the service does; `scratch` trains a new model on everything at
    each update, or with `every = "last"` at the last one only; `frozen` learns nothing; `average`
    fine-tunes and takes `weight` of the new weights and the rest of the old; `avalanche` runs
    Avalanche's own `strategy`, which takes the place of the regularizer's method and rehearsal's
    policy, with the regularizer's strength and a memory of rehearsal's budget; `compress` makes the
    first model smaller by `settings.compression` and learns nothing, or with `control = "scratch"`
    trains a new model of the shape that this comes to. `equal_compute`: as
    many optimizer steps as the new examples alone would take, so that rehearsed ones displace new
    ones. `sweep`: settings and the values to choose from on the validation stream.
    """

    name: str
    kind: str
    settings: Settings
    every: str = "each"
    weight: float = 0.5
    equal_compute: bool = False
    strategy: str = ""
    control: str = "none"
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """What the arm is, beside its settings: option -> value."""
        apart = ("name", "settings", "sweep")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}

    @property
    def starts_anew(self) -> bool:
        """It trains random weights, which takes longest of all."""
        return self.kind == "scratch" or self.control == "scratch"

    @property
    def way(self) -> Way | None:
        """How it compresses; None: it does not."""
        return Way(self.settings.compression, self.control) if self.kind == "compress" else None


@dataclass(frozen=True)
class Pair:
    """Two arms, by name, that the study sets out to compare: `arm` is measured against
    `reference`. No run depends on it."""

    arm: str
    reference: str


@dataclass(frozen=True)
class Study:
    """`settings` are those of the first model, which all arms of a seed start from. `processes`: 0
    for as many as there are GPUs, or cores. `threads`: of each process. `replay`: the gate judges
    each update of the reported stream; None: nothing is judged. `pairs`: of these arms."""

    name: str
    seeds: tuple[int, ...]
    span: Span
    validation: Validation | None
    arms: tuple[Arm, ...]
    settings: Settings
    processes: int = 0
    threads: int = 1
    replay: ReplaySettings | None = None
    pairs: tuple[Pair, ...] = ()

    @property
    def reference(self) -> str:
        """The arm that the others are compared with, whichever of them ran. Where none is called
        `REFERENCE`, what is compressed is held against what is not."""
        names = [arm.name for arm in self.arms]
        if REFERENCE not in names and self.uncompressed:
            return self.uncompressed
        return reference(names)

    @property
    def uncompressed(self) -> str:
        """The arm that those that compress are told against: the first that stays the first model;
        "" where none compresses."""
        frozen = [arm.name for arm in self.arms if arm.kind == "frozen"]
        return frozen[0] if frozen and any(arm.way for arm in self.arms) else ""

    @property
    def scratch(self) -> str:
        """The arm that updates are told in percent of: the first that trains from scratch at each
        update, else the first that does at the last alone; "" without one."""
        anew = [arm for arm in self.arms if arm.kind == "scratch"]
        return min(anew, key=lambda arm: EVERY.index(arm.every)).name if anew else ""
