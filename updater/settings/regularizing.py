"""What holds an update to the past: the section regularizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from updater.settings.rules import at_least, fraction, one_of, positive

ESTIMATED = ("empirical", "sampled")
ESTIMATORS = (*ESTIMATED, "optimizer")


class Method(NamedTuple):
    """One method, as the settings know it.

    `strength`: the default one; None: it has none. `importance`: where that of the weights comes
    from that it holds, as `regularizers.methods` names it: "ones", "fisher", "mas" or "path"; "":
    it holds none. `own`: the settings that it obeys, beside its strength.
    """

    strength: float | None = None
    importance: str = ""
    own: tuple[str, ...] = ()

    @property
    def heeds(self) -> tuple[str, ...]:
        """The settings of [regularizer] that it obeys, whatever the others say. Ones are their own
        mean and need no memory, so that `l2` obeys neither `scale` nor `format`."""
        return self.own if self.strength is None else ("strength", *self.own)


_HELD = ("scale", "format")

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "none": Method(),
        "l2": Method(1e-4, "ones"),
        "ewc": Method(1.0, "fisher", ("estimator", "num_examples", "terms", *_HELD)),
        "online_ewc": Method(1.0, "fisher", ("estimator", "num_examples", "decay", *_HELD)),
        "si": Method(1.0, "path", ("damping", *_HELD)),
        "mas": Method(1e-6, "mas", ("num_examples", *_HELD)),
        "lwf": Method(0.1, own=("temperature", "top_k")),
        "der": Method(1.0, own=("temperature", "top_k")),
        "der++": Method(1.0, own=("temperature", "top_k")),
        "agem": Method(),
    }
)
"""Every method. What it does is torch's to know: `regularizers.methods` of those that hold weights,
`updater.train.objectives` of all."""

REGULARIZERS = tuple(METHODS)
HOLD_WEIGHTS = tuple(name for name, method in METHODS.items() if method.importance)
DEFAULT_STRENGTHS: Mapping[str, float] = MappingProxyType(
    {name: method.strength for name, method in METHODS.items() if method.strength is not None}
)
"""Of every method that has a strength, where none is given and importance is as estimated.

Chosen by measurement on CLINC150, so that it costs nothing beside rehearsal of 25 %: the sweeps of
docs/studies/clinc-methods.toml, whose records are committed. 0.67 M weights, three domains and then
two updates, final accuracy on held-back examples, two seeds. Rehearsal alone 88.0 %; beside it ewc
1: 88.5 (100: 87.8), online_ewc 1: 87.9 (10: 88.4), l2 1e-4: 88.5 (1e-3: 87.7), si 1: 88.2 (100:
79.4), mas 1e-6: 88.7 (1e-4: 84.7), lwf 0.1: 88.7 (1: 72.6), der 1: 88.2 (0.1: 85.6), der++ 1: 88.0
(10: 86.2). Differences below a point are noise. Without rehearsal these hold next to nothing: there
a strength must be swept (ewc: 1e8).
"""

SCALED_STRENGTH = 1e-3
"""Of every method that heeds `scale`, where none is given and importance is divided by its mean.
ewc's sweep of docs/studies/clinc.toml, one domain and then four updates, beside rehearsal (alone
85.2 %): 85.5 (1e-2: 84.4; 1e-1: 75.3). si and mas had as much on 2026-11-24, of which no records
were kept; online_ewc was not measured."""

TERMS = ("base", "periods")
SCALES = ("none", "mean")
IMPORTANCE_FORMATS = ("float32", "bfloat16", "factored")


@dataclass(frozen=True, kw_only=True)
class RegularizerSettings:
    """`method`: "ewc" as paper A (arXiv 2306.10181) advises. By docs/study.md (0.67 M weights, five
    seeds, CLINC150) it adds 1.0 points (0.6 to 1.3) to rehearsal of 5 %, and was not shown to add
    to the default 25 % (-0.1, -0.6 to +0.5; on headlines -0.4, -1.8 to +0.9), for 10 to 26 % more
    seconds and twice the weights' memory. "none" is cheaper, and beside 25 % was not shown to be
    less accurate.

    `strength` is lambda in strength/2 * sum_i importance_i (theta_i - anchor_i)^2, on top of
    the mean loss per completion token; None: `DEFAULT_STRENGTHS`, or under `scale = "mean"`
    `SCALED_STRENGTH`.

    `terms` of `ewc`: one, anchored and estimated at the base on all of its past, or one for each
    update so far, anchored and estimated at its version (Kirkpatrick et al. 2017). `decay` (gamma)
    is what `online_ewc` leaves of the older importance at each update, `damping` (xi) what keeps
    `si` from dividing by nothing. `scale`: the importance as it was estimated, or each term divided
    by its mean, so that strength keeps its meaning from update to update. `format` is how an
    importance is kept in memory and on disk: neither bfloat16 nor factored, in 2 % of the bytes,
    was shown to cost accuracy (docs/study.md: +0.0 and -0.6 points, at most 2.0). `offload` keeps
    anchor and importance in the host's memory, from where every step copies them through the GPU
    piece by piece: room for what does not fit, for the time of that copy. `temperature`
    and `top_k` are of the distilling methods `lwf`, `der` and `der++`, whose `strength` weighs the
    distillation against the likelihood: how the base's answers are softened, and how many of each
    token's logits are kept beside the rest's sum.
    """

    method: str = "ewc"
    strength: float | None = None
    estimator: str = "empirical"
    num_examples: int = 256
    terms: str = "base"
    decay: float = 1.0
    damping: float = 0.1
    scale: str = "none"
    format: str = "float32"
    offload: bool = False
    temperature: float = 2.0
    top_k: int = 32

    def __post_init__(self) -> None:
        one_of("method", self.method, REGULARIZERS)
        one_of("estimator", self.estimator, ESTIMATORS)
        one_of("terms", self.terms, TERMS)
        one_of("scale", self.scale, SCALES)
        one_of("format", self.format, IMPORTANCE_FORMATS)
        if (self.method, self.estimator, self.terms) == ("ewc", "optimizer", "base"):
            raise ValueError(
                "method, estimator, terms: optimizer knows what each training learnt, and not all "
                'of the past at once; take terms = "periods", or method = "online_ewc"'
            )
        if self.strength is not None:
            at_least("strength", self.strength, 0)
        at_least("num_examples", self.num_examples, 1)
        fraction("decay", self.decay)
        positive("damping", self.damping)
        positive("temperature", self.temperature)
        at_least("top_k", self.top_k, 1)

    @property
    def estimated_by(self) -> str:
        """The estimator where one has to be had of weights at rest: what a training recorded is not
        of its end, and then it is the default one."""
        return self.estimator if self.estimator in ESTIMATED else ESTIMATED[0]

    @property
    def is_recorded(self) -> bool:
        """Whether what holds comes of what trainings recorded on their way, and can't be estimated
        afterwards. As `regularizers.methods` says, which is torch's to import."""
        source = METHODS[self.method].importance
        return source == "path" or (source == "fisher" and self.estimator == "optimizer")

    @property
    def penalty_strength(self) -> float:
        """The strength, the method's own where none is given; 0 for methods that have none."""
        if self.strength is not None:
            return self.strength
        if self.scale == "mean" and "scale" in METHODS[self.method].heeds:
            return SCALED_STRENGTH
        return DEFAULT_STRENGTHS.get(self.method, 0.0)
