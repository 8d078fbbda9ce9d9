"""Whether what was read is a period that can be versioned. Called by `updater.ingest`."""

from updater.errors import InputError
from updater.ingest.summary import FaultCount, Faults, Reading, Summary
from updater.sources import CONVERT_CURE, UTF_8_RULE

# Chosen, not measured: bad rows are an accident; where they are most, the mapping is wrong.
MAX_QUARANTINED_FRACTION = 0.5


def check_usable(
    reading: Reading,
    summary: Summary,
    faults: Faults,
    *,
    is_split_given: bool,
) -> None:
    """The rows are good, and there are some on both sides.

    The rows that are known to be the period's are judged by themselves. Broken ones of unknown
    period may be anyone's, so they are judged beside all rows of the source. Where the source says
    the split, it may say that none is held out: such a period can be looked at, and it is the
    update that refuses it.

    Args:
        reading: what was read.
        summary: what would be made of it.
        faults: of the rows in the quarantine.
        is_split_given: whether the source says the split.

    Raises:
        InputError: most rows are bad, or there is nothing to train on or to hold out.
    """
    num_ours = reading.num_rows_read - reading.num_skipped - reading.num_unplaced
    found = _told(reading, summary, faults)
    cure = _how_to_mend(faults)
    if summary.num_quarantined - summary.num_unplaced > MAX_QUARANTINED_FRACTION * num_ours:
        raise InputError(found, "at least half of a period's rows must be good", cure)
    if reading.num_unplaced > MAX_QUARANTINED_FRACTION * reading.num_rows_read:
        rule = f"at least half of the rows must have a period; {reading.num_unplaced} have not"
        raise InputError(found, rule, cure)
    if not summary.num_train + summary.num_holdout:
        found = found if num_ours else f"no row belongs to {summary.period}; {found}"
        cure = _where_to_look(reading, num_ours)
        skip = f"or pass it over: `updater skip {summary.period} --reason TEXT`"
        raise InputError(found, "a period must have rows", f"{cure}; {skip}")
    if not summary.num_train:
        raise InputError(found, "a period must have train examples", "look at how rows are split")
    if not summary.num_holdout and not is_split_given:
        cure = "raise periods.holdout_fraction, or take longer periods"
        raise InputError(found, "a period must have holdout examples", cure)


def _how_to_mend(faults: Faults) -> str:
    """The cure for rows of which most are bad, by what is wrong with most of them."""
    if faults.commonest and faults.commonest[0].rule == UTF_8_RULE:
        file, line = faults.commonest[0].file, faults.commonest[0].line
        first = f"the first such row is in {file}, line {line}"
        return f"{CONVERT_CURE.format('latin1')}; {first}"
    return "mend source.fields in updater.toml, or the source"


def _where_to_look(reading: Reading, num_ours: int) -> str:
    """The cure for a period without an example."""
    if reading.unknown_periods:
        return f"the source has rows of {', '.join(reading.unknown_periods)}, not in periods.order"
    if num_ours or not reading.num_rows_read:
        return "look for them in the source"
    return (
        "name a period that the source has rows of, or mend source.fields.date or "
        "source.fields.period, which says whose a row is"
    )


def _told(reading: Reading, summary: Summary, faults: Faults) -> str:
    """What was read, in one line."""
    named = [_named(fault) for fault in faults.commonest]
    if faults.num_faults > len(named):
        more = faults.num_faults - len(named)
        named.append(f"and {more} more rule{'s' if more > 1 else ''}")
    rules = "; ".join(named)
    return (
        f"period {summary.period}: {reading.num_rows_read} rows read, {reading.num_skipped} of "
        f"other periods, {summary.num_quarantined} quarantined{f' ({rules})' if rules else ''}, "
        f"{summary.num_duplicates} repeated, {summary.num_leaked} leaked, {summary.num_train} to "
        f"train on, {summary.num_holdout} held out"
    )


def _named(fault: FaultCount) -> str:
    """The rule, how many rows break it, and where the first of them is."""
    field = f"{fault.field}: " if fault.field else ""
    rows = f"x{fault.num_rows}, first" if fault.num_rows > 1 else "x1,"
    return f"{field}{fault.rule} ({rows} in {fault.file}, line {fault.line})"
