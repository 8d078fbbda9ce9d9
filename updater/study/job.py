"""One arm with one seed on one stream: what a worker is given, and the key of its result.

No torch: the parent process makes jobs and reads their records.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from updater.settings import MOST, Settings
from updater.study.plan import SECTIONS, Arm
from updater.study.replay import ReplaySettings
from updater.study.stream import Stream

RECORD = 2
"""Of the records: raised when a release changes what a run does, so that no older one is reused."""


LATER: Mapping[str, Mapping[str, Any]] = {
    "training": {
        "mtp": "keep",
        "train_thinking": False,
        "router_bias_rate": 0.0,
        "activation_checkpointing": False,
        "packing": False,
        "nodes": 1,
        "nodes_for": "training",
        "strategy": "auto",
        "gather_gib": 5.0,
        "rendezvous": "",
    },
    "regularizer": {"offload": False},
}
"""Section -> setting that came when records were kept already -> how runs went before it. Where it
still says so it is no part of a key, so that those records hold."""


LATER_WAYS: Mapping[str, Any] = {"quantize_inputs": False}
"""As `LATER`, of [compression], which is part of the keys of runs that compress alone."""


@dataclass(frozen=True)
class First:
    """The first model of a stream for one seed, which all arms start from. `folder`: of the
    study. `trace`: what its training shall leave beside the weights, as `fit` takes it."""

    settings: Settings
    seed: int
    stream: Stream
    folder: Path
    threads: int
    trace: str = ""

    @property
    def key(self) -> str:
        """Of all that decides it."""
        given = (self.seed, self.stream.digests, self.stream.span.first, self.threads, self.trace)
        return _digest("first", *given, seeded(self.settings, self.seed))

    @property
    def place(self) -> Path:
        """Its folder: `checkpoint`, and `stage.json` once it is whole."""
        return self.folder / "first" / self.key[:16]

    @property
    def title(self) -> str:
        """For people."""
        return f"first model, seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """An arm walks over the stream from its first model. `choice`: what a sweep chose for it.
    `replay`: how the gate is followed; None: nothing is judged. `processes`: as the file says, how
    many runs share the machine."""

    arm: Arm
    first: First
    choice: Mapping[str, Any] = field(default_factory=dict)
    replay: ReplaySettings | None = None
    processes: int = 0

    @property
    def seed(self) -> int:
        """Of the first model and all training."""
        return self.first.seed

    @property
    def stream(self) -> Stream:
        """What is learnt."""
        return self.first.stream

    @property
    def settings(self) -> Settings:
        """The arm's, with the seed."""
        return seeded(self.arm.settings, self.seed)

    @property
    def key(self) -> str:
        """Of all that decides the result, the time it takes among it."""
        arm = dataclasses.asdict(dataclasses.replace(self.arm, name="", sweep={}))
        arm.pop("settings")
        if self.arm.way is None:  # as it was before there were such arms
            arm.pop("control")
        gate: list[Any] = []
        if self.replay is not None:
            rule = self.settings.gate
            gate = [dataclasses.asdict(self.replay), rule.margin_fraction, rule.confidence]
        load = [self.processes] if self.processes else []  # 0: as many as there is room for
        way = [_known_way(self.settings)] if self.arm.way else []
        return _digest(
            "run", self.first.key, arm, self.stream.span.then, self.settings, *gate, *load, *way
        )

    @property
    def place(self) -> Path:
        """Where its state lies; its record is the file with .json in its name's end."""
        plain = self.arm.name.replace(" %", "pc").replace(" + ", "+")
        arm = "".join(c if c.isalnum() or c in "_-+." else "-" for c in plain)
        return self.first.folder / "runs" / f"{arm}-{self.seed}-{self.key[:16]}"

    @property
    def num_units(self) -> int:
        """Of progress: its updates, or what it compresses."""
        return len(self.stream.span.then) if self.arm.way is None else 1

    @property
    def title(self) -> str:
        """For people."""
        chosen = " ".join(f"{k.partition('.')[2]}={v}" for k, v in self.choice.items())
        return f"{self.arm.name}{f' {chosen}' if chosen else ''}, seed {self.seed}"


def seeded(settings: Settings, seed: int) -> Settings:
    """The settings with the seed, and without a state of training on disk between stages: a stage
    that was killed starts anew, so that its seconds are those of the whole of it."""
    training = dataclasses.replace(settings.training, seed=seed, checkpoint_every_steps=MOST)
    return dataclasses.replace(settings, training=training)


def _known_way(settings: Settings) -> dict[str, Any]:
    found = dataclasses.asdict(settings.compression)
    return {n: v for n, v in found.items() if n not in LATER_WAYS or LATER_WAYS[n] != v}


def _digest(*parts: Any) -> str:
    plain = [_plain(part) if isinstance(part, Settings) else part for part in parts]
    text = json.dumps([RECORD, *plain], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(settings: Settings) -> dict[str, Any]:
    """Only what a run obeys: a workspace that is renamed or moved keeps its results."""
    whole = settings.as_dict()
    plain = {name: whole[name] for name in SECTIONS}
    for section, settings_since in LATER.items():
        for name, before in settings_since.items():
            if plain[section][name] == before:
                del plain[section][name]
    if settings.regularizer.strength is None:  # a default that changes is another run
        plain["regularizer"]["strength"] = settings.regularizer.penalty_strength
    architecture = Path(settings.model.architecture)
    if architecture.is_file():
        plain["model"]["architecture"] = json.loads(architecture.read_text("utf-8"))
    return plain
