"""The model card of one version, as Markdown: data, method, scores, limits, cost.

Everything in it is read off the report's data; what was not measured is said to be so. `whole` is
the artifact, `brief` the description on MLflow's page of the version, which has little room. The
headings follow Mitchell et al. (2019), "Model Cards for Model Reporting". Called by the pipeline's
publishing.
"""

from collections.abc import Sequence

from updater import statistics
from updater.gate_reasons import percent, points
from updater.report.asked import recovered, removed
from updater.report.data import Dataset, ReportData
from updater.report.words import amount, duration, energy
from updater.settings import CompressionSettings

CARD = "model_card.md"
LESS = (24, 12, 6, 3, 1)  # periods in a table, tried in turn where a description must be short
DECIDED = {"approved": "approved", "rejected": "turned down", "promoted": "promoted by force"}


def whole(data: ReportData) -> str:
    """Every period that the version has learnt."""
    return _card(data, len(data.periods))


def brief(data: ReportData, most_characters: int) -> str:
    """At most so many characters: where there are many periods, the weakest and the newest."""
    for most in (len(data.periods), *LESS):
        card = _card(data, most)
        if len(card) <= most_characters:
            return card
    return card[: most_characters - 1] + "…"


def _card(data: ReportData, most: int) -> str:
    subject = data.subject
    made = (
        f"made by compressing version {subject.base}"
        if subject.kind == "compress"
        else f"made from version {subject.base}"
        if subject.base is not None
        else "a first model, made from nothing"
        if subject.kind == "scratch"
        else "a checkpoint that was adopted"
    )
    new = f"; what is new in it is {_spanned(subject.new)}" * (subject.kind != "compress")
    parts = [
        f"# {_plain(data.workspace)}, version {subject.id}",
        f"{_judged(data)} It was {made}. It has learnt {_spanned(subject.learnt)}{new}. Whether it "
        "is deployed now is said by its aliases.",
        "## Use",
        f'`mlflow.pyfunc.load_model("models:/{data.workspace}/{subject.id}").predict(["..."])`, '
        f"or `updater export {subject.id} DIR` for a serving stack.",
        "## Data",
        *_data(data, most),
        "## Method",
        *_method(data),
        "## Scores",
        *_scores(data, most),
        "## Limits",
        *_limits(data),
        "## Cost",
        *_cost(data),
        "## Identity",
        f"Update `{subject.update}` · checkpoint `{subject.digest[:16]}` · configuration "
        f"`{data.config_digest[:16]}` · made {subject.created_at[:16].replace('T', ' ')} UTC",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judged(data: ReportData) -> str:
    judged = data.judgement
    if judged is None:
        return "It was **not judged** yet."
    said = f"The gate's verdict is **{judged.verdict}**"
    if judged.decision is None:
        return f"{said}."
    kind, actor, _ = judged.decision
    return f"{said}; it was {DECIDED[kind]} by {_plain(actor)}."


def _data(data: ReportData, most: int) -> list[str]:
    shown = _shown(data, most)
    rows = [
        [_plain(d.period), f"`{d.id}`", amount(d.num_train), amount(d.num_holdout), _refused(d)]
        for d in data.datasets
        if d.period in shown
    ]
    lines = [_table(["period", "dataset version", "train", "holdout", "left out"], rows, "llrrr")]
    left = len(data.datasets) - len(rows)
    total = sum(d.num_train for d in data.datasets)
    if left:
        lines.append(f"{left} more periods are in `{CARD}` of the run.")
    lines.append(
        f"{amount(total)} train examples of all periods lie in DVC by these names. Left out are "
        "rows that were quarantined, double, or in both train and holdout."
    )
    if data.rehearsed is not None:
        lines.append(
            f"The update was trained on what is new and on {amount(data.rehearsed.num_examples)} "
            f"old examples, chosen by the policy `{data.rehearsed.policy}`."
        )
    return lines


def _refused(dataset: Dataset) -> str:
    return amount(dataset.num_quarantined + dataset.num_duplicates + dataset.num_leaked)


def _method(data: ReportData) -> list[str]:
    """By the configuration that was recorded with the update."""
    subject, config = data.subject, data.config
    if subject.kind == "adopt" or not config:
        return ["Nothing was trained here: the checkpoint came as it is."]
    if subject.kind == "compress":
        asked = CompressionSettings(**config["compression"])
        trained = "" if asked.recovery != "none" else "Nothing was trained here. "
        return [trained + _taken_away(asked)]
    training = config.get("training", {})
    if subject.kind == "scratch":
        training = {**training, **config.get("scratch", {})}
        how = "Trained from random weights"
    else:
        how = f"Fine-tuned from version {subject.base} ({training.get('adapt', 'full')} weights)"
    keys = ("epochs", "batch_size", "learning_rate", "precision", "seed")
    said = ", ".join(f"{key.replace('_', ' ')} {training[key]}" for key in keys if key in training)
    lines = [f"{how}: {said}."]
    held = config.get("regularizer", {})
    if subject.kind == "update":
        method = held.get("method", "none")
        strength = held.get("strength")
        by = f"by `{method}`" + (f" of strength {strength}" if strength is not None else "")
        lines.append("Nothing held the weights." if method == "none" else f"Weights held {by}.")
        asked = CompressionSettings(**config.get("compression", {}))
        if asked.is_on:
            lines.append(f"Then it was compressed. {_taken_away(asked)}")
    if data.searched is not None and data.searched.winner is not None:
        values = ", ".join(f"{k} {v:.4g}" for k, v in data.searched.winner["values"].items())
        lines.append(f"{len(data.searched.trials)} trials chose {values}.")
    return lines


def _taken_away(asked: CompressionSettings) -> str:
    """What compression took away, and gave back."""
    said = []
    if asked.method != "none":
        said.append(f"Removed: {removed(asked, f'`{asked.method}`')}.")
    if asked.recovery != "none":
        said.append(f"What was left learnt again, {recovered(asked)}.")
    if asked.quantize != "none":
        said.append(f"Weights are kept as `{asked.quantize}`.")
    return " ".join(said)


def _scores(data: ReportData, most: int) -> list[str]:
    subject, shown = data.subject, _shown(data, most)
    has_base = subject.base is not None
    rows = []
    for period in subject.learnt:
        cell = data.scores.get((subject.id, period))
        if period not in shown:
            continue
        row = [_plain(period) + (" (new)" if period in subject.new and has_base else "")]
        if cell is None:
            row += ["not measured", "", ""]
        else:
            bounds = statistics.wilson(cell.num_correct, cell.num_examples)
            interval = f"{100 * bounds.low:.1f} to {100 * bounds.high:.1f}"
            row += [percent(cell.accuracy), interval, amount(cell.num_examples)]
        if subject.base is not None:
            before = data.accuracy(subject.base, period)
            row.append(points(cell.accuracy - before) if cell and before is not None else "–")
        rows.append(row)
    heading = ["period", "accuracy", "95 % interval", "examples"]
    if has_base:
        heading.append(f"change on version {subject.base}")
    found = data.summary()
    means = [
        ("mean accuracy", "average_accuracy", percent),
        ("mean forgetting (best so far less present)", "average_forgetting", _loss),
        ("backward transfer", "backward_transfer", points),
    ]
    said = [f"{name} {words(found[key])}" for name, key, words in means if key in found]
    left = len(subject.learnt) - len(rows)
    return [
        _table(heading, rows, "lrrrr"[: len(heading)]),
        f"{left} more periods are in `{CARD}` of the run; these are the weakest and the newest."
        if left > 0
        else "",
        f"Over all periods: {', '.join(said)}." if said else "",
    ]


def _loss(fraction: float) -> str:
    """Forgetting is a loss by itself: no sign where there is one."""
    return points(fraction).removeprefix("+")


def _limits(data: ReportData) -> list[str]:
    subject = data.subject
    lines = [
        "* Measured on the holdout of the periods above, and on nothing else: no other tasks, "
        "languages, safety or bias. An answer is right where every token of the completion is, "
        "under teacher forcing; free generation may differ.",
    ]
    lacking = [p for p in subject.learnt if (subject.id, p) not in data.scores]
    if lacking:
        lines.append(f"* Not measured on {_spanned(lacking)}.")
    sizes = [
        cell.num_examples for p in subject.learnt if (cell := data.scores.get((subject.id, p)))
    ]
    if sizes:
        half = 98 / min(sizes) ** 0.5  # 1.96 standard errors of a share of one half, in points
        lines.append(
            f"* The smallest holdout has {amount(min(sizes))} examples: its accuracy is known to "
            f"{half:.0f} points either way at most."
        )
    if data.judgement is not None and subject.base is not None:
        lines.append(
            f"* The gate lets a past period become worse by up to "
            f"{100 * data.judgement.margin_fraction:g} points."
        )
    if data.flips:
        found = data.summary()
        lines.append(
            f"* {amount(int(found['num_negative_flips']))} answers that version {subject.base} "
            f"had right are wrong now, {amount(int(found['num_positive_flips']))} the reverse."
        )
    return ["\n".join(lines)]


def _cost(data: ReportData) -> list[str]:
    cost = data.cost
    lines = [f"* {duration(cost.seconds)} from ingest to verdict."]
    if cost.device_hours is None:
        lines.append("* Hours of devices: not recorded by the release that made it.")
    elif cost.device == "CPU":
        lines.append(
            f"* 0 GPU hours: it computed on CPU, for {duration(3600 * cost.device_hours)}."
        )
    else:
        lines.append(
            f"* {cost.device_hours:.2f} {cost.device or 'device'} hours: the seconds that "
            "training, estimating and evaluating computed, times the devices of each."
        )
    if cost.energy_joules is None:
        lines.append("* Energy: not measured; there was no meter (NVML's counters of GPU boards).")
    else:
        lines.append(
            f"* Energy: {energy(cost.energy_joules)}, by the counters of the GPU boards during "
            "training alone; without CPU, memory and cooling."
        )
    return ["\n".join(lines)]


def _shown(data: ReportData, most: int) -> set[str]:
    """Where not all periods are: the new ones, and the weakest of the others."""
    subject = data.subject
    if len(subject.learnt) <= most:
        return set(subject.learnt)
    new = list(subject.new)[-most:] if subject.base is not None else []
    others = sorted(
        (p for p in subject.learnt if p not in new),
        key=lambda period: data.accuracy(subject.id, period) or 0.0,
    )
    return {*new, *others[: most - len(new)]}


def _spanned(periods: Sequence[str]) -> str:
    if not periods:
        return "nothing"
    if len(periods) <= 3:
        return ", ".join(map(_plain, periods))
    return f"{_plain(periods[0])} to {_plain(periods[-1])} ({len(periods)} periods)"


def _table(heading: list[str], rows: list[list[str]], sides: str) -> str:
    rule = ["---" if side == "l" else "---:" for side in sides]
    lines = [heading, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """A name from outside, so that it can't be read as Markdown or HTML."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#~" else c for c in text)
    return escaped.replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
