"""A clean process that loads an exported checkpoint and says whether it gives the judged scores.

    python -m updater.verify FOLDER CASES.json

Not the judging itself. `updater.steps.evaluate` starts it before a version may be deployed: what
is released is what lies on the disk, and not what happened to be in the trainer's memory.

CASES.json: {"max_length_tokens": n, "batch_size": n, "num_examples": n, "cases":
[{"period", "holdout", "outcomes"}]}. Prints {"num_checked": n, "differing": [{"period", "id"}],
"tolerated_fraction": f, "seconds": s}, the seconds of its forward passes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from updater.errors import UpdateError
from updater.files import read_json
from updater.stopwatch import Stopwatch

# An example may sit on the edge between right and wrong, and a GPU's sums depend on the batch:
# there so many of a thousand may differ. On a CPU none does. Chosen, not derived.
TOLERATED_FRACTION_ON_GPU = 0.002


def verify(folder: Path, cases: Path) -> tuple[int, float]:
    """The checkpoint in `folder`, loaded by a new process, gives the outcomes of `cases`.

    Returns: how many examples were checked, and the seconds of their forward passes.

    Raises:
        UpdateError: it can't be loaded, or answers otherwise than it was judged by.
    """
    command = [sys.executable, "-m", "updater.verify", str(folder), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UpdateError(f"the exported checkpoint {folder} can't be used: {reason}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    differing: list[dict[str, str]] = said["differing"]
    if len(differing) > said["tolerated_fraction"] * said["num_checked"]:
        named = ", ".join(f"{d['period']}/{d['id']}" for d in differing[:5])
        raise UpdateError(
            f"the exported checkpoint {folder} answers {len(differing)} of "
            f"{said['num_checked']} examples otherwise than the candidate that was judged "
            f"({named}); it must not be deployed"
        )
    return int(said["num_checked"]), float(said["seconds"])


def check(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """What the new process does: score again and compare, example by example."""
    import pyarrow.parquet as pq

    from updater.evaluate import outcomes
    from updater.nemotron import checkpoint

    checkpoint.check(folder)
    model, tokenizer = checkpoint.load(folder)
    num_checked, differing, watch = 0, [], Stopwatch()
    for case in spec["cases"]:
        limit = spec["num_examples"] or None
        holdout = pq.read_table(case["holdout"]).slice(0, limit)
        judged = pq.read_table(case["outcomes"]).slice(0, limit)
        with watch:
            again = outcomes(
                model,
                tokenizer,
                holdout,
                batch_size=spec["batch_size"],
                max_length_tokens=spec["max_length_tokens"],
            )
        num_checked += again.num_rows
        pairs = zip(judged.to_pylist(), again.to_pylist(), strict=True)
        differing += [
            {"period": case["period"], "id": was["id"]}
            for was, now in pairs
            if (was["id"], was["correct"]) != (now["id"], now["correct"])
        ]
    return {
        "num_checked": num_checked,
        "differing": differing,
        "tolerated_fraction": TOLERATED_FRACTION_ON_GPU if model.device.type == "cuda" else 0.0,
        "seconds": watch.seconds,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(check(Path(sys.argv[1]), read_json(Path(sys.argv[2])))) + "\n")
