"""What an arm of `kind = "compress"` heeds, and what it can do at all.

Called by `updater.study.heeded` and `updater.study.arms`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields

from updater.settings import PRUNINGS, RegularizerSettings
from updater.study.plan import Arm
from updater.study.tables import Table
from updater.study.ways import Way

_LOOKS = ("estimator", "num_examples")
_ALL_WEIGHTS = "a recovery trains every weight that is left"
_ANY_SAMPLE = "a recovery learns a uniform sample"

IGNORED: Mapping[str, str] = {
    "compression.start": "no update begins at what it makes",
    "rehearsal.strata": _ANY_SAMPLE,
    "rehearsal.pool_factor": _ANY_SAMPLE,
    "training.epochs": "a recovery goes on for compression.recovery_epochs, a control by [scratch]",
    **dict.fromkeys(
        (f"training.{key}" for key in ("adapt", "lora_rank", "lora_alpha", "lora_experts")),
        _ALL_WEIGHTS,
    ),
    **{
        f"regularizer.{field.name}": f"nothing is held; it looks by {' and '.join(_LOOKS)} alone"
        for field in fields(RegularizerSettings)
        if field.name not in _LOOKS
    },
}
"""Setting that no such arm heeds -> why."""

_REMOVES = 'nothing goes by compression.method = "none"'
_RECOVERS = 'nothing is learnt again by compression.recovery = "none"'
_RULES: Mapping[str, tuple[Callable[[Way], bool], str]] = {
    **dict.fromkeys(
        (f"compression.{key}" for key in ("remove", "rounds", "attention")),
        (lambda way: bool(way.what), _REMOVES),
    ),
    "compression.sparsity": (
        lambda way: bool(way.what) and way.settings.pattern == "none",
        f"{_REMOVES}, or a pattern says how much",
    ),
    "compression.multiple_of": (
        lambda way: bool(way.what) and way.settings.remove != "weights",
        "only of whole parts so many stay",
    ),
    "compression.damping": (
        lambda way: PRUNINGS[way.settings.method].dampened,
        "its method dampens no curvature",
    ),
    "compression.damage_rounds": (
        lambda way: way.settings.method == "dropout",
        'only compression.method = "dropout" has masks',
    ),
    "compression.num_examples": (lambda way: way.needs_examples, "it looks at no such examples"),
    "compression.recovery_epochs": (lambda way: way.settings.recovery != "none", _RECOVERS),
    "compression.distill_strength": (
        lambda way: way.settings.recovery == "distill",
        'only compression.recovery = "distill" has it',
    ),
    "compression.keep": (lambda way: way.settings.quantize != "none", "nothing is quantized"),
    "compression.quantize_inputs": (
        lambda way: way.settings.quantize == "nvfp4",
        'only compression.quantize = "nvfp4" may have them or not',
    ),
    **dict.fromkeys(
        (f"regularizer.{key}" for key in _LOOKS),
        (lambda way: way.settings.looks == "fisher", "its method looks at no Fisher"),
    ),
    "rehearsal": (lambda way: way.settings.recovery != "none", _RECOVERS),
    "training": (
        lambda way: way.settings.recovery != "none" or way.control == "scratch",
        _RECOVERS,
    ),
    "scratch": (lambda way: way.control == "scratch", 'only control = "scratch" trains by it'),
}
"""Setting, or section -> with which ways it is heeded, and why not with others."""


def unheeded(name: str, arm: Arm) -> str:
    """Why the arm would not heed the setting; "" where it would."""
    assert arm.way is not None, "only what compresses is asked"
    section, _, _ = name.partition(".")
    heeds, why = _RULES.get(name, _RULES.get(section, (bool, "")))
    return "" if heeds(arm.way) else why


def check(table: Table, name: str, way: Way) -> None:
    """The arm of that name takes something away, and a control of what has a shape to train in.

    Raises:
        InputError: else.
    """
    given = way.settings
    if not given.is_on:
        raise table.wrong(
            f"the arm {name!r} takes nothing away",
            "it compresses by a method, or quantizes",
            "write compression.method or compression.quantize",
        )
    if way.control == "none":
        return
    if not way.what:
        raise table.wrong(
            'control = "scratch"',
            "only what something goes of has another shape, or zeros",
            "name a compression.method",
        )
    if given.recovery != "none" or given.quantize != "none":
        raise table.wrong(
            'control = "scratch"',
            "it is trained from random weights: there is nothing to recover, nor to quantize",
            "take out recovery and quantize",
        )
