"""A study file (TOML) becomes one checked `Study`: every arm's settings are resolved before work.

Not the work, and no period's data. Called by `updater.study.conduct`. Later wins: the workspace's
configuration, `[settings]`, with --quick `[quick.settings]`, then the arm's own tables.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from updater import config
from updater.errors import InputError
from updater.periods import Periods
from updater.settings import MOST, NAME, Settings
from updater.study.peers import names
from updater.study.plan import EVERY, KINDS, SECTIONS, Arm, Span, Study, Validation
from updater.study.replay import ANSWERS, ReplaySettings
from updater.study.tables import Table, nearest

TOP = ("study", "stream", "validation", "settings", "arms", "quick", "replay")
ARM_SECTIONS = ("rehearsal", "regularizer", "training", "scratch")
REPLAY_SECTIONS = (*ARM_SECTIONS, "gate")  # of an arm, where the gate judges
ARM_OPTIONS = {
    "update": ("equal_compute",),
    "scratch": ("every",),
    "frozen": (),
    "average": ("equal_compute", "weight"),
    "avalanche": ("strategy",),
}


def read(path: Path, settings: Settings, *, quick: bool = False, only: Sequence[str] = ()) -> Study:
    """The study that the file describes, in its quick form if `quick`, with all arms or `only`
    these.

    The quick form is what `[quick]` says instead (seeds, first, then, arms, settings), and sweeps
    nothing: an arm keeps the values that are written in it.

    Raises:
        InputError: the file is no TOML, or breaks a rule; nothing was done.
    """
    top = _parse(path)
    top.check(TOP)
    head, stream, short = top.table("study"), top.table("stream"), top.table("quick")
    head.check(("name", "seeds", "processes", "threads"))
    stream.check(("first", "then"))
    short.check(("seeds", "first", "then", "arms", "settings"))
    if quick and not short.values:
        raise InputError(f"{path} has no [quick]", "--quick runs what stands there", "leave it out")
    if not quick:
        short = Table({}, short.where)
    replay = _replay(top)
    sections = SECTIONS if replay is None else (*SECTIONS, "gate")
    settings = _overridden(settings, top.table("settings"), sections)
    settings = _overridden(settings, short.table("settings"), sections)
    settings = _beside(path, settings)
    periods = Periods(settings.periods)
    study = Study(
        name=_name(head, quick),
        seeds=(short if "seeds" in short.values else head).seeds(),
        span=_span(_instead(stream, short, ("first", "then")), periods),
        validation=None if quick else _validation(top, periods),
        arms=_chosen(_arms(top, settings, sweeps=not quick), short, only),
        settings=settings,
        processes=head.value("processes", 0),
        threads=head.value("threads", 1),
        replay=replay,
    )
    _check_numbers(head, study)
    return study


def _parse(path: Path) -> Table:
    try:
        return Table(tomllib.loads(path.read_text("utf-8")), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}", "name a study file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}", "", "mend that line") from None


def _name(head: Table, quick: bool) -> str:
    name = head.value("name", "")
    if not NAME.fullmatch(name):
        raise head.wrong(
            f'name = "{name}"', "it must be 1 to 63 letters, digits, _ or -; results lie under it"
        )
    return f"{name}-quick" if quick else name


def _check_numbers(head: Table, study: Study) -> None:
    for name, least in (("processes", 0), ("threads", 1)):
        if getattr(study, name) < least:
            raise head.wrong(f"{name} = {getattr(study, name)}", f"it must be at least {least}")
    swept = [arm.name for arm in study.arms if arm.sweep]
    if swept and study.validation is None:
        raise InputError(
            f"the arm {swept[0]} sweeps, and there is no [validation]",
            "sweeps are decided on a stream that is not reported",
            "write [validation] with first, then and seeds",
        )


def _beside(path: Path, settings: Settings) -> Settings:
    """A model's config.json that lies beside the study file is found there."""
    found = path.parent / settings.model.architecture
    if not found.is_file():
        return settings
    model = dataclasses.replace(settings.model, architecture=str(found.resolve()))
    return dataclasses.replace(settings, model=model)


def _instead(table: Table, other: Table, names: Sequence[str]) -> Table:
    """`table` with what `other` has of these keys in the place of its own."""
    values = {name: other.values[name] for name in names if name in other.values}
    return Table({**table.values, **values}, other.where if values else table.where)


def _span(table: Table, periods: Periods) -> Span:
    first, then = (
        tuple(one for text in table.texts(name) for one in periods.expand([text]))
        for name in ("first", "then")
    )
    together = first + then
    for period in together:
        if together.count(period) > 1:
            raise table.wrong(f"the period {period} is named twice", "a stream learns it once")
    return Span(first, then)


def _validation(top: Table, periods: Periods) -> Validation | None:
    if "validation" not in top.values:
        return None
    table = top.table("validation")
    table.check(("first", "then", "seeds", "holdout_fraction"))
    fraction = table.value("holdout_fraction", 0.2)
    if not 0 < fraction < 1:
        raise table.wrong(f"holdout_fraction = {fraction}", "it must lie between 0 and 1")
    return Validation(_span(table, periods), table.seeds(), fraction)


def _replay(top: Table) -> ReplaySettings | None:
    if "replay" not in top.values:
        return None
    table = top.table("replay")
    table.check(("follow_gate", "review"))
    return ReplaySettings(table.value("follow_gate", True), table.choice("review", ANSWERS))


def _overridden(settings: Settings, table: Table, sections: Sequence[str]) -> Settings:
    table.check(sections)
    return config.override(settings, table.values, table.where)


def _arms(top: Table, settings: Settings, *, sweeps: bool) -> list[Arm]:
    table = top.table("arms")
    sections = REPLAY_SECTIONS if "replay" in top.values else ARM_SECTIONS
    if not table.values:
        raise table.wrong("there is no arm", "a study compares arms", "write [arms.NAME]")
    arms = [_arm(name, table.table(name), settings, sections) for name in table.values]
    return arms if sweeps else [dataclasses.replace(arm, sweep={}) for arm in arms]


def _arm(name: str, table: Table, settings: Settings, sections: Sequence[str]) -> Arm:
    if not NAME.fullmatch(name.replace("+", "-")):
        raise table.wrong(f'the name "{name}"', "it must be letters, digits, _, - or +")
    kind = table.choice("kind", KINDS)
    table.check(("kind", "sweep", *ARM_OPTIONS[kind], *sections))
    own = {name: table.values[name] for name in sections if name in table.values}
    arm = Arm(
        name=name,
        kind=kind,
        settings=_overridden(settings, Table(own, table.where), sections),
        every=table.choice("every", EVERY),
        weight=table.value("weight", 0.5),
        equal_compute=table.value("equal_compute", False),
        strategy=table.value("strategy", ""),
        sweep=_sweep(table.table("sweep")),
    )
    _check_arm(table, arm)
    return arm


def _check_arm(table: Table, arm: Arm) -> None:
    if not 0 <= arm.weight <= 1:
        raise table.wrong(f"weight = {arm.weight}", "it must lie in [0, 1]")
    if arm.settings.training.search.trials:
        raise table.wrong(
            f"training.search.trials = {arm.settings.training.search.trials}",
            "no arm searches at each update; a sweep chooses once, on the validation stream",
            "write training.search.trials = 0 in [settings], and [arms.NAME.sweep]",
        )
    if arm.kind == "avalanche":
        budget = arm.settings.rehearsal.examples(MOST)
        names.check(arm.strategy, arm.settings.training, budget=budget)
    for value in values(arm):
        swept(arm, value, table.where)


def _sweep(table: Table) -> dict[str, tuple[Any, ...]]:
    for key, given in table.values.items():
        if key.partition(".")[0] not in ARM_SECTIONS or "." not in key:
            raise table.wrong(
                f'"{key}"', f"it must be a setting of {', '.join(ARM_SECTIONS)}, in quotes"
            )
        if not isinstance(given, list) or not given:
            raise table.wrong(f'"{key}" = {given!r}', "it must be a list of values to choose from")
    return {key: tuple(given) for key, given in table.values.items()}


def values(arm: Arm) -> list[dict[str, Any]]:
    """Every combination that the arm's sweep tries, setting -> value; none without a sweep."""
    if not arm.sweep:
        return []
    return [
        dict(zip(arm.sweep, some, strict=True)) for some in itertools.product(*arm.sweep.values())
    ]


def swept(arm: Arm, choice: dict[str, Any], where: str = "the sweep") -> Arm:
    """The arm with the chosen values and no sweep. Raises: InputError: a value breaks a rule."""
    settings = arm.settings
    for name, value in choice.items():
        section, _, key = name.partition(".")
        settings = config.override(settings, {section: {key: value}}, where)
    return dataclasses.replace(arm, settings=settings, sweep={})


def _chosen(arms: list[Arm], short: Table, only: Sequence[str]) -> tuple[Arm, ...]:
    names = [arm.name for arm in arms]
    wanted = list(only) or (short.texts("arms") if "arms" in short.values else names)
    for name in wanted:
        if name not in names:
            raise InputError(
                f"there is no arm {name!r}",
                f"the arms are {', '.join(names)}",
                nearest(name, names) or "name one of them",
            )
    return tuple(arm for arm in arms if arm.name in wanted)
