"""A study's tables as texts, for the page and the Markdown alike.

Called by `updater.study.report.page` and `updater.study.report.markdown`.
"""

from collections.abc import Sequence

from updater.study.comparison import Estimate
from updater.study.measures import ACCURACIES
from updater.study.ratios import Curve, ratios
from updater.study.replay import replayed
from updater.study.report import compression_report, pair_report, sweep_report
from updater.study.report.sheet import Sheet
from updater.study.report.words import (
    CLAIMED,
    COLUMNS,
    TONES,
    difference,
    notes,
    p_value,
    points,
    seeds_of,
    stopped,
    three_digits,
    update_of,
)
from updater.study.tabulated import Arm, Table


def sheets(table: Table) -> list[Sheet]:
    """All that have something to say, in the page's order."""
    found = [
        *(results(table), compression_report.sizes(table), compression_report.periods(table)),
        # Where nothing is learnt, what compression costs is all that this would say.
        *(None if table.learns_nothing else paired(table), pair_report.sheet(table)),
        *(against_scratch(table), releases(table), sweep_report.sheet(table)),
    ]
    return [sheet for sheet in found if sheet is not None and sheet.rows]


def results(table: Table) -> Sheet:
    """Every arm's measures, mean and half width of the interval; a failed one's reason."""
    num = len(table.seeds)
    shown = [n for n in COLUMNS if any(arm.estimate(n) is not None for arm in table.arms)]
    spread = (
        f"Mean ± half the width of the 95 % interval over {num} seeds (Student's t)."
        if num > 1
        else "One seed: there is no interval, and no claim can be made."
    )
    return Sheet(
        title="Results",
        how=f"{spread} Accuracies and transfers are in percent and points; cost is summed over all "
        "updates, without the first model, which all arms share.",
        columns=("arm", "seeds", *(COLUMNS[name].title for name in shown)),
        rows=tuple(_row(arm, shown) for arm in table.arms),
        notes=tuple("; ".join(stopped(arm)) for arm in table.arms),
        below=notes(table.arms),
    )


def _row(arm: Arm, shown: Sequence[str]) -> tuple[str, ...]:
    cells = [_cell(name, arm.estimate(name)) for name in shown]
    return (arm.name, seeds_of(arm), *cells)


def _cell(name: str, found: Estimate | None) -> str:
    if found is None:
        return "–"
    column = COLUMNS[name]
    text = column.say(column.scale * found.mean)
    if found.half_width is None or (name not in ACCURACIES and name != "seconds"):
        return text
    width = column.scale * found.half_width
    if name in ACCURACIES:
        return f"{text} ± {width:.1f}"
    return f"{text} ± {three_digits(width, like=found.mean)}"


def paired(table: Table) -> Sheet:
    """Each arm minus the reference on the measures of accuracy and the seconds."""
    shown = ("final_average_accuracy", "new_accuracy", "worst_forgetting", "seconds")
    by_arm = {name: {d.arm: d for d in table.differences(name)} for name in shown}
    claims = table.claims(CLAIMED)
    rows, tones = [], []
    for arm in table.arms:
        found = by_arm[CLAIMED].get(arm.name)
        if found is None:
            continue
        claim = claims[arm.name]
        p = "–" if found.adjusted_p is None else p_value(found.adjusted_p)
        cells = [difference(name, by_arm[name].get(arm.name)) for name in shown]
        rows.append((arm.name, str(found.estimate.num_seeds), *cells, p, claim))
        tones.append(TONES[claim])
    return Sheet(
        title=f"Against {table.reference}",
        how=f"Arm minus {table.reference}, paired by seed, with the 95 % interval of each by itself"
        " (paired t). p is of the final accuracy, corrected for all arms together (Holm): an arm "
        "is called better or worse where it is at most 0.05.",
        columns=(
            "arm",
            "seeds",
            *(COLUMNS[name].title.removesuffix(", %") for name in shown),
            "p, corrected",
            "final accuracy is",
        ),
        rows=tuple(rows),
        tones=tuple(tones),
        below=notes(table.arms),
    )


def against_scratch(table: Table) -> Sheet | None:
    """The last update of each arm in percent of scratch; None without that arm."""
    found = ratios(table)
    if not found or not found["accuracy"]:
        return None
    num_past = max(x for curve in found["accuracy"].values() for x in curve)
    names = ("accuracy", "steps", "seconds")
    return Sheet(
        title=f"The last update against {table.scratch}",
        how=f"In percent of what {table.scratch} reaches and costs with the same seed on "
        f"everything, with {num_past} past periods.",
        columns=("arm", *names),
        rows=tuple(
            (arm, *(_ratio(found[name].get(arm, {}), num_past) for name in names))
            for arm in found["accuracy"]
        ),
    )


def _ratio(curve: Curve, num_past: int) -> str:
    found = curve.get(num_past)
    if found is None:
        return "–"
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * found.mean:.1f}{width} %"


def releases(table: Table) -> Sheet | None:
    """Of a replay: what the gate said and users would have had; None where nothing was judged."""
    rows = []
    for arm in table.arms:
        for run in arm.runs:
            found = replayed(run)
            if found is not None:
                had = "–" if found.mean_had is None else points(100 * found.mean_had)
                counts = (found.num_accepted, found.num_review, found.num_rejected)
                rows.append(
                    (
                        *(arm.name, str(run.seed), *map(str, counts), str(found.num_deployed)),
                        *(update_of(found.last_deployed), had),
                        *(three_digits(found.seconds), f"{found.tokens:,}"),
                    )
                )
    if not rows:
        return None
    return Sheet(
        title="Replay: what the gate would have done",
        how="The gate's verdict on each update, how many would have been deployed, and which of "
        "them at the end. Accuracy is what users had, a mean over the stream. Rejected updates "
        "cost as well.",
        columns=(
            *("arm", "seed", "accepted", "review", "rejected", "deployed"),
            *("at the end", "users had, %", "seconds", "tokens"),
        ),
        rows=tuple(rows),
    )
