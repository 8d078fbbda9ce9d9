"""A stream of periods by the public commands: a first model, then every period updated in turn.

    python bench/stream.py --config bench/headlines.toml --data headlines.jsonl \
        --first 2018-Q2..2019-Q4 --then 2020-Q1..2022-Q3 --page docs/headlines.md

Prints a line an update, and at the end writes the page with its table, and beside it the score
matrix as a picture. What the gate puts under review is approved, as its owner might: the stream
shall go on. At last a model is trained from scratch on all periods, to compare cost and accuracy
with. With --workspace it goes on where it was; without, it works in a temporary folder.

An update's orchestration is its wall time, from starting the command to its exit, less the seconds
in which it trained, estimated importance or evaluated. Target: at most 20 s.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TARGET_SECONDS = 20.0


class Cli:
    """The command `updater`, as a user starts it, on one workspace."""

    def __init__(self, workspace: Path, data: Path) -> None:
        self._command = [str(Path(sys.executable).with_name("updater")), "--json", "--quiet"]
        self._options = ["--workspace", str(workspace), "--set", f"source.uri={data}"]

    def __call__(self, *words: str) -> tuple[dict[str, Any], float]:
        """Its answer and its wall seconds."""
        started = time.monotonic()
        done = subprocess.run(
            [*self._command, *words, *self._options], stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def mean(scores: dict[str, Any], who: str, *, but: str) -> float:
    """The mean accuracy of `who` on all periods but one."""
    return statistics.fmean(s[who] for p, s in scores.items() if p != but)


def updated(cli: Cli, period: str) -> dict[str, Any]:
    """The period's update, decided: what `updater update` says of it, and what it cost."""
    answer, seconds = cli("update", period)
    if answer["verdict"] == "review" and not answer["promoted"]:
        cli("approve", answer["update"], "--reason", "the stream goes on")
    compute = sum(answer["compute_seconds"].values())
    return answer | {"wall": seconds, "compute": compute, "orchestration": seconds - compute}


def row(answer: dict[str, Any]) -> str:
    """One line of the table."""
    scores, period = answer["scores"], answer["period"]
    new = scores[period]
    verdict = answer["verdict"] + (", approved by hand" if answer["verdict"] == "review" else "")
    cells = [
        period,
        verdict,
        f"{new['base']:.1%} → {new['candidate']:.1%}",
        f"{mean(scores, 'base', but=period):.1%} → {mean(scores, 'candidate', but=period):.1%}",
        f"{answer['wall']:.0f} s",
        f"{answer['compute_seconds']['train']:.0f} s",
        f"{answer['orchestration']:.1f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def stream(cli: Cli, first: str, then: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table's lines, and the answers of the updates."""
    made, seconds = cli("scratch", "--periods", first, "--deploy")
    accuracy = statistics.fmean(made["scores"].values())
    lines = [
        f"The first model, from scratch on {first}: {accuracy:.1%} on their holdouts on average, "
        f"in {seconds:.0f} s.",
        "",
        "| period | verdict | the new period | the past, mean | wall | training | orchestration |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    answers = []
    for period in then:
        answers.append(updated(cli, period))
        lines.append(row(answers[-1]))
        print(lines[-1], flush=True)
    return lines, answers


def summary(cli: Cli, every: list[str], answers: list[dict[str, Any]]) -> list[str]:
    """What it comes to, beside training from scratch on everything."""
    made, seconds = cli("scratch", "--periods", *every)
    verdicts = Counter(answer["verdict"] for answer in answers)
    orchestration = [answer["orchestration"] for answer in answers]
    wall = statistics.median(answer["wall"] for answer in answers)
    last = statistics.fmean(s["candidate"] for s in answers[-1]["scores"].values())
    return [
        "",
        f"From scratch on all {len(every)} periods: {statistics.fmean(made['scores'].values()):.1%}"
        f" on average, in {seconds:.0f} s; the last update's version has {last:.1%}, and an update "
        f"took {wall:.0f} s (median).",
        "",
        f"Verdicts: {', '.join(f'{n} {v}' for v, n in verdicts.items())}. Of the last update the "
        f"gate said: {' '.join(answers[-1]['reasons'][:2])}",
        "",
        f"Orchestration: {statistics.median(orchestration):.1f} s (median), "
        f"{max(orchestration):.1f} s (most); the target is {TARGET_SECONDS:.0f} s.",
    ]


def draw(workspace: Path, version: str, path: Path) -> None:
    """The score matrix of the report on `version` is the picture `path`."""
    from updater.report import style
    from updater.report.collect import collect
    from updater.report.figures import FIGURES
    from updater.workspace import Workspace

    figure = FIGURES["score_matrix"].draw(collect(Workspace.open(workspace), version))
    assert figure is not None, "a version that was judged has scores"
    style.save(figure, path)


def main() -> None:
    """Runs the stream and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the workspace's updater.toml")
    parser.add_argument("--data", type=Path, required=True, help="its source")
    parser.add_argument("--first", required=True, help="the first model's periods, FIRST..LAST")
    parser.add_argument("--then", required=True, help="the periods updated in turn, FIRST..LAST")
    parser.add_argument("--page", type=Path, help="where the result goes, with a .svg beside it")
    parser.add_argument("--workspace", type=Path, help="where to work, and to go on")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = (given.workspace or Path(temporary) / "workspace").resolve()
        cli = Cli(workspace, given.data.resolve())
        cli("init", str(workspace), "--config", str(given.config))
        periods = _periods(workspace)
        then = periods.expand([given.then])
        lines, answers = stream(cli, given.first, then)
        lines += summary(cli, [*periods.expand([given.first]), *then], answers)
        print("\n".join(lines[-5:]), flush=True)
        if given.page:
            picture = given.page.with_suffix(".svg")
            draw(workspace, answers[-1]["candidate"], picture)
            given.page.write_text(_page(given, lines, picture))


def _periods(workspace: Path) -> Any:
    from updater.workspace import Workspace

    return Workspace.open(workspace).periods


def _page(given: argparse.Namespace, lines: list[str], picture: Path) -> str:
    machine = f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    return "\n".join(
        [
            f"# The stream of {given.config.stem}",
            "",
            f"`python bench/stream.py --config {given.config} --data {given.data.name} "
            f"--first {given.first} --then {given.then} --page {given.page}`, {machine}. What "
            f"each column is stands at the top of bench/stream.py; the configuration is "
            f"[{given.config.name}](../{given.config}).",
            "",
            f"![accuracy of every version on every period]({picture.name})",
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
