"""What an arm of a study heeds: whatever else its own table asks for is refused, before any work.

What it only inherits, from `[settings]` or the workspace, it may leave alone. Called by
`updater.study.arms`.
"""

from collections.abc import Mapping, Sequence

from updater.settings import POLICIES
from updater.settings.regularizing import METHODS
from updater.study import compress_heeds
from updater.study.peers import names
from updater.study.plan import ARM_SECTIONS, Arm
from updater.study.tables import Table

_COMPRESS = 'only kind = "compress" takes anything away'
_ANEW = 'kind = "scratch" trains by [scratch] alone, on everything, held by nothing'
_AVALANCHE = "Avalanche's own strategy does not know it"
_FROZEN = 'kind = "frozen" learns nothing'
_HEADLESS = "the models of a study have no multi-token-prediction head"
_ONE_DEVICE = "each run of a study trains on one device"
_UPDATE = 'only kind = "scratch" trains by it; the first model trains by that of [settings]'
_NEVER = {
    "training.mtp": _HEADLESS,
    **dict.fromkeys(
        (f"training.{key}" for key in ("strategy", "gather_gib", "rendezvous", "nodes_for")),
        _ONE_DEVICE,
    ),
    "regularizer.offload": "it moves what holds to another memory, and changes no result",
    "training.packing": "it leaves padding out, and changes no result",
}
_NOT_SMALLER = {**_NEVER, "compression": _COMPRESS}
IGNORED: Mapping[str, Mapping[str, str]] = {
    "update": {"scratch": _UPDATE, **_NOT_SMALLER},
    "average": {"scratch": _UPDATE, **_NOT_SMALLER},
    "frozen": {**dict.fromkeys(ARM_SECTIONS, _FROZEN), "compression": _COMPRESS},
    "compress": {**_NEVER, **compress_heeds.IGNORED},
    "scratch": {
        **_NOT_SMALLER,
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
        **_NOT_SMALLER,
        "regularizer.method": "strategy names Avalanche's own",
        **dict.fromkeys(
            (
                *("regularizer.estimator", "regularizer.num_examples", "regularizer.terms"),
                *("regularizer.scale", "regularizer.format", "regularizer.top_k"),
                *("rehearsal.strata", "rehearsal.pool_factor"),
                *("training.lora_rank", "training.lora_alpha", "training.lora_experts"),
            ),
            _AVALANCHE,
        ),
    },
}
"""Kind -> section or setting that an arm of it does not heed -> why."""


def _methods(key: str) -> tuple[str, ...]:
    return tuple(name for name, method in METHODS.items() if key in method.heeds)


_REHEARSING = tuple(policy for policy in POLICIES if policy != "none")
HEEDED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"regularizer.{key}": ("regularizer.method", _methods(key))
        for key in dict.fromkeys(key for method in METHODS.values() for key in method.heeds)
    },
    "rehearsal.fraction": ("rehearsal.policy", _REHEARSING),
    "rehearsal.budget": ("rehearsal.policy", _REHEARSING),
    "rehearsal.strata": ("rehearsal.policy", ("class_balanced",)),
    "rehearsal.pool_factor": ("rehearsal.policy", ("hard", "surprise")),
    "training.lora_rank": ("training.adapt", ("lora",)),
    "training.lora_alpha": ("training.adapt", ("lora",)),
    "training.lora_experts": ("training.adapt", ("lora",)),
}
"""Setting -> the setting that decides whether it is heeded, and with which of its values it is. One
that is not here is heeded by all that the kind lets pass."""

HEEDED_BY_PARTS: Mapping[str, tuple[str, ...]] = {
    "regularizer.strength": names.WITH_STRENGTH,
    "regularizer.decay": ("online_ewc",),
    "regularizer.damping": ("si",),
    "regularizer.temperature": ("lwf",),
    "rehearsal.policy": names.WITH_MEMORY,
    "rehearsal.fraction": names.WITH_MEMORY,
    "rehearsal.budget": names.WITH_MEMORY,
}
"""The same of Avalanche's strategies: setting -> the parts of a strategy that heed it."""

ARM_OPTIONS = {
    "update": ("equal_compute",),
    "scratch": ("every",),
    "frozen": (),
    "average": ("equal_compute", "weight"),
    "avalanche": ("strategy",),
    "compress": ("control", "grid"),
}


def check_options(table: Table, kind: str) -> None:
    """No option is there that arms of another kind have. Raises: InputError."""
    for name in table.values:
        kinds = [f'"{other}"' for other, options in ARM_OPTIONS.items() if name in options]
        if kinds and f'"{kind}"' not in kinds:
            rule = f"only an arm of kind = {' or '.join(kinds)} has it"
            raise table.wrong(name, rule, f"write kind = {kinds[0]}, or take it out")
    if kind == "compress" and "sweep" in table.values:
        rule = "what it learns is no update, on which a sweep could be decided"
        raise table.wrong("sweep", rule, "name the values in a grid: each is an arm")


def check_kind(table: Table, kind: str, asked: Sequence[str]) -> None:
    """No setting is asked for that no arm of this kind would heed. Raises: InputError."""
    for name in asked:
        section, _, _ = name.partition(".")
        why = IGNORED[kind].get(name, IGNORED[kind].get(section))
        if why is not None:
            raise table.wrong(name, why, "take it out")


def check_settings(table: Table, arm: Arm, own: Sequence[str], variants: Sequence[Arm]) -> None:
    """No setting is asked for that the arm's method, policy, adaptation or strategy would not heed,
    nor would any that its sweep tries: with it or without, and at every value of a sweep, its runs
    would be the same.

    Args:
        own: the settings that the arm's table names, beside its sweep's.
        variants: the arm with each choice of its sweep, or as it is where it has none.

    Raises:
        InputError: one is.
    """
    for name in (*own, *arm.sweep):
        reasons = [_unheeded(name, one) for one in variants]
        why = reasons[0] if all(reasons) else ""
        if not why and arm.kind == "avalanche" and name == "rehearsal.policy" and name in arm.sweep:
            why = "the strategy's memory is as large with each policy, and filled alike"
        if why:
            what = f'a sweep of "{name}"' if name in arm.sweep else name
            raise table.wrong(what, why, "take it out")


def _unheeded(name: str, arm: Arm) -> str:
    """Why an arm without a sweep would not heed the setting; "" where it would."""
    if arm.kind == "compress":
        return compress_heeds.unheeded(name, arm)
    if arm.kind == "avalanche":
        parts = HEEDED_BY_PARTS.get(name, names.parts(arm.strategy))
        if set(parts).isdisjoint(names.parts(arm.strategy)):
            return f'only a strategy with {_any(parts)} heeds it, not "{arm.strategy}"'
        return ""
    if name not in HEEDED:
        return ""
    by, values = HEEDED[name]
    section, _, key = by.partition(".")
    given = getattr(getattr(arm.settings, section), key)
    if given not in values:
        return f'only with {by} = {_any(values)} is it heeded, not with "{given}"'
    if name == "regularizer.num_examples" and arm.settings.regularizer.is_recorded:
        return 'estimator = "optimizer" looks at no example again'
    return ""


def _any(some: Sequence[str]) -> str:
    *others, last = some
    return f"{', '.join(others)} or {last}" if others else last
