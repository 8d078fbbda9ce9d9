"""Stands in for the `updater` command in the tests of the DAG: same arguments, same answers.

What it does is said in `fake.json` in its workspace: {"gate": {..}, "exits": {STEP: [code, ..]},
"sleeps": {STEP: seconds}}, one exit code a call. Each call is recorded in `calls.jsonl`. Given an
interpreter line and written out as a script by the tests; the standard library only.
"""

import json
import os
import pathlib
import subprocess
import sys
import time


def main() -> int:
    workspace, arguments = pathlib.Path(sys.argv[2]), sys.argv[4:]
    assert (sys.argv[1], sys.argv[3]) == ("--workspace", "--json")
    name = arguments[1] if arguments[0] == "step" else arguments[0]
    orders = json.loads((workspace / "fake.json").read_text())
    calls = workspace / "calls.jsonl"
    earlier = calls.read_text().splitlines() if calls.exists() else []
    num_earlier = sum(json.loads(line)["name"] == name for line in earlier)
    child = None
    if name in orders.get("sleeps", {}):
        child = subprocess.Popen(["sleep", str(orders["sleeps"][name])])
    call = {"name": name, "arguments": arguments, "actor": os.environ.get("UPDATER_ACTOR")}
    call["pids"] = [os.getpid(), *([child.pid] if child else [])]
    with calls.open("a") as file:
        file.write(json.dumps(call) + "\n")
    if child:
        child.wait()
    for percent in (0, 50, 100):
        sys.stderr.write(f"{name}: {percent} %\n")
        sys.stderr.flush()
    exits = orders.get("exits", {}).get(name, [])
    if num_earlier < len(exits) and exits[num_earlier]:
        sys.stderr.write(f"updater: {name} went wrong\n")
        return exits[num_earlier]
    answer = {"update": "u-1", "at": time.time()}
    if name == "gate":
        answer |= orders["gate"]
    last = orders.get("answers", {}).get(name) or json.dumps(answer)
    sys.stdout.write(f"a line for people\n{last}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
