"""A clean process that loads an exported checkpoint and says whether it gives the judged scores.

    python -m updater.verify FOLDER CASES.json

Not the judging itself. `updater.steps.verification` starts it before a version may be deployed:
what is released is what lies on the disk, and not what happened to be in the trainer's memory.

CASES.json: {"max_length_tokens": n, "batch_size": n, "num_examples": n, "cases":
[{"period", "holdout", "outcomes"}]}. Prints {"num_checked": n, "differing": [{"period", "id"}],
"tolerated_fraction": f, "seconds": s}, the seconds of its forward passes.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from updater.errors import UpdateError
from updater.files import read_json
from updater.gpu_memory import give_back
from updater.stopwatch import Stopwatch

if TYPE_CHECKING:
    import pyarrow as pa

TOLERATED_FRACTION = 0.01
"""An example may sit on the edge between right and wrong, and sums depend on the batch on a GPU,
and on how many processes share it: there this part of all examples may differ. In one process on a
CPU none does. One that was exported wrongly answers far more otherwise. Chosen, not measured."""

Ask = Callable[["dict[str, pa.Table]"], "Mapping[str, pa.Table]"]


def verify(folder: Path, cases: Path) -> tuple[int, float]:
    """The checkpoint in `folder`, loaded by a new process, gives the outcomes of `cases`.

    Returns: how many examples were checked, and the seconds of their forward passes.

    Raises:
        UpdateError: it can't be loaded, or answers otherwise than it was judged by.
    """
    give_back()
    command = [sys.executable, "-P", "-m", "updater.verify", str(folder), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UpdateError(f"the exported checkpoint {folder} can't be used: {reason}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    refuse_others(folder, said)
    return int(said["num_checked"]), float(said["seconds"])


def refuse_others(folder: Path, said: Mapping[str, Any]) -> None:
    """What `check` said of the checkpoint lets it be deployed.

    Raises:
        UpdateError: it answers otherwise than it was judged by.
    """
    differing: list[dict[str, str]] = said["differing"]
    if len(differing) > said["tolerated_fraction"] * said["num_checked"]:
        named = ", ".join(f"{d['period']}/{d['id']}" for d in differing[:5])
        raise UpdateError(
            f"the exported checkpoint {folder} answers {len(differing)} of "
            f"{said['num_checked']} examples otherwise than the candidate that was judged "
            f"({named}); it must not be deployed"
        )


def check(spec: Mapping[str, Any], ask: Ask, *, exact: bool) -> dict[str, Any]:
    """Scored again and compared, example by example. `ask`: holdout examples by some name to what
    is said to them now, by that name. `exact`: nothing may differ."""
    import pyarrow.parquet as pq

    limit = spec["num_examples"] or None
    cases = {case["outcomes"]: case for case in spec["cases"]}
    holdouts = {n: pq.read_table(case["holdout"]).slice(0, limit) for n, case in cases.items()}
    answers = ask(holdouts)
    differing = []
    for name, case in cases.items():
        judged = pq.read_table(case["outcomes"]).slice(0, limit).to_pylist()
        again = answers[name].to_pylist()
        differing += [
            {"period": case["period"], "id": was["id"]}
            for was, now in zip(judged, again, strict=True)
            if (was["id"], was["correct"]) != (now["id"], now["correct"])
        ]
    return {
        "num_checked": sum(table.num_rows for table in holdouts.values()),
        "differing": differing,
        "tolerated_fraction": 0.0 if exact else TOLERATED_FRACTION,
    }


def _alone(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the new process does."""
    from updater.evaluate import outcomes
    from updater.nemotron.dtypes import load_as_served

    model, tokenizer = load_as_served(folder)
    watch = Stopwatch()

    def ask(holdouts: "dict[str, pa.Table]") -> "dict[str, pa.Table]":
        sizes = {name: spec[name] for name in ("batch_size", "max_length_tokens")}
        with watch:
            return {n: outcomes(model, tokenizer, t, **sizes) for n, t in holdouts.items()}

    return check(spec, ask, exact=model.device.type == "cpu") | {"seconds": watch.seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_alone(Path(sys.argv[1]), read_json(Path(sys.argv[2])))) + "\n")
