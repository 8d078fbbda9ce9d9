"""The arms of a study file: their settings resolved, and their sweeps' values tried, before work.

Called by `updater.study.file`; `updater.study.conduct` asks for a sweep's values.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from updater import config
from updater.settings import NAME, Settings
from updater.study import compress_heeds, grid, heeded, search
from updater.study.peers import names
from updater.study.plan import ARM_SECTIONS, CONTROLS, EVERY, KINDS, Arm
from updater.study.tables import Table

REPLAY_SECTIONS = (*ARM_SECTIONS, "gate")  # of an arm, where the gate judges
OF_STUDY = {
    "training.seed": ("a study trains every arm with each of its seeds", "name them in [study]"),
    "training.checkpoint_every_steps": (
        "a stage that was killed starts anew, so that its seconds are those of the whole of it",
        "take it out",
    ),
}
"""Settings that a study has its own of: setting -> the rule, and the cure."""


def overridden(settings: Settings, table: Table, sections: Sequence[str]) -> Settings:
    """The settings, with what the table says in these sections. Raises: InputError."""
    _check_keys(table, sections)
    changed = config.override(settings, table.values, table.where)
    for name, (rule, cure) in OF_STUDY.items():
        if name in _named(table.values):
            raise table.wrong(name, rule, cure)
    return changed


def _check_keys(table: Table, allowed: Sequence[str]) -> None:
    if "gate" in table.values and "gate" not in allowed:
        raise table.wrong(
            "gate",
            "only in a study with [replay] does the gate judge",
            "write [replay], or take it out",
        )
    table.check(allowed)


def _named(values: Mapping[str, Any]) -> list[str]:
    """The settings, as section.key, of tables of sections."""
    return [f"{section}.{key}" for section, keys in values.items() for key in keys]


def read(top: Table, settings: Settings, *, sweeps: bool) -> list[Arm]:
    table = top.table("arms")
    sections = REPLAY_SECTIONS if "replay" in top.values else ARM_SECTIONS
    if not table.values:
        raise table.wrong("there is no arm", "a study compares arms", "write [arms.NAME]")
    arms = [
        arm for name in table.values for arm in _arms(name, table.table(name), settings, sections)
    ]
    grid.check_names(table, arms)
    return arms if sweeps else [dataclasses.replace(arm, sweep={}) for arm in arms]


def _arms(name: str, table: Table, settings: Settings, sections: Sequence[str]) -> list[Arm]:
    """The arm, or of a grid one for each of its combinations."""
    if not NAME.fullmatch(name.replace("+", "-")):
        raise table.wrong(
            f'the name "{name}"', "it must be letters, digits, _, - or +", "rename it"
        )
    kind = table.choice("kind", KINDS)
    heeded.check_options(table, kind)
    _check_keys(table, ("kind", "sweep", *heeded.ARM_OPTIONS[kind], *sections))
    own = {name: table.values[name] for name in sections if name in table.values}
    sweep = _sweep(table.table("sweep"))
    choices = grid.choices(table)
    asked = [*_named(own), *(f"compression.{key}" for key in choices[0])]
    heeded.check_kind(table, kind, [*asked, *sweep])
    resolved = [_with(settings, own, choice, table, sections) for choice in choices]
    arms = [
        _arm(name, table, kind, choice, settings=one, sweep=sweep)
        for choice, one in zip(choices, resolved, strict=True)
    ]
    tried = [one for arm in arms for one in variants(arm, table.where)]
    for one in tried:
        _check_arm(table, one)
    heeded.check_settings(table, arms[0], asked, tried)
    return arms


def _with(
    settings: Settings,
    own: Mapping[str, Any],
    choice: Mapping[str, Any],
    table: Table,
    sections: Sequence[str],
) -> Settings:
    """With the arm's own, and this combination of its grid."""
    if choice:
        own = {**own, "compression": {**own.get("compression", {}), **choice}}
    return overridden(settings, Table(own, grid.where(table, choice)), sections)


def _arm(
    name: str,
    table: Table,
    kind: str,
    choice: Mapping[str, Any],
    *,
    settings: Settings,
    sweep: Mapping[str, tuple[Any, ...]],
) -> Arm:
    arm = Arm(
        name=name,
        kind=kind,
        settings=settings,
        every=table.choice("every", EVERY),
        weight=table.value("weight", 0.5),
        equal_compute=table.value("equal_compute", False),
        strategy=table.value("strategy", ""),
        control=table.choice("control", CONTROLS),
        sweep=sweep,
    )
    if arm.way is None or not choice:
        return arm
    return dataclasses.replace(arm, name=grid.name(arm.way, choice))


def _check_arm(table: Table, arm: Arm) -> None:
    if not 0 <= arm.weight <= 1:
        raise table.wrong(f"weight = {arm.weight}", "it must lie in [0, 1]")
    if arm.kind == "avalanche":
        with table.named():
            names.check(arm.strategy, arm.settings)
    if arm.way is not None:
        compress_heeds.check(table, arm.name, arm.way)


def _sweep(table: Table) -> dict[str, tuple[Any, ...]]:
    for key in table.values:
        if key.partition(".")[0] not in ARM_SECTIONS or "." not in key:
            raise table.wrong(
                f'"{key}"', f"it must be a setting of {', '.join(ARM_SECTIONS)}, in quotes"
            )
        if key in OF_STUDY:
            raise table.wrong(f'"{key}"', *OF_STUDY[key])
        if key == "training.search" or key.startswith("training.search."):
            raise table.wrong(f'"{key}"', search.RULE, "name the settings themselves")
    return {key: table.several(key) for key in table.values}


def values(arm: Arm) -> list[dict[str, Any]]:
    """Every combination that the arm's sweep tries, setting -> value; none without a sweep."""
    if not arm.sweep:
        return []
    return [
        dict(zip(arm.sweep, some, strict=True)) for some in itertools.product(*arm.sweep.values())
    ]


def variants(arm: Arm, where: str = "the sweep") -> list[Arm]:
    """The arm with each choice of its sweep, or as it is where it has none. Raises: as `swept`."""
    return [swept(arm, choice, where) for choice in values(arm)] or [arm]


def swept(arm: Arm, choice: dict[str, Any], where: str = "the sweep") -> Arm:
    """The arm with the chosen values and no sweep. Raises: InputError: a value breaks a rule."""
    settings = arm.settings
    for name, value in choice.items():
        section, _, key = name.partition(".")
        settings = config.override(settings, {section: {key: value}}, where)
    return dataclasses.replace(arm, settings=settings, sweep={})
