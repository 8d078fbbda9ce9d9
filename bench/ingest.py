"""Ingest of 10^5 and 10^6 JSONL rows: rows a second and peak memory, beside the usual ways.

    .venv/bin/python bench/ingest.py [--rows 100000 1000000] [--write]

`plain` reads all rows into a list with the standard library, drops duplicates and leaks with
dicts, sorts, and writes with pyarrow; `pandas` does the same with read_json(lines=True). Neither
checks a row nor keeps a bad one. Each runs in a process of its own, whose peak is getrusage's.
Exits 1 where a target is missed: 20,000 rows a second, and memory at the most rows at most 1.3
times that at the fewest. `--write` puts the table into bench/results/ingest.md.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIN_ROWS_PER_SECOND = 20_000
MAX_MEMORY_RATIO = 1.3
WORDS = [f"word{n:04d}" for n in range(2000)]
CONFIG = """
[workspace]
name = "bench"
[source]
uri = "rows.jsonl"
[source.fields]
id = "{id}"
prompt = "{text}\\nProduct:"
completion = " {product}"
date = "{at}"
[periods]
every = "month"
"""


def generate(path: Path, num_rows: int) -> None:
    """Tickets of about 170 bytes; 1 % repeated, 0.1 % broken."""
    draw = random.Random(0)
    with path.open("w") as file:
        line = ""
        for n in range(num_rows):
            if n % 100 != 99 or not line:
                row = {
                    "id": f"ticket-{n:09d}",
                    "at": f"2026-01-{1 + n % 31:02d}T{n % 24:02d}:{n % 60:02d}:00Z",
                    "text": " ".join(draw.choices(WORDS, k=10)),
                    "product": f"product-{draw.randrange(200)}",
                }
                line = json.dumps(row)
            file.write((line if n % 1000 else "{broken") + "\n")


def ours(folder: Path) -> int:
    from updater import config
    from updater.ingest import ingest

    done = ingest(config.load(folder, environ={}), folder, "2026-01", folder / "ours")
    return done.reading.num_rows_read


def plain(folder: Path) -> int:
    rows = []
    with (folder / "rows.jsonl").open() as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                rows.append({})
    num_rows = len(rows)
    return write_sorted(
        [(r["id"], f"{r['text']}\nProduct:", f" {r['product']}") for r in rows if r],
        folder / "plain",
        num_rows,
    )


def with_pandas(folder: Path) -> int:
    import io

    import pandas

    text = (folder / "rows.jsonl").read_text()
    good = "\n".join(line for line in text.splitlines() if line != "{broken")
    frame = pandas.read_json(io.StringIO(good), lines=True)
    prompts = frame["text"] + "\nProduct:"
    completions = " " + frame["product"]
    return write_sorted(
        list(zip(frame["id"], prompts, completions, strict=True)),
        folder / "pandas",
        text.count("\n"),
    )


def write_sorted(examples: list[tuple[str, str, str]], folder: Path, num_rows: int) -> int:
    """Duplicates and leaks dropped, split and sorted by hash, written: all of it in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def low_64(text: str) -> int:
        return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")

    unique = {(prompt, completion): id_ for id_, prompt, completion in examples}
    sides: dict[str, list] = {"train": [], "holdout": []}
    for (prompt, completion), id_ in unique.items():
        side = "holdout" if low_64(f"updater:holdout:{prompt}") < 0.1 * 2**64 else "train"
        sides[side].append((low_64(f"updater:{id_}"), id_, prompt, completion))
    folder.mkdir()
    for side, rows in sides.items():
        names = ["key", "id", "prompt", "completion"]
        columns = [list(column) for column in zip(*sorted(rows), strict=True)]
        arrays = [pa.array(columns[0], pa.uint64()), *map(pa.array, columns[1:])]
        pq.write_table(pa.Table.from_arrays(arrays, names=names), folder / f"{side}.parquet")
    return num_rows


WAYS = {"updater.ingest": ours, "plain": plain, "pandas": with_pandas}


def child(way: str, folder: Path) -> None:
    """Run one way here, and print its seconds and this process's peak memory."""
    started = time.perf_counter()
    num_rows = WAYS[way](folder)
    seconds = time.perf_counter() - started
    found = {
        "rows": num_rows,
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


def measure(way: str, num_rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "updater.toml").write_text(CONFIG)
        generate(folder / "rows.jsonl", num_rows)
        command = [sys.executable, __file__, "--child", way, name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["rows"] == num_rows, found
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs=2, type=int, default=[100_000, 1_000_000])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return 0
    few, many = arguments.rows
    lines = [
        "| way | rows | seconds | CPU seconds, imports too | rows/s | peak MiB | memory ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    falls_short = []
    for way in WAYS:
        results = {n: measure(way, n) for n in (few, many)}
        for n, found in results.items():
            ratio = found["peak_mib"] / results[few]["peak_mib"]
            speed = n / found["seconds"]
            lines.append(
                f"| {way} | {n:,} | {found['seconds']:.1f} | {found['cpu_seconds']:.1f} | "
                f"{speed:,.0f} | {found['peak_mib']:.0f} | {ratio:.2f} |"
            )
            print(lines[-1], flush=True)
            if way == "updater.ingest" and speed < MIN_ROWS_PER_SECOND:
                falls_short.append(f"{speed:,.0f} rows/s at {n:,}")
            if way == "updater.ingest" and ratio > MAX_MEMORY_RATIO:
                falls_short.append(f"{ratio:.2f} times the memory at {n:,}")
    if arguments.write:
        write_results(lines, few, many)
    print("falls short: " + "; ".join(falls_short) if falls_short else "both targets hold")
    return 1 if falls_short else 0


def write_results(lines: list[str], few: int, many: int) -> None:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    text = (
        "# Ingest\n\n"
        f"`python bench/ingest.py --rows {few} {many} --write`, on {os.cpu_count()} cores of "
        f"{processor}, Python {platform.python_version()}, load average at the end "
        f"{os.getloadavg()[1]:.1f}. Targets: {MIN_ROWS_PER_SECOND:,} rows/s; memory ratio at most "
        f"{MAX_MEMORY_RATIO}. `plain` and `pandas` hold all rows in memory, "
        "and neither check rows nor keep bad ones.\n\n"
    )
    path = Path(__file__).parent / "results" / "ingest.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
