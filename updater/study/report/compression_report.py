"""What compression costs and saves, as tables: each arm in all, and period by period.

Pure text; no markup. Called by `updater.study.report.sheets`.
"""

from updater.report import style
from updater.study.comparison import Estimate
from updater.study.compressions import Told, by_period, compressions, first_size, over_seeds
from updater.study.report.sheet import Sheet
from updater.study.report.words import (
    CLAIMED,
    TONES,
    difference,
    p_value,
    points,
    seeds_of,
    three_digits,
)
from updater.study.tabulated import Arm, Table

_ACROSS = "accuracy, %"


def sizes(table: Table) -> Sheet | None:
    """A row for the uncompressed model and each that is compressed; None where none is."""
    told, whole, size = compressions(table), table.arm(table.uncompressed), first_size(table)
    if not told or whole is None or size is None:
        return None
    before = (
        *(whole.name, seeds_of(whole), _with_width(whole.estimate(CLAIMED), 100), "–", "–"),
        *(f"{size.num_parameters:,}", "100", _bytes(size.num_bytes), "1.00", "1.00"),
        *("–", "–", "–"),
    )
    return Sheet(
        title="What compression costs and saves",
        how=f"Change: minus {whole.name}, paired by seed, in points with the 95 % interval (paired "
        "t); p is corrected for all arms that compress (Holm). Worst period: the one that pays "
        "most on the mean over seeds, with its change; its interval knows nothing of its having "
        "been picked. Bytes are those of the weight files. Speed is examples a second going "
        f"forward. Both are so many times those of {whole.name}, whose speed was taken beside each "
        "in the same process. Single weights that are zero take room and time like any others; "
        "quantized ones are asked as floats, so what they gain where there are kernels for them is "
        "not known here. Seconds are of all that it took, with what it looked at and the recovery.",
        columns=(
            *("arm", "seeds", _ACROSS, "change", "worst period", "parameters", "not zero, %"),
            *("MiB", "bytes, times", "speed, times", "seconds", "p, corrected"),
            "final accuracy is",
        ),
        rows=(before, *(_row(one) for one in told)),
        tones=("", *(TONES[_claim(one)] for one in told)),
    )


def _row(one: Told) -> tuple[str, ...]:
    arm = one.arm
    found = {
        name: arm.estimate(name)
        for name in ("num_parameters", "num_bytes", "bytes_ratio", "speed_ratio", "seconds")
    }
    numbers = {name: 0.0 if known is None else known.mean for name, known in found.items()}
    nonzero = arm.estimate("nonzero_fraction")
    p = None if one.change is None else one.change.adjusted_p
    return (
        *(arm.name, seeds_of(arm), _with_width(arm.estimate(CLAIMED), 100)),
        *(difference(CLAIMED, one.change), _worst(one)),
        f"{numbers['num_parameters']:,.0f}",
        "–" if nonzero is None else f"{100 * nonzero.mean:.1f}",
        *(_bytes(numbers["num_bytes"]), f"{numbers['bytes_ratio']:.2f}"),
        _with_width(found["speed_ratio"], 1, digits=2),
        *(three_digits(numbers["seconds"]), "–" if p is None else p_value(p), _claim(one)),
    )


def _claim(one: Told) -> str:
    return "undecided" if one.change is None else one.change.claim(more_is_better=True)


def _worst(one: Told) -> str:
    if one.worst is None:
        return "–"
    period, change = one.worst
    bounds = change.interval
    text = f"{period} {style.signed(100 * change.mean)}"
    if bounds is None:
        return text
    return f"{text} ({style.signed(100 * bounds.low)} to {style.signed(100 * bounds.high)})"


def _with_width(found: Estimate | None, scale: float, *, digits: int = 1) -> str:
    if found is None:
        return "–"
    text = f"{scale * found.mean:.{digits}f}"
    width = found.half_width
    return text if width is None else f"{text} ± {scale * width:.{digits}f}"


def _bytes(number: float) -> str:
    return three_digits(number / 2**20)


def periods(table: Table) -> Sheet | None:
    """Each arm's accuracy on each period; None where nothing is compressed."""
    told, whole = compressions(table), table.arm(table.uncompressed)
    if not told or whole is None:
        return None
    across = list(over_seeds(by_period(whole)))
    return Sheet(
        title="Compressed, period by period",
        how="Accuracy on each period at the end, in percent, mean over seeds; in brackets the "
        f"change to {whole.name} in points, over common seeds.",
        columns=("arm", *across),
        rows=(
            (whole.name, *(_accuracy(whole, period) for period in across)),
            *((one.arm.name, *(_changed(one, period) for period in across)) for one in told),
        ),
    )


def _accuracy(arm: Arm, period: str) -> str:
    found = over_seeds(by_period(arm)).get(period)
    return "–" if found is None else points(100 * found.mean)


def _changed(one: Told, period: str) -> str:
    found, change = one.periods.get(period), one.changes.get(period)
    if found is None:
        return "–"
    bracket = "" if change is None else f" ({style.signed(100 * change.mean)})"
    return f"{points(100 * found.mean)}{bracket}"
