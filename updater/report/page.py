"""The report as one HTML page that needs nothing else: no script, no font, no picture from outside.

`render` is called by `updater report` and by the pipeline's publishing. The layout is in
`template.html`, what all pages of the house share in `base.html`; every text from outside goes
through Jinja's escaping.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from updater import metrics
from updater.gate_reasons import percent, points
from updater.report import asked, focus, style, words
from updater.report.data import ReportData
from updater.report.figures import drawn

_MOST_TEXT = 600  # characters of a prompt in the flips' tables; the whole is in the dataset version
VERDICTS = {"accepted": "Accepted", "rejected": "Rejected", "review": "Needs a person's review"}
JUDGED = {**VERDICTS, "review": "Undecided"}
DECIDED = {
    "approved": "approved",
    "rejected": "turned down",
    "abandoned": "abandoned",
    "promoted": "promoted by force",
}


def render(data: ReportData) -> str:
    """The page on `data.version`, a whole HTML document."""
    chain, few = data.chain(), focus.focused(data)
    return _template().render(
        data=data,
        subject=data.subject,
        figures={
            name: Markup(style.inline_svg(figure, name, picture.description))
            for name, picture, figure in drawn(data)
        },
        headline=_headline(data),
        made=_made(data),
        standing=_standing(data),
        tiles=_tiles(data),
        lineage=data.lineage(),
        forgotten=metrics.forgetting(chain),
        present=chain.present,
        summary=data.summary(),
        shown=few.periods,
        rows=focus.rows(data),
        colours=style.steps(),
        total_seconds=sum(seconds for _, seconds in data.step_seconds),
        config=json.dumps(data.config, indent=2, ensure_ascii=False, default=str),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value: "–" if value is None else percent(value),
        "points": lambda value: "–" if value is None else _minus(points(value)),
        "minus": _minus,
        "p_value": lambda p: "< 0.0001" if p < 1e-4 else f"{p:.2g}",
        "heat": style.step,
        "unmeasured": lambda losses: [period for period, loss in losses.items() if loss is None],
        "count": words.amount,
        "seconds": words.duration,
        "bytes": words.size,
        "energy": words.energy,
        "removed": lambda asks: asked.removed(asks, f"“{asks.method}”"),
        "recovered": asked.recovered,
        "moment": lambda at: at[:16].replace("T", " "),
        "cut": lambda text: text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…",
    }
    return environment.get_template("template.html")


def _headline(data: ReportData) -> tuple[str, str]:
    """(a class for the colour, the verdict in words)."""
    if data.judgement is None:
        return "none", "Not judged yet"
    verdict, decision = data.judgement.verdict, data.judgement.decision
    if decision is None:
        return verdict, VERDICTS[verdict]
    kind, actor, reason = decision
    return verdict, f"{JUDGED[verdict]} by the gate, {DECIDED[kind]} by {actor}: {reason}"


def _made(data: ReportData) -> str:
    """Of what it was made, and how."""
    subject = data.subject
    if subject.base is None:
        return "a first model, without a base"
    if subject.kind == "compress":
        return f"made by compressing version {subject.base}"
    return f"trained from version {subject.base}" + ", then compressed" * bool(data.compression)


def _standing(data: ReportData) -> str:
    """What users have, seen from this version."""
    now = data.deployed
    if now is None:
        return "Nothing is deployed yet."
    if now == data.version:
        return "Users have this version now."
    if data.subject.was_deployed:
        return f"Users had this version; now they have version {now}."
    return f"Users never had this version; they have version {now}."


def _tiles(data: ReportData) -> list[dict[str, Any]]:
    """The few numbers at the top: a name, the number, and what it means."""
    summary, subject = data.summary(), data.subject
    num = len(subject.learnt)
    tiles = [
        {
            "name": "Mean accuracy",
            "value": _maybe(percent, summary.get("average_accuracy")),
            "note": f"over {_all(num)} it has learnt",
        }
    ]
    if subject.base is not None:
        tiles += [_new_period_tile(data, period) for period in subject.new[:1]]
    worst = metrics.worst(data.chain())
    if worst is not None and num > 1:
        note = style.shortened(worst[0], 34)
        tiles.append({"name": "Weakest period", "value": percent(worst[1]), "note": note})
    if "average_forgetting" in summary:
        tiles += [
            {
                "name": "Forgetting",
                "value": _minus(points(summary["average_forgetting"])).removeprefix("+"),
                "note": "best score so far minus present, mean over past periods",
            },
            {
                "name": "Backward transfer",
                "value": _minus(_maybe(points, summary.get("backward_transfer"))),
                "note": "change on past periods since each was learnt",
            },
        ]
    if data.compression is not None:
        before, now = (
            words.size(n) for n in (data.compression.base_bytes, data.compression.num_bytes)
        )
        tiles.append(
            {
                "name": "Weights on disk",
                "value": percent(data.compression.bytes_ratio),
                "note": f"{now}, of {before} before it was compressed",
            }
        )
    if data.flips is not None:
        lost, won = (round(summary[f"num_{sign}_flips"]) for sign in ("negative", "positive"))
        tiles.append(
            {
                "name": "Flips",
                "value": f"−{lost:,}  +{won:,}",
                "note": "right answers that became wrong, and wrong ones that became right",
            }
        )
    return tiles


def _new_period_tile(data: ReportData, period: str) -> dict[str, Any]:
    base = data.subject.base
    assert base is not None
    before = _maybe(percent, data.accuracy(base, period))
    return {
        "name": f"New period {style.shortened(period, 18)}",
        "value": _maybe(percent, data.accuracy(data.version, period)),
        "note": f"{before} with version {base}, before learning it",
    }


def _all(num_periods: int) -> str:
    return {1: "the period", 2: "both periods"}.get(num_periods, f"all {num_periods} periods")


def _maybe(words: Any, value: float | None) -> str:
    return "–" if value is None else words(value)


def _minus(text: str) -> str:
    """Hyphens before a number as real minus signs."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)
