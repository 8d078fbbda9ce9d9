"""A study file (TOML) becomes one checked `Study`: every arm's settings are resolved before work.

Not the work, and no period's data. Called by `updater.study.conduct`. Later wins: the workspace's
configuration, `[settings]`, with --quick `[quick.settings]`, then the arm's own tables.
"""

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path

from updater.errors import InputError, did_you_mean
from updater.periods import Periods
from updater.settings import NAME, Settings
from updater.study import arms, compare, search
from updater.study.plan import OF_SETTINGS, STILL, Arm, Span, Study, Validation
from updater.study.replay import ANSWERS, ReplaySettings
from updater.study.tables import Table

TOP = ("study", "stream", "validation", "settings", "arms", "compare", "quick", "replay")


def read(path: Path, settings: Settings, *, quick: bool = False, only: Sequence[str] = ()) -> Study:
    """The study that the file describes, in its quick form if `quick`, with all arms or `only`
    these.

    The quick form is what `[quick]` says instead (seeds, first, then, arms, settings), and sweeps
    nothing: an arm keeps the values that are written in it. Pairs of which an arm is not chosen
    are left out.

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
    given = settings
    if not quick:
        short = Table({}, short.where)
    search.check(top, short, settings)
    replay = _replay(top)
    sections = OF_SETTINGS if replay is None else (*OF_SETTINGS, "gate")
    settings = arms.overridden(settings, top.table("settings"), sections)
    settings = arms.overridden(settings, short.table("settings"), sections)
    settings = _beside(path, settings)
    periods = Periods(settings.periods)
    found = arms.read(top, settings, sweeps=not quick)
    chosen = _chosen(found, short, only)
    study = Study(
        name=_name(head, quick),
        seeds=(short if "seeds" in short.values else head).seeds(),
        span=_span(_instead(stream, short, ("first", "then")), periods, chosen),
        validation=None if quick else _validation(top, periods),
        arms=chosen,
        settings=settings,
        processes=head.value("processes", 0),
        threads=head.value("threads", 1),
        replay=replay,
        pairs=compare.read(top, [arm.name for arm in found], [arm.name for arm in chosen]),
    )
    _check_numbers(head, study)
    _check_sweeps(top, study)
    if not only:
        _check_uncompressed(top, study)
    if not quick and top.table("quick").values:
        read(path, given, quick=True)  # so that what is wrong in it is not first found there
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
    if not name:
        raise head.wrong("name is missing or empty", "results lie under it", 'write name = "NAME"')
    if not NAME.fullmatch(name):
        raise head.wrong(
            f'name = "{name}"',
            "it must be 1 to 63 letters, digits, _ or -; results lie under it",
            "rename it",
        )
    return f"{name}-quick" if quick else name


def _check_numbers(head: Table, study: Study) -> None:
    for name, least in (("processes", 0), ("threads", 1)):
        if getattr(study, name) < least:
            raise head.wrong(f"{name} = {getattr(study, name)}", f"it must be at least {least}")


def _check_sweeps(top: Table, study: Study) -> None:
    swept = [arm.name for arm in study.arms if arm.sweep]
    if swept and study.validation is None:
        raise top.wrong(
            f"the arm {swept[0]} sweeps, and there is no [validation]",
            "sweeps are decided on a stream that is not reported",
            "write [validation] with first, then and seeds",
        )


def _check_uncompressed(top: Table, study: Study) -> None:
    smaller = [arm.name for arm in study.arms if arm.way]
    if smaller and not study.uncompressed:
        raise top.wrong(
            f"the arm {smaller[0]!r} compresses, and none is what it was before",
            "what is compressed is told against what is not",
            'write [arms.uncompressed] with kind = "frozen", and name it where arms are chosen',
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


def _span(table: Table, periods: Periods, arms: Sequence[Arm] = ()) -> Span:
    """The stream of the arms; of those that learn no update it may end with the first model."""
    may_end = arms and all(arm.kind in STILL for arm in arms)
    names = ("first",) if may_end and not table.values.get("then") else ("first", "then")
    first, then, *_ = (
        *(
            tuple(
                one for text in table.texts(name) for one in _expanded(table, name, text, periods)
            )
            for name in names
        ),
        (),
    )
    together = first + then
    for period in together:
        if together.count(period) > 1:
            raise table.wrong(
                f"the period {period} is named twice", "a stream learns it once", "take one out"
            )
    return Span(first, then)


def _expanded(table: Table, name: str, text: str, periods: Periods) -> list[str]:
    with Table({}, f"{table.where} {name}").named():
        return periods.expand([text])


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


def _chosen(found: list[Arm], short: Table, only: Sequence[str]) -> tuple[Arm, ...]:
    names = [arm.name for arm in found]
    of_file = short.texts("arms") if "arms" in short.values else names
    wanted = list(only) or of_file
    for name in wanted:
        if name not in names:
            wrong = InputError if only else short.wrong
            raise wrong(
                f"there is no arm {name!r}",
                f"the arms are {', '.join(names)}",
                did_you_mean(name, names) or "name one of them",
            )
    return tuple(arm for arm in found if arm.name in wanted)
