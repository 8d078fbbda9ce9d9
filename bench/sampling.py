"""How long it takes to sample 10,000 past examples, and how much memory, as the past grows.

    python bench/sampling.py                       # 10^5, 10^6 and 10^7 rows, under 3 minutes
    python bench/sampling.py --rows 100000 1000000 # quicker, no results file

Two ways over the same files, each in a child process of its own: `rehearsal.window.read` and the
usual way (`pyarrow.parquet.read_table`, then rows at random). Files are made by DuckDB as ingest
makes them: sorted by the low half of MD5(salt:id), zstd. Prints a table and, for the full run,
writes bench/results/sampling.md.
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

COUNT = 10_000
ROW_GROUP_ROWS = 16_384
OTHER_ROW_GROUP_ROWS = (4_096, 8_192, 32_768, 65_536)
FULL = (10**5, 10**6, 10**7)
REPEATS = {"window": 101, "usual": 3}
RESULTS = Path(__file__).parent / "results" / "sampling.md"

EXAMPLES = """
    SELECT md5_number_lower('updater:' || i)::UBIGINT AS key, 'ticket-' || i AS id,
        'what is the state of my order number ' || i || E'?\\nIntent:' AS prompt,
        ' intent_' || (i % 150) AS completion, NULL::VARCHAR AS subject
    FROM range({num_rows}) numbers(i) ORDER BY key, id
"""


def generate(path: Path, query: str, row_group_rows: int) -> None:
    """`path` holds the query's rows in their order, in row groups of `row_group_rows`."""
    import duckdb

    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(path.parent)}) as db:
        db.execute(
            f"COPY ({query}) TO '{path}' "
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {row_group_rows})"
        )


def peak_bytes() -> int:
    """The most memory this process has had resident (VmHWM; unlike ru_maxrss, not its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def child(way: str, path: Path) -> None:
    """One JSON line: seconds of each repeat, and peak bytes. The first, cold, is left out."""
    import numpy as np
    import pyarrow.parquet as pq

    from rehearsal.window import read

    num_rows = pq.read_metadata(path).num_rows
    idle = peak_bytes()
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(REPEATS[way] + 1):
        start = time.perf_counter()
        if way == "window":
            table = read(path, int(random.integers(num_rows)), COUNT)
        else:
            table = pq.read_table(path).take(random.choice(num_rows, COUNT, replace=False))
        seconds.append(time.perf_counter() - start)
        assert table.num_rows == COUNT
        del table
    print(json.dumps({"seconds": seconds[1:], "idle": idle, "peak": peak_bytes()}))


def measured(way: str, path: Path) -> dict:
    """What `child` printed, with the median."""
    command = [sys.executable, __file__, "--child", way, str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout)
    return found | {"median": statistics.median(found["seconds"])}


def compare(folder: Path, sizes: list[int]) -> list[str]:
    """The table of both ways at every size, and the ratios that the issue sets targets for."""
    lines = [
        f"| past examples | window, median (min .. max) of {REPEATS['window']} | window, peak "
        f"| usual way, median of {REPEATS['usual']} | usual way, peak | times as fast |",
        "|---|---|---|---|---|---|",
    ]
    windows = {}
    for num_rows in sizes:
        path = folder / f"{num_rows}.parquet"
        generate(path, EXAMPLES.format(num_rows=num_rows), ROW_GROUP_ROWS)
        ours, usual = measured("window", path), measured("usual", path)
        windows[num_rows] = ours
        faster = usual["median"] / ours["median"]
        lines.append(
            f"| {num_rows:,} | {_ms(ours)} | {_mb(ours)} | {usual['median'] * 1e3:,.0f} ms "
            f"| {_mb(usual)} | {faster:,.0f} |"
        )
        print(lines[-1], flush=True)
    small, large = windows[min(sizes)], windows[max(sizes)]
    return [
        *lines,
        "",
        f"At {max(sizes):,}: {faster:,.0f} times as fast as the usual way (target at 10^7: 300); "
        f"{large['median'] / small['median']:.2f} times its own time at {min(sizes):,} (target: "
        f"3); {large['peak'] / small['peak']:.2f} times its own peak memory there (target: 1.2). "
        f"Of the peak, {small['idle'] / 1e6:.0f} MB is Python with pyarrow and numpy.",
    ]


def compare_row_groups(folder: Path, sizes: list[int]) -> list[str]:
    """The window's time by row-group size: what ingest's constant was chosen by."""
    by_size = {
        ROW_GROUP_ROWS: [measured("window", folder / f"{num_rows}.parquet") for num_rows in sizes]
    }
    other = folder / "other.parquet"
    for rows in OTHER_ROW_GROUP_ROWS:
        by_size[rows] = []
        for num_rows in sizes:
            generate(other, f"FROM '{folder / f'{num_rows}.parquet'}'", rows)
            by_size[rows].append(measured("window", other))
    lines = [
        "| rows a group | " + " | ".join(f"{num_rows:,}" for num_rows in sizes) + " | ratio |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for rows, found in sorted(by_size.items()):
        ratio = found[-1]["median"] / found[0]["median"]
        cells = " | ".join(_ms(one) for one in found)
        lines.append(f"| {rows:,} | {cells} | {ratio:.1f} |")
    return lines


def _ms(found: dict) -> str:
    low, high = min(found["seconds"]), max(found["seconds"])
    return f"{found['median'] * 1e3:.1f} ms ({low * 1e3:.1f} .. {high * 1e3:.1f})"


def _mb(found: dict) -> str:
    return f"{found['peak'] / 1e6:,.0f} MB"


def main() -> None:
    """Generates, measures, prints, and writes the results of a full run."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=list(FULL), metavar="N")
    arguments.add_argument("--child", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    if min(given.rows) < COUNT:
        arguments.error(f"--rows: at least {COUNT} each")
    sizes = sorted(given.rows)
    with tempfile.TemporaryDirectory() as folder:
        lines = compare(Path(folder), sizes)
        print(lines[-1], flush=True)
        groups = compare_row_groups(Path(folder), sizes)
    print("\n".join(groups))
    if tuple(sizes) == FULL:
        RESULTS.write_text(_page(lines, groups))


def _page(lines: list[str], groups: list[str]) -> str:
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    return "\n".join(
        [
            f"# Sampling {COUNT:,} past examples",
            "",
            f"`python bench/sampling.py`, {machine}, {time.strftime('%Y-%m-%d')}.",
            "",
            "Each cell is a child process of its own over the same file (all five columns, zstd, "
            f"{ROW_GROUP_ROWS:,} rows a group), files in the page cache. A window's time is from "
            "opening the file to a table of its rows in memory, at a random place each time; the "
            "usual way's is `read_table` and `take` at random rows, on all cores. The first call "
            "of each process is left out. Peak is the process's highest resident memory (VmHWM).",
            "",
            *lines,
            "",
            "## The window's time by row-group size",
            "",
            "Small groups make the footer, which is parsed whole, grow with the file; large ones "
            "make the window read rows that it drops.",
            "",
            *groups,
            "",
        ]
    )


if __name__ == "__main__":
    main()
