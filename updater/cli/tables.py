"""How answers look to people: small rich tables, percent with one digit, words for verdicts."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from updater.step_titles import title

if TYPE_CHECKING:
    from store.ledger import DatasetVersion, Update
    from updater.release import Release
    from updater.workspace import Workspace

MOST_QUARANTINED = 10
HISTORY_COLUMNS = 120
"""Where it is piped. Reasons are prose of any length: they go on in the next line, whole."""

WORDS = ("what", "reason", "actor", "dataset version", "at (UTC)", "field", "rule")
VERDICT_STYLE = {"accepted": "bold green", "rejected": "bold red", "review": "bold yellow"}


def percent(fraction: float | None) -> str:
    """81.3 %, or a dash for what has not been measured."""
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def points(difference: float | None) -> str:
    """+1.2, in percent points."""
    return "–" if difference is None else f"{100 * difference:+.1f}"


def names(console: Console, found: Sequence[str], nothing: str) -> None:
    console.print("\n".join(found) if found else nothing, markup=False)


def initialised(console: Console, workspace: "Workspace") -> None:
    console.print(f"Workspace [bold]{workspace.settings.workspace.name}[/] is in {workspace.root}")
    console.print(
        f"Next: {_next(workspace)}, in {workspace.root} or with --workspace {workspace.root}",
        soft_wrap=True,
    )


def _next(workspace: "Workspace") -> str:
    """What is to be done in a workspace that was just made, or made again."""
    from updater import release

    deployed, newest = release.deployed(workspace.ledger), workspace.ledger.newest_version()
    if deployed is not None:
        return f"`updater due`, then `updater update PERIOD` (version {deployed} is deployed)"
    if newest is not None:
        return f"`updater promote {newest.id} --reason TEXT` (nothing is deployed yet)"
    return "`updater scratch --periods P... --deploy` or `updater adopt CHECKPOINT --periods P...`"


def first(console: Console, workspace: "Workspace", done: "Update") -> None:
    from updater import outcome

    answer = outcome.first(workspace, done)
    state = "deployed" if answer["deployed"] else "not deployed"
    console.print(f"Version [bold]{answer['version']}[/] ({state})")
    _scores(console, {p: {"accuracy": a} for p, a in answer["scores"].items()})
    linked(console, answer["links"])


def ingested(console: Console, workspace: "Workspace", version: "DatasetVersion") -> None:
    console.print(
        f"[bold]{version.id}[/]: {version.num_train} train, {version.num_holdout} holdout; "
        f"{version.num_quarantined} quarantined, {version.num_duplicates} duplicates, "
        f"{version.num_leaked} leaked"
    )
    if version.num_quarantined:
        path = workspace.quarantine(version)
        _quarantined(console, path)
        console.print(
            f"All {version.num_quarantined}, with what they held, as Parquet: {path}",
            soft_wrap=True,
        )


def _quarantined(console: Console, path: Path) -> None:
    """The first of the quarantined rows: where each lies, and which rule it breaks."""
    import pyarrow.parquet as pq

    table = _table("file", "line", "field", "rule")
    for row in pq.read_table(path).slice(0, MOST_QUARANTINED).to_pylist():
        table.add_row(*(escape(str(row[name])) for name in ("file", "line", "field", "rule")))
    console.print(table)


def update(console: Console, workspace: "Workspace", done: "Update") -> None:
    from updater import outcome, release

    answer = outcome.update(workspace, done)
    waits = done.id in release.awaiting_approval(workspace.ledger)
    promoted = "promoted" if answer["promoted"] else "not promoted"
    if answer["rolled_back"]:
        promoted = "was promoted, and has been rolled back since"
    console.print(
        f"Update {done.id}: version {answer['candidate']} "
        f"{_judged(answer['verdict'], waits=waits)}, {promoted}"
    )
    for reason in answer["reasons"]:
        console.print(f"  {reason}", markup=False)
    if answer["decision"]:
        console.print(f"  {_happened(answer['decision'])}", markup=False)
    if answer["compression"]:
        console.print(f"  {size(answer['compression'])}", markup=False)
    _scores(console, answer["scores"])
    seconds = [f"{title(done.kind, name)} {s:.0f} s" for name, s in answer["seconds"].items()]
    console.print(", ".join(seconds), style="dim")
    if waits:
        console.print(
            f"Decide: `updater approve {done.id} --reason TEXT{_there(workspace)}` or "
            "`updater reject ...`",
            markup=False,
            soft_wrap=True,
        )
    if answer["rolled_back"]:
        console.print(
            f"Back to it: {_promote(workspace, answer['candidate'])}. "
            "To learn the period anew, change the configuration (training.seed, say)."
        )
    console.print(
        f"Report: `updater report {answer['candidate']}{_there(workspace)}`",
        markup=False,
        soft_wrap=True,
    )
    linked(console, answer["links"])


def _there(workspace: "Workspace") -> str:
    """The option that names the workspace, where whoever types a command here has to."""
    named = Path(os.environ.get("UPDATER_WORKSPACE") or ".").expanduser().resolve()
    return "" if named == workspace.root else f" --workspace {shlex.quote(str(workspace.root))}"


def _judged(verdict: str, *, waits: bool) -> str:
    """The verdict as what is said of a version."""
    said = f"is {verdict}"
    if verdict == "review":
        said = "waits for review" if waits else "was left to a person"
    return f"[{VERDICT_STYLE[verdict]}]{said}[/]"


def linked(console: Console, links: dict[str, str]) -> None:
    """MLflow's pages, each on a line of its own, so that it can be clicked on and copied."""
    for name, address in links.items():
        console.print(f"MLflow, {name}: {address}", markup=False, soft_wrap=True)


def step(console: Console, opened: "Update", name: str, result: dict[str, Any]) -> None:
    console.print(f"{opened.id}: {title(opened.kind, name)} is done")
    for key, value in result.items():
        text = str(value)
        console.print(f"  {key}: {text if len(text) < 120 else text[:117] + '...'}", markup=False)


def status(console: Console, answer: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in answer.items():
        if key in ("links", "updates"):
            continue
        if key == "release":
            shown = escape(_happened(value)) if value else "–"
        elif key == "superseded":
            shown = escape("\n".join(map(_superseded, value))) or "–"
        elif key in ("unfinished", "awaiting_approval"):
            shown = escape("\n".join(_named(one, answer["updates"][one]) for one in value)) or "–"
        elif key == "due" and value is None:
            shown = "[bold red]not known[/]: mend the configuration"
        elif isinstance(value, list):
            shown = ", ".join(value) or "–"
        elif isinstance(value, bool):
            shown = "yes" if value else "[bold red]no[/]: run `updater status --repair`"
        else:
            shown = "–" if value is None else f"[bold]{escape(str(value))}[/]"
        table.add_row(key.replace("_", " "), shown)
    console.print(table)
    linked(console, answer["links"])


def _named(update: str, about: dict[str, Any]) -> str:
    """An update by its ID, whose period that tells, and by what else there is to say."""
    told = [f"version {about['candidate']}"] if about["candidate"] else []
    if about["kind"] == "compress":
        told.append(f"version {about['base']} compressed: {_asked(about['compression'])}")
    elif about["compression"]:
        told.append(f"compressed: {_asked(about['compression'])}")
    elif about["kind"] != "update":
        told.append(about["kind"])
    return f"{update} ({', '.join(told)})" if told else update


def _superseded(update: dict[str, Any]) -> str:
    from updater.objections import begin_anew

    began = f"{update['update']} began at version {update['base']}, which is deployed no more"
    return f"{began}: {begin_anew(update['period'])}"


def _happened(event: dict[str, Any]) -> str:
    what = event["kind"].replace("_", " ")
    return f"{what} at {_utc(event['at'])} UTC by {event['actor']}: {event['reason']}"


def _utc(at: str) -> str:
    return at.replace("T", " ").removesuffix("+00:00")


def periods(console: Console, answer: dict[str, Any]) -> None:
    columns = ("dataset_version", "num_train", "num_holdout", "num_quarantined", "learnt_version")
    table = _table("period", *(c.replace("num_", "").replace("_", " ") for c in columns))
    for period in answer["periods"]:
        cells = [period[column] for column in columns]
        shown = ["" if cell is None else str(cell) for cell in cells]
        table.add_row(period["period"], *shown)
    console.print(table)


def score_matrix(console: Console, answer: dict[str, Any], deployed: str | None) -> None:
    table = _table("version", *answer["periods"])
    for version, row in zip(answer["versions"], answer["accuracy"], strict=True):
        name = f"[bold]{version} (deployed)[/]" if version == deployed else version
        table.add_row(name, *(percent(cell) for cell in row))
    table.add_section()
    table.add_row("examples", *(str(n) for n in answer["num_examples"]), style="dim")
    console.print(table)


def history(console: Console, answer: dict[str, Any]) -> None:
    table = _table("id", "at (UTC)", "actor", "what", "version", "reason")
    for event in answer["events"]:
        at = _utc(event["at"])
        of = event["period"] or (event["update"] if event["kind"] == "abandoned" else None)
        what = f"{event['kind']} {of}" if of else event["kind"]
        cells = (event["id"], at, event["actor"], what, event["version"], event["reason"])
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
    console.print(table, width=None if console.is_terminal else HISTORY_COLUMNS)


def version(console: Console, answer: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in answer.items():
        if key in ("scores", "reasons", "links"):
            continue
        shown = ", ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            told = {"decision": _happened, "compression": _compression}
            shown = told[key](value) if key in told else ", ".join(value.values())
        table.add_row(key.replace("_", " "), "–" if shown is None else escape(str(shown)))
    console.print(table)
    for reason in answer["reasons"]:
        console.print(f"  {reason}", markup=False)
    _scores(console, {p: {"accuracy": a} for p, a in answer["scores"].items()})
    linked(console, answer["links"])


def _compression(told: dict[str, Any]) -> str:
    return f"{_asked(told)}: {size(told)}"


def _asked(told: dict[str, Any]) -> str:
    """What is done to a version that is compressed."""
    done = []
    if told["method"] != "none":
        done.append(
            f"{100 * told['sparsity']:g} % of the {told['remove']} removed by {told['method']}"
        )
    if told["recovery"] != "none":
        done.append(f"recovered by {told['recovery']}")
    if told["quantize"] != "none":
        done.append(f"kept as {told['quantize']}")
    return ", ".join(done)


def size(told: dict[str, Any]) -> str:
    """What is left of a compressed version."""
    nonzero = ""
    if told["nonzero_fraction"] < 0.995:  # else it rounds to all of them
        nonzero = f"{told['nonzero_fraction']:.0%} of them not zero; "
    return (
        f"{told['num_parameters']:,} parameters, {nonzero}"
        f"{told['bytes'] / 1e6:,.1f} MB, {told['bytes'] / told['base_bytes']:.0%} of before"
    )


def evaluation(console: Console, answer: dict[str, Any]) -> None:
    table = _table("period", "accuracy", "95 % interval", "examples")
    for period, score in answer["scores"].items():
        bounds = f"{percent(score['low'])} .. {percent(score['high'])}"
        table.add_row(period, percent(score["accuracy"]), bounds, str(score["num_examples"]))
    console.print(table)


def comparison(console: Console, answer: dict[str, Any]) -> None:
    table = _table(
        "period",
        f"version {answer['first']}",
        f"version {answer['second']}",
        "change",
        "95 % interval",
        "lost",
        "won",
        "examples",
    )
    for period, row in answer["periods"].items():
        table.add_row(
            period,
            percent(row["first"]),
            percent(row["second"]),
            points(row["difference"]),
            f"{points(row['low'])} .. {points(row['high'])}",
            str(row["negative_flips"]),
            str(row["positive_flips"]),
            str(row["num_examples"]),
        )
    console.print(table)
    console.print("lost: right before, wrong now; won: the reverse", style="dim")


def released(
    workspace: "Workspace", done: "Release", lapsed: "Sequence[Update]" = ()
) -> tuple[dict[str, Any], Callable[[Console], None]]:
    """The answer of `promote`, `rollback` and `approve`, for programs and for people. `lapsed`: the
    updates that waited for a person until then, and do so no more."""
    from updater import links

    found = links.of_version(workspace, done.deployed) if done.deployed is not None else {}
    answer = {
        "deployed": done.deployed,
        "previous": done.previous,
        "lapsed": [update.id for update in lapsed],
        "links": found,
    }

    def show(console: Console) -> None:
        _released(console, workspace, done)
        _lapsed(console, lapsed, done)
        linked(console, found)

    return answer, show


def _lapsed(console: Console, updates: "Sequence[Update]", done: "Release") -> None:
    """What went with the release: whoever approves one of several has decided the others too."""
    if not updates:
        return
    base = updates[0].base
    listed = ", ".join(f"{update.id} (version {update.candidate})" for update in updates)
    what, were = ("update", "it was") if len(updates) == 1 else ("updates", "they were")
    console.print(
        f"{len(updates)} {what} that waited can be approved no more, as long as version {base} is "
        f"not deployed, which {were} made from: {listed}. Compare: "
        f"`updater compare {done.deployed} VERSION`; deploy one all the same: "
        "`updater promote VERSION --reason TEXT --force`",
        markup=False,
        soft_wrap=True,
    )


def _promote(workspace: "Workspace", version: str) -> str:
    from updater import objections, release

    ledger = workspace.ledger
    now = release.deployed(ledger)
    return objections.promotion_command(ledger, ledger.model_version(version), now)


def _released(console: Console, workspace: "Workspace", done: "Release") -> None:
    if done.event.version != done.deployed:
        console.print(
            f"Version {done.event.version} was deployed before and is no more: version "
            f"[bold]{done.deployed}[/] is. {_promote(workspace, str(done.event.version))} deploys "
            "it again"
        )
        return
    if not done.is_new:
        what = "MLflow's aliases follow now" if done.moved else "nothing was changed"
        console.print(f"Version [bold]{done.deployed}[/] is deployed already; {what}")
        return
    before = f"was {done.previous}" if done.previous else "the first"
    console.print(f"Version [bold]{done.deployed}[/] is deployed ({before})")


def _scores(console: Console, scores: dict[str, dict[str, Any]]) -> None:
    if not scores:
        return
    columns = list(next(iter(scores.values())))
    table = _table("period", *(c.removeprefix("num_") for c in columns))
    for period, row in scores.items():
        table.add_row(
            period, *(str(v) if c.startswith("num_") else percent(v) for c, v in row.items())
        )
    console.print(table)


def _table(first_column: str, *columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first_column, overflow="fold")
    for column in columns:
        words = column in WORDS
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table
