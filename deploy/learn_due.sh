#!/bin/sh
# Learns every period that has closed and is not yet learnt, the oldest first: what a timer starts
# (docs/install.md). The workspace is UPDATER_WORKSPACE, or the current folder. Ends at the first
# update that fails, or that waits for a person: the next one would start at the same base. Started
# again it goes on there.
set -eu
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
of() {  # the list of that name in what the command answers
    answer="$(updater --json --quiet "$1")" || exit  # the last of a pipe would hide its exit code
    printf '%s\n' "$answer" | python -c "import json, sys; print(*json.load(sys.stdin)['$2'])"
}
due="$(of due due)"
for period in $due; do
    waiting="$(of status awaiting_approval)"
    if [ -n "$waiting" ]; then
        echo "$waiting waits for \`updater approve\` or \`updater reject\`; $period is not begun before" >&2
        exit
    fi
    updater update "$period"
done
