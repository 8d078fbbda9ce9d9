"""What of a checkpoint goes before it ships: the section compression."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from updater.settings.rules import at_least, fraction, one_of, positive

REMOVABLE = ("weights", "neurons", "experts", "heads", "layers")
SCOPES = ("model", "tensor", "row")
SCHEMES = ("int8", "int4", "fp8", "nvfp4")
WITH_INPUTS = ("fp8", "nvfp4")
"""Those that can be served with inputs quantized too, by scales found on examples; fp8 always."""

RECOVERIES = ("none", "finetune", "distill")
STARTS = ("uncompressed", "compressed")


class Pruning(NamedTuple):
    """One method, as the settings know it.

    `removes`: what it can choose among. `looks`: what it has to be shown beside the weights:
    "fisher", "spread" (of the Fisher over examples), "forward" (passes without a way back), or "".
    `dampened`: it adds to the curvature that it looks at.
    """

    removes: tuple[str, ...]
    looks: str = ""
    dampened: bool = False


_PARTS = ("neurons", "experts", "heads", "layers")

PRUNINGS: Mapping[str, Pruning] = MappingProxyType(
    {
        "none": Pruning(()),
        "random": Pruning(REMOVABLE),
        "magnitude": Pruning(REMOVABLE),
        "obd": Pruning(REMOVABLE, "fisher", dampened=True),
        "obd_sd": Pruning(REMOVABLE, "spread", dampened=True),
        "obd_spread": Pruning(REMOVABLE, "spread", dampened=True),
        "obd_scaled": Pruning(REMOVABLE, "fisher"),
        "wanda": Pruning(("weights",), "forward"),
        "dropout": Pruning(_PARTS, "forward"),
        "merge": Pruning(("neurons", "experts"), "forward"),
        "merge_weights": Pruning(("neurons",)),
        "reap": Pruning(("experts",), "forward"),
        "frequency": Pruning(("experts",), "forward"),
    }
)
"""Every method. What it does is torch's to know: `compression`."""

OF_METHOD = (
    *("remove", "sparsity", "scope", "pattern", "rounds", "damping", "damage_rounds"),
    *("attention", "multiple_of"),
)
"""The keys that say something only where a method removes something. A file may hold them with
none: they wait there for a method."""


@dataclass(frozen=True, kw_only=True)
class CompressionSettings:
    """`method` "none" removes nothing, and `quantize` "none" leaves the numbers as they are: with
    both an update ships what it has trained.

    `sparsity` is the share of what `remove` names that goes, rounded to whole ones: of all weights
    of matrices, or of the parts of each layer. `scope` of weights: among what they are compared,
    "default" as suits the method. `pattern` "2:4": of four weights in a row two stay, whatever the
    sparsity. `rounds`: in how many steps it goes, evidence looked for anew in each. `damping`, of
    "obd", "obd_sd" and "obd_spread": how many times the mean curvature is added to each weight's.
    `num_examples` of the learnt periods are looked at; for the Fisher as many as
    `regularizer.num_examples`, for it is the one by which EWC holds the next update.
    `damage_rounds`: of "dropout", with how many random masks all of them are gone through.
    `attention`: it may lose weights and layers too.

    `multiple_of`: as many parts stay as this divides, such as 32 neurons for the groups of
    `quantize`, or 64 for the tiles of a GPU's products. `quantize_inputs`: of "nvfp4", inputs as
    well, by scales found on `num_examples`; of "fp8" they always are. `keep`: modules that are not
    quantized, beside those of the published recipes, by their released names with * and ? as in
    file names.

    `recovery`: what is left learns again, for `recovery_epochs`, what the update learns (or what an
    update of the version would rehearse): from the examples, or also from what the uncompressed
    model says to them, weighed by `distill_strength`. Not after quantization, whose numbers are not
    trained.

    `start`: what the next update begins at where the deployed version is compressed: the weights of
    before ("uncompressed"), which lose nothing twice, or those that are in use.
    """

    method: str = "none"
    remove: str = "weights"
    sparsity: float = 0.5
    scope: str = "default"
    pattern: str = "none"
    rounds: int = 1
    damping: float = 0.3
    num_examples: int = 256
    damage_rounds: int = 64
    attention: bool = False
    multiple_of: int = 1
    quantize: str = "none"
    quantize_inputs: bool = False
    keep: tuple[str, ...] = ()
    recovery: str = "none"
    recovery_epochs: int = 2
    distill_strength: float = 1.0
    start: str = "uncompressed"

    def __post_init__(self) -> None:
        one_of("method", self.method, tuple(PRUNINGS))
        one_of("remove", self.remove, REMOVABLE)
        one_of("scope", self.scope, ("default", *SCOPES))
        one_of("pattern", self.pattern, ("none", "2:4"))
        one_of("quantize", self.quantize, ("none", *SCHEMES))
        one_of("recovery", self.recovery, RECOVERIES)
        one_of("start", self.start, STARTS)
        at_least("recovery_epochs", self.recovery_epochs, 1)
        positive("distill_strength", self.distill_strength)
        fraction("sparsity", self.sparsity, low_open=True, high_open=True)
        at_least("rounds", self.rounds, 1)
        at_least("damping", self.damping, 0)
        at_least("num_examples", self.num_examples, 1)
        at_least("multiple_of", self.multiple_of, 1)
        at_least("damage_rounds", self.damage_rounds, 20)
        removes = PRUNINGS[self.method].removes
        if removes and self.remove not in removes:
            raise ValueError(
                f"method, remove: {self.method} chooses among {', '.join(removes)}, not"
                f" {self.remove}"
            )
        is_scoped, is_patterned = self.scope != "default", self.pattern != "none"
        if self.remove != "weights" and (is_scoped or is_patterned):
            raise ValueError("scope, pattern, remove: only single weights have one or the other")
        if self.recovery != "none" and self.method == "none":
            raise ValueError(
                "recovery, method: only what a method has removed something of recovers"
            )
        if self.quantize_inputs and self.quantize not in WITH_INPUTS:
            raise ValueError(
                f"quantize_inputs, quantize: only {' and '.join(WITH_INPUTS)} are served so"
            )
        if self.quantize != "none" and self.start == "compressed":
            raise ValueError(
                "start, quantize: quantized weights can't be trained; take uncompressed"
            )
        if is_patterned and self.rounds > 1:
            raise ValueError("rounds, pattern: one round makes a pattern whole; leave rounds out")
        if is_patterned and is_scoped:
            raise ValueError("scope, pattern: a pattern is its own scope; leave one out")

    @property
    def is_on(self) -> bool:
        """Whether anything is done to a checkpoint at all."""
        return self.method != "none" or self.quantize != "none"

    @property
    def needs_inputs(self) -> bool:
        """Whether it is served with inputs quantized too."""
        return self.quantize == "fp8" or self.quantize_inputs

    @property
    def looks(self) -> str:
        """What the method has to be shown, as `Pruning.looks`."""
        return PRUNINGS[self.method].looks

    @property
    def needs_examples(self) -> bool:
        """Whether examples are looked at beside those of a Fisher that is there already: that one
        is of the weights before anything went."""
        prunes = bool(self.looks) and (self.looks != "fisher" or self.rounds > 1)
        return prunes or self.needs_inputs
