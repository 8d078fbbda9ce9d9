"""What the sweeps tried and chose, as a table and as sentences, for the page and the Markdown.

Pure text; no markup. Called by `updater.study.report.sheets`, `page` and `markdown`.
"""

from updater.study.report.sheet import Sheet
from updater.study.report.words import points
from updater.study.sweep import Sweep, Try
from updater.study.tabulated import TIE_RULE, Arm, Table, chosen, tie

TITLE = "What the sweeps chose"
EDGE = "at the edge of what was tried"


def sheet(table: Table) -> Sheet:
    """A row for each choice of each sweep, with every seed's accuracy."""
    seeds = sorted({seed for one in table.sweeps for t in one.tries for seed in t.accuracies})
    rows = [(sweep, one) for sweep in table.sweeps for one in sweep.tries]
    return Sheet(
        title="What the sweeps tried",
        how="Final average accuracy on the validation stream, in percent: the mean, and each seed "
        f"by itself. The highest mean is chosen; where several tie none has won, and {TIE_RULE}. A "
        f"choice with a seed that stopped is none. {EDGE.capitalize()}: no value beyond the chosen "
        "one, or those that tie with it, was tried, and a better one may lie there.",
        columns=("arm", "choice", "mean, %", *(f"seed {seed}" for seed in seeds), "outcome"),
        rows=tuple(
            (
                *(sweep.arm, chosen(one.choice), _percent(one.mean)),
                *(_percent(one.accuracies.get(seed)) for seed in seeds),
                _outcome(sweep, one),
            )
            for sweep, one in rows
        ),
        tones=tuple(
            "bad" if one.failures else "good" if sweep.best == (one,) else "" for sweep, one in rows
        ),
    )


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else points(100 * fraction)


def _outcome(sweep: Sweep, one: Try) -> str:
    is_tie = len(sweep.best) > 1
    if one is sweep.chosen:
        taken = "taken of a tie" if is_tie else "chosen"
        return f"{taken}, {EDGE}" if sweep.at_edge else taken
    if one in sweep.best:
        return "in the tie"
    return "; ".join(f"seed {seed} stopped: {why}" for seed, why in one.failures.items())


def sentences(table: Table) -> list[str]:
    """One for each arm that was swept; the same choice of several seeds is said once."""
    notes = {sweep.arm: _notes(sweep) for sweep in table.sweeps}
    return [said for arm in table.arms if (said := _said(arm, notes.get(arm.name, "")))]


def _notes(sweep: Sweep) -> str:
    """What qualifies its choice."""
    edge = f"{', '.join(sweep.at_edge)} {EDGE}" if sweep.at_edge else ""
    found = "; ".join(note for note in (tie(sweep), edge) if note)
    return f" ({found})" if found else ""


def _said(arm: Arm, notes: str) -> str:
    kept = dict.fromkeys(chosen(run.choice) for run in arm.runs if run.choice)
    return f"{arm.name}: {'; or '.join(kept)}{notes}" if kept else ""
