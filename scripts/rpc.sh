#!/usr/bin/env bash
# SPDK's RPC client with Courier's commands in it: every argument goes to rpc.py. For example
#   scripts/rpc.sh -s /var/tmp/spdk.sock courier_pool_get
#   scripts/rpc.sh --help
set -euo pipefail
here=$(dirname "$(realpath "$0")")
spdk=$("$here/install-spdk.sh" --print-dir)
for client in "$spdk"/{scripts/rpc.py,bin/spdk-rpc,bin/rpc.py,libexec/spdk/scripts/rpc.py,share/spdk/scripts/rpc.py}; do
    [ -e "$client" ] || continue
    # No caches in the checkout and in SPDK's tree; but in a folder of their own, if there is one.
    [ -n "${PYTHONPYCACHEPREFIX:-}" ] || export PYTHONDONTWRITEBYTECODE=1
    export PYTHONPATH="$here/../python${PYTHONPATH:+:$PYTHONPATH}"
    # Debian's Python first, not one that a version manager put before it.
    export PATH=/usr/bin:$PATH
    # shellcheck disable=SC2093 # the rest is for when there is none
    exec python3 "$client" --plugin courier_rpc "$@"
done
echo "rpc.sh: no rpc.py (or bin/spdk-rpc) in the SPDK in use, $spdk; point SPDK_DIR at SPDK's source tree, whose scripts/rpc.py it is" >&2
exit 1
