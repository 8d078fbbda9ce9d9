"""What an arm of a study heeds: whatever else its own table asks for is refused, before any work.

What it only inherits, from `[settings]` or the workspace, it may leave alone. Called by
`updater.study.arms`.
"""

from collections.abc import Mapping, Sequence

from updater.settings.regularizing import DEFAULT_STRENGTHS
from updater.study.peers import names
from updater.study.plan import ARM_SECTIONS, Arm
from updater.study.tables import Table

_ANEW = 'kind = "scratch" trains by [scratch] alone, on everything, held by nothing'
_AVALANCHE = "Avalanche's own strategy does not know it"
_FROZEN = 'kind = "frozen" learns nothing'
_HEADLESS = "the models of a study have no multi-token-prediction head"
_UPDATE = 'only kind = "scratch" trains by it; the first model trains by that of [settings]'
IGNORED: Mapping[str, Mapping[str, str]] = {
    "update": {"scratch": _UPDATE, "training.mtp": _HEADLESS},
    "average": {"scratch": _UPDATE, "training.mtp": _HEADLESS},
    "frozen": dict.fromkeys(ARM_SECTIONS, _FROZEN),
    "scratch": {
        "training.mtp": _HEADLESS,
        **dict.fromkeys(
            (
                *("rehearsal", "regularizer", "training.epochs", "training.learning_rate"),
                *("training.adapt", "training.lora_rank", "training.lora_alpha"),
                *("training.lora_experts", "training.train_routers"),
            ),
            _ANEW,
        ),
    },
    "avalanche": {
        "scratch": _UPDATE,
        "training.mtp": _HEADLESS,
        "regularizer.method": "strategy names Avalanche's own",
        **dict.fromkeys(
            (
                *("regularizer.estimator", "regularizer.num_examples", "regularizer.terms"),
                *("regularizer.scale", "regularizer.format", "regularizer.top_k"),
                *("rehearsal.strata", "rehearsal.pool_factor"),
            ),
            _AVALANCHE,
        ),
    },
}
"""Kind -> section or setting that an arm of it does not heed -> why."""

ARM_OPTIONS = {
    "update": ("equal_compute",),
    "scratch": ("every",),
    "frozen": (),
    "average": ("equal_compute", "weight"),
    "avalanche": ("strategy",),
}


def check_options(table: Table, kind: str) -> None:
    """No option is there that arms of another kind have. Raises: InputError."""
    for name in table.values:
        kinds = [f'"{other}"' for other, options in ARM_OPTIONS.items() if name in options]
        if kinds and f'"{kind}"' not in kinds:
            rule = f"only an arm of kind = {' or '.join(kinds)} has it"
            raise table.wrong(name, rule, f"write kind = {kinds[0]}, or take it out")


def check_kind(table: Table, kind: str, asked: Sequence[str]) -> None:
    """No setting is asked for that no arm of this kind would heed. Raises: InputError."""
    for name in asked:
        section, _, _ = name.partition(".")
        why = IGNORED[kind].get(name, IGNORED[kind].get(section))
        if why is not None:
            raise table.wrong(name, why, "take it out")


def check_settings(table: Table, arm: Arm, own: Sequence[str]) -> None:
    """No setting is asked for that the arm's method or policy would not heed: with it or without,
    and at every value of a sweep, its runs would be the same. The strategy must be one that can be
    asked for.

    Args:
        own: the settings that the arm's table names, beside its sweep's.

    Raises:
        InputError: one is.
    """
    for name in (*own, *arm.sweep):
        why = _unheeded(name, arm)
        if why:
            what = f'a sweep of "{name}"' if name in arm.sweep else name
            raise table.wrong(what, why, "take it out")


def _unheeded(name: str, arm: Arm) -> str:
    """Why nothing would heed the setting; "" where something does, or where the sweep decides."""
    section, _, key = name.partition(".")
    if name == "regularizer.strength" and "regularizer.method" not in arm.sweep:
        return _without_strength(arm)
    if section == "rehearsal" and key != "policy" and "rehearsal.policy" not in arm.sweep:
        return _without_rehearsal(arm)
    return ""


def _without_strength(arm: Arm) -> str:
    own = arm.settings.regularizer.method
    heeds = own in DEFAULT_STRENGTHS
    if arm.kind == "avalanche":
        own = arm.strategy
        heeds = not set(names.WITH_STRENGTH).isdisjoint(names.parts(arm.strategy))
    return "" if heeds else f'"{own}" has no strength'


def _without_rehearsal(arm: Arm) -> str:
    if arm.kind == "avalanche" and set(names.WITH_MEMORY).isdisjoint(names.parts(arm.strategy)):
        return f'"{arm.strategy}" has no memory of that size'
    return 'policy = "none" rehearses nothing' if arm.settings.rehearsal.policy == "none" else ""
