"""How long Airflow takes to parse our DAG files, for one workspace and for twenty.

    python bench/dag_parse.py            # prints a table
    python bench/dag_parse.py --write    # and writes bench/results/dag_parse.md

Each row is a child process with an Airflow home of its own, once with a mail notifier and a data
asset and once without. Its time, in seconds of one core, is that of `DagBag` over the folder once
Airflow itself is imported, which a dag-processor has done before it forks for a file: the first
parse, in which our modules and the notifier are imported too, and the median of the next ones.
Beside it what that processor does then with any DAG: to serialise them. Target: under 1 s for all
files of 20 workspaces, and no torch.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DAGS = Path(__file__).resolve().parent.parent / "dags"
RESULTS = Path(__file__).parent / "results" / "dag_parse.md"
NUMBERS = (1, 20)
REPEATS = 5
TARGET_SECONDS = 1.0
CONFIG = """
[workspace]
name = "model-{0}"
[periods]
every = "month"
schedule = "0 3 {1} * *"
time_zone = "Europe/Zurich"
[rehearsal]
policy = "surprise"
"""
MORE = {
    "UPDATER_DAG_DATA_ASSET": "s3://lake/rows",
    "UPDATER_DAG_NOTIFY": "smtp:mail:oncall@example.com",
}
HEAD = "| workspaces | mail, asset | DAGs | first parse | parse | serialise | torch |"


def main() -> None:
    """Measure; or, in a child process, parse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(parse()))
        return
    lines = [HEAD, "|---|---|---|---|---|---|---|"]
    for number in NUMBERS:
        for more in ({}, MORE):
            found = measure(number, more)
            lines.append(row(number, bool(more), found))
            assert not found["errors"], found["errors"]
    print("\n".join(lines))
    print(f"Target: under {TARGET_SECONDS} s for each parse, and no torch.")
    if asked.write:
        machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
        head = f"`python bench/dag_parse.py --write`, {machine}, {time.strftime('%Y-%m-%d')}."
        about = __doc__.split("\n\n", 2)[2].replace("\n", " ").strip()
        RESULTS.write_text(
            "\n".join(["# Parsing the DAG files", "", head, "", about, "", *lines, ""])
        )


def row(number: int, more: bool, found: dict) -> str:
    """Of the table."""
    seconds = [f"{found[name]:.2f} s" for name in ("first", "parse", "serialise")]
    cells = [number, "yes" if more else "no", found["dags"], *seconds]
    cells.append("imported" if found["torch"] else "no")
    return f"| {' | '.join(map(str, cells))} |"


def measure(number: int, more: dict[str, str]) -> dict:
    """What a child process says of so many workspaces."""
    with tempfile.TemporaryDirectory() as made:
        folders = [Path(made) / f"w{n}" for n in range(number)]
        for n, folder in enumerate(folders):
            folder.mkdir()
            (folder / "updater.toml").write_text(CONFIG.format(n, 1 + n % 28))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "UPDATER_"))}
        settings = {
            "AIRFLOW_HOME": made,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "UPDATER_WORKSPACES": ":".join(map(str, folders)),
        }
        done = subprocess.run(
            [sys.executable, __file__, "--child"],
            env={**clean, **settings, **more},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def parse() -> dict:
    """Parse the folder again and again, and serialise what was found."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.providers.standard.operators import hitl, trigger_dagrun  # noqa: F401
    from airflow.sdk import (  # noqa: F401
        DAG,
        Asset,
        CronPartitionTimetable,
        PartitionedAssetTimetable,
        chain,
        task,
    )
    from airflow.serialization.serialized_objects import DagSerialization

    times = []
    for _number in range(1 + REPEATS):
        started = time.process_time()
        bag = DagBag(dag_folder=str(DAGS))
        times.append(time.process_time() - started)
    started = time.process_time()
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    return {
        "first": times[0],
        "parse": statistics.median(times[1:]),
        "serialise": time.process_time() - started,
        "dags": len(bag.dags),
        "errors": {Path(name).name: str(why) for name, why in bag.import_errors.items()},
        "torch": "torch" in sys.modules,
    }


if __name__ == "__main__":
    main()
