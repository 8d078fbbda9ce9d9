"""Whether what was read is a period that can be versioned. Called by `updater.ingest`."""

from collections.abc import Sequence

from updater.errors import InputError
from updater.ingest.summary import Reading, Summary

# Chosen, not measured: bad rows are an accident; where they are most, the mapping is wrong.
MAX_QUARANTINED_FRACTION = 0.5


def check_usable(
    reading: Reading,
    summary: Summary,
    faults: Sequence[tuple[str, str, int]],
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
        faults: (field, rule, rows) of the quarantine, the commonest.
        is_split_given: whether the source says the split.

    Raises:
        InputError: most rows are bad, or there is nothing to train on or to hold out.
    """
    num_ours = reading.num_rows_read - reading.num_skipped - reading.num_unplaced
    none_ours = "" if num_ours else f"no row belongs to {summary.period}; "
    found = none_ours + _told(reading, summary, faults)
    cure = "mend source.fields in updater.toml, or the source"
    if summary.num_quarantined - summary.num_unplaced > MAX_QUARANTINED_FRACTION * num_ours:
        raise InputError(found, "at least half of a period's rows must be good", cure)
    if reading.num_unplaced > MAX_QUARANTINED_FRACTION * reading.num_rows_read:
        rule = f"at least half of the rows must have a period; {reading.num_unplaced} have not"
        raise InputError(found, rule, cure)
    if not summary.num_train + summary.num_holdout:
        raise InputError(found, "a period must have rows", _where_to_look(reading, num_ours))
    if not summary.num_train:
        raise InputError(found, "a period must have train examples", "look at how rows are split")
    if not summary.num_holdout and not is_split_given:
        cure = "raise periods.holdout_fraction, or take longer periods"
        raise InputError(found, "a period must have holdout examples", cure)


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


def _told(reading: Reading, summary: Summary, faults: Sequence[tuple[str, str, int]]) -> str:
    """What was read, in one line."""
    rules = "; ".join(f"{f'{field}: ' if field else ''}{rule} (x{n})" for field, rule, n in faults)
    return (
        f"period {summary.period}: {reading.num_rows_read} rows read, {reading.num_skipped} of "
        f"other periods, {summary.num_quarantined} quarantined{f' ({rules})' if rules else ''}, "
        f"{summary.num_duplicates} repeated, {summary.num_leaked} leaked, {summary.num_train} to "
        f"train on, {summary.num_holdout} held out"
    )
