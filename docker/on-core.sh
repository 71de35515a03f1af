#!/bin/sh
# Runs an SPDK program with a core of its own, where the machine has enough of them:
#   on-core.sh N PROGRAM OPTION...
# N is the number of a core, or +K: the Kth of those that this container may use, from 0, counted round. The program gets
# `-m [CORE]`.
set -eu
wanted=$1 program=$2
shift 2
case $wanted in
    +*)
        # 0-2,5 as 0 1 2 5.
        cores=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr , '\n' |
            while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
        count=$(echo "$cores" | wc -l) place=${wanted#+}
        core=$(echo "$cores" | sed -n "$((place % count + 1))p")
        if [ "$place" -ge "$count" ]; then
            echo "on-core.sh: there are $count cores for processes that poll all the time; $program shares core $core with another, and either waits" \
                "for the other: expect latencies of many milliseconds" >&2
        fi
        ;;
    *) core=$wanted ;;
esac
exec "$program" -m "[$core]" "$@"
