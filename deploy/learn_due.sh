#!/bin/sh
# Learns every period that has closed and is not yet learnt, the oldest first: what a timer starts
# (docs/install.md). The workspace is UPDATER_WORKSPACE, or the current folder. Ends at the first
# update that fails; started again it goes on there.
set -eu
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
due="$(updater --json --quiet due)"
for period in $(printf '%s' "$due" | python -c 'import json, sys; print(*json.load(sys.stdin)["due"])'); do
    updater update "$period"
done
