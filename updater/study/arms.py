"""The arms of a study file: their settings resolved, and their sweeps' values tried, before work.

Called by `updater.study.file`; `updater.study.conduct` asks for a sweep's values.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from updater import config
from updater.settings import NAME, Settings
from updater.study import heeded, search
from updater.study.peers import names
from updater.study.plan import ARM_SECTIONS, EVERY, KINDS, Arm
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
    arms = [_arm(name, table.table(name), settings, sections) for name in table.values]
    return arms if sweeps else [dataclasses.replace(arm, sweep={}) for arm in arms]


def _arm(name: str, table: Table, settings: Settings, sections: Sequence[str]) -> Arm:
    if not NAME.fullmatch(name.replace("+", "-")):
        raise table.wrong(
            f'the name "{name}"', "it must be letters, digits, _, - or +", "rename it"
        )
    kind = table.choice("kind", KINDS)
    heeded.check_options(table, kind)
    _check_keys(table, ("kind", "sweep", *heeded.ARM_OPTIONS[kind], *sections))
    own = {name: table.values[name] for name in sections if name in table.values}
    arm = Arm(
        name=name,
        kind=kind,
        settings=overridden(settings, Table(own, table.where), sections),
        every=table.choice("every", EVERY),
        weight=table.value("weight", 0.5),
        equal_compute=table.value("equal_compute", False),
        strategy=table.value("strategy", ""),
        sweep=_sweep(table.table("sweep")),
    )
    heeded.check_kind(table, kind, [*_named(own), *arm.sweep])
    tried = variants(arm, table.where)
    _check_arm(table, arm, tried)
    heeded.check_settings(table, arm, _named(own), tried)
    return arm


def _check_arm(table: Table, arm: Arm, tried: Sequence[Arm]) -> None:
    if not 0 <= arm.weight <= 1:
        raise table.wrong(f"weight = {arm.weight}", "it must lie in [0, 1]")
    for one in tried:
        if one.kind == "avalanche":
            with table.named():
                names.check(one.strategy, one.settings)


def _sweep(table: Table) -> dict[str, tuple[Any, ...]]:
    for key, given in table.values.items():
        if key.partition(".")[0] not in ARM_SECTIONS or "." not in key:
            raise table.wrong(
                f'"{key}"', f"it must be a setting of {', '.join(ARM_SECTIONS)}, in quotes"
            )
        if key in OF_STUDY:
            raise table.wrong(f'"{key}"', *OF_STUDY[key])
        if key == "training.search" or key.startswith("training.search."):
            raise table.wrong(f'"{key}"', search.RULE, "name the settings themselves")
        if not isinstance(given, list) or not given:
            raise table.wrong(
                f'"{key}" = {given!r}',
                "it must be a list of values to choose from",
                "write [1e3, 1e4]",
            )
        twice = next((value for value in given if given.count(value) > 1), None)
        if twice is not None:
            raise table.wrong(
                f'"{key}" = {given!r}',
                f"{twice!r} stands there more than once, however it is written",
                "take one out",
            )
    return {key: tuple(given) for key, given in table.values.items()}


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
