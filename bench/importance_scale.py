"""How large the Fisher is after each update of a stream, which decides what a strength means.

    updater init clinc --config docs/studies/clinc.workspace.toml
    export UPDATER_SOURCE_URI=/data/clinc150.jsonl
    python bench/importance_scale.py clinc --write     # about 5 minutes on one core

The stream of docs/studies/clinc.toml with its first seed: a first model of five domains, then
updates that rehearse a quarter of the past and are held by nothing. After each one the Fisher is
estimated on 256 train examples of all that was learnt, as the service estimates it for the next
update, with the true completions (`empirical`) and with drawn ones (`sampled`). Its trace is
the sum over all weights.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from updater.study import file, stream
from updater.study.fine_tuned import FineTuned
from updater.study.first import prepare, scores
from updater.study.job import Job
from updater.study.jobs import Jobs
from updater.study.measures import over_stream
from updater.study.results import Run, Stage
from updater.train.encode import encode
from updater.train.importance import estimate
from updater.train.memory import sample
from updater.workspace import Workspace

STUDY = Path(__file__).parents[1] / "docs" / "studies" / "clinc.toml"
ARM = "rehearsal"
ESTIMATORS = ("empirical", "sampled")
RESULTS = Path(__file__).parent / "results" / "importance_scale.md"


class Row(NamedTuple):
    """After `learnt`: the mean accuracy on the periods learnt so far, 0..1, and the traces."""

    learnt: str
    accuracy: float
    traces: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspace", help="made with docs/studies/clinc.workspace.toml")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(walked(job_of(Workspace.open(Path(asked.workspace)), Path(folder))))
    if asked.write:
        RESULTS.write_text(page(rows), "utf-8")


def job_of(workspace: Workspace, folder: Path) -> Job:
    """The study's arm that rehearses, with the first seed."""
    study = file.read(STUDY, workspace.settings)
    (arm,) = (arm for arm in study.arms if arm.name == ARM)
    data = stream.of_workspace(workspace, study.span)
    return Jobs(study, folder, data, None).reported(arm)[0]


def walked(job: Job) -> Iterator[Row]:
    """The first model, then each update."""
    first = prepare(job.first, lambda: None)
    student = FineTuned(job)
    done = Run(job.arm.name, job.seed, job.stream.span.first, (first,))
    yield looked_at(job, student, done)
    for period in job.stream.span.then:
        student.learn(period, done.stages)
        stage = Stage(period, scores(student.model, job.stream, job.settings))
        done = replace(done, stages=(*done.stages, stage))
        yield looked_at(job, student, done)


def looked_at(job: Job, student: FineTuned, done: Run) -> Row:
    model, longest = student.model, job.settings.model.max_length_tokens
    examples = pa.concat_tables(job.stream.train(period) for period in done.periods)
    encoded = encode(model.tokenizer, examples, max_length_tokens=longest)
    asked = sample(encoded, job.settings.regularizer.num_examples)
    traces = {}
    for name in ESTIMATORS:
        found = estimate(
            model.network,
            asked,
            estimator=name,
            checkpoint_digest="",
            data_digest="",
            progress=False,
        )
        traces[name] = sum(float(tensor.double().sum()) for tensor in found.tensors.values())
    accuracy = over_stream(done)[-1]
    assert accuracy is not None, "every domain has a holdout"
    row = Row(done.periods[-1], accuracy, traces)
    print(line(row), flush=True)
    return row


def line(row: Row) -> str:
    traces = " | ".join(f"{row.traces[name]:.3g}" for name in ESTIMATORS)
    return f"| {row.learnt} | {100 * row.accuracy:.1f} | {traces} |"


def page(rows: list[Row]) -> str:
    return "\n".join(
        (
            "# The Fisher's scale over a stream",
            "",
            f"`python bench/importance_scale.py WORKSPACE --write`, Python "
            f"{platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores. What "
            "is measured stands at the top of bench/importance_scale.py.",
            "",
            "| learnt last | accuracy so far, % | trace, `empirical` | trace, `sampled` |",
            "|---|--:|--:|--:|",
            *map(line, rows),
            "",
        )
    )


if __name__ == "__main__":
    main()
