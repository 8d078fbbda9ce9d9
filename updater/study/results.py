"""What one arm did with one seed, update by update: the record that every table is made from.

Pure data and its JSON. Written by `updater.study.run`, read by what tabulates and draws.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stage:
    """The model after one update of the stream; the first stage is the first model.

    `scores`: period -> (right answers, holdout examples), of every period of the stream, learnt or
    not. `steps` optimizer steps, `tokens` training tokens (prompt and completion, rehearsed ones
    too), `seconds` wall seconds of all that the update took but its evaluation. `importance_bytes`
    of the importance that held it, as it is kept in memory; None where it was not measured.
    """

    period: str
    scores: Mapping[str, tuple[int, int]]
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    importance_bytes: int | None = None
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    deployed: bool = True

    def accuracy(self, period: str) -> float:
        """0..1."""
        right, number = self.scores[period]
        return right / number


@dataclass(frozen=True)
class Compressed:
    """What a compression left of the first model, or how large its control is.

    Bytes are those of the weight files; numbers are counted before they are quantized, as those of
    the first model are. `seconds` of all that it took but evaluation and clocks: what it looks at
    (the Fisher too, whichever arm found it), what goes, recovery; `steps` and `tokens` of the
    recovery or of the control's training. `per_second` examples go forward, and of the first model
    beside it `base_per_second`; None where that was not measured: quantized weights are asked as
    floats. `gone`, `zeros`: which parts went, and by matrix the share of weights that are zero, as
    `updater.compress.engine` says it; empty of a control.
    """

    num_parameters: int
    base_parameters: int
    nonzero_fraction: float
    num_bytes: int
    base_bytes: int
    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    per_second: float | None = None
    base_per_second: float | None = None
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)
    zeros: Mapping[str, float] = field(default_factory=dict)

    @property
    def bytes_ratio(self) -> float:
        """To the first model's."""
        return self.num_bytes / self.base_bytes

    @property
    def speed_ratio(self) -> float | None:
        """To the first model's; above 1 is faster."""
        if self.per_second is None or not self.base_per_second:
            return None
        return self.per_second / self.base_per_second


@dataclass(frozen=True)
class Run:
    """One arm with one seed over one stream, whole or as far as it came.

    `learnt_first`: the periods that the first model knows. `stages`: the first model, then one an
    update. `failure`: why the arm stopped (it diverged), empty where it did not. `choice`: what a
    sweep chose, setting -> value. `peak_memory_bytes` of the process. `first_digest`: of the first
    model's checkpoint, as its manifest says; empty where there is no first model yet. `compressed`:
    of an arm that compresses, of which all stages are of the compressed model.
    """

    arm: str
    seed: int
    learnt_first: tuple[str, ...]
    stages: tuple[Stage, ...]
    failure: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    first_digest: str = ""
    compressed: Compressed | None = None

    @property
    def periods(self) -> tuple[str, ...]:
        """All periods of the stream, in the order in which they were learnt."""
        return (*self.learnt_first, *(stage.period for stage in self.stages[1:]))

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """What `to_json` wrote.

        Raises:
            ValueError: not JSON, or not a run.
        """
        plain = json.loads(text)
        try:
            stages = tuple(_stage(one) for one in plain.pop("stages"))
            learnt = tuple(plain.pop("learnt_first"))
            compressed = plain.pop("compressed", None)
            if compressed is not None:
                compressed = Compressed(**compressed)
                _check(compressed)
            found = cls(**plain, learnt_first=learnt, stages=stages, compressed=compressed)
            _check(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a study's run: {error}") from error
        return found


def learnt(first: Sequence[str], stages: Sequence[Stage]) -> tuple[str, ...]:
    """What the model of these stages knows, the first of which is the first model: a period whose
    update was not deployed is not among it."""
    return (*first, *(stage.period for stage in stages[1:] if stage.deployed))


def _stage(plain: dict[str, Any]) -> Stage:
    scores = {period: (right, number) for period, (right, number) in plain.pop("scores").items()}
    found = Stage(**plain | {"reasons": tuple(plain.get("reasons", ()))}, scores=scores)
    _check(found)
    for period, (right, number) in scores.items():
        if type(right) is not int or type(number) is not int or not 0 <= right <= number:
            raise ValueError(f"{found.period}: {right!r} right of {number!r} on {period}")
    return found


def _check(found: Stage | Run | Compressed) -> None:
    """Every value is of its kind, and no count or time is below 0 or endless: what is not would be
    found where it is added up or drawn.

    Raises:
        ValueError: one is not.
    """
    for name, kinds in _KINDS.items():
        value = getattr(found, name, None)
        if hasattr(found, name) and type(value) not in kinds:
            raise ValueError(f"{name} is {value!r}")
    for name in _AMOUNTS:
        value = getattr(found, name, None)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}")


_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("arm", "period", "failure", "first_digest", "verdict"), (str,)),
    **dict.fromkeys(("seed", "steps", "examples", "tokens", "peak_memory_bytes"), (int,)),
    "importance_bytes": (int, type(None)),
    "seconds": (int, float),
    "deployed": (bool,),
    **dict.fromkeys(("choice", "gone", "zeros"), (dict,)),
    **dict.fromkeys(("num_parameters", "base_parameters", "num_bytes", "base_bytes"), (int,)),
    "nonzero_fraction": (int, float),
    **dict.fromkeys(("per_second", "base_per_second"), (int, float, type(None))),
}
"""Of the plain fields of all three."""

_AMOUNTS = (
    *("steps", "examples", "tokens", "seconds", "peak_memory_bytes", "importance_bytes"),
    *("num_parameters", "base_parameters", "nonzero_fraction", "num_bytes", "base_bytes"),
    *("per_second", "base_per_second"),
)
