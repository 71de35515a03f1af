#!/bin/sh
# Starts courier_tgt with docker/server.json, in which the pool is named by its address: courier_pool_create takes no host name.
#   server.sh POOL PROGRAM OPTION...
# PROGRAM is courier_tgt, or what starts it with more options.
set -eu
pool=$(getent ahostsv4 "$1" | head -n 1 | cut -d ' ' -f 1)
if [ -z "$pool" ]; then
    echo "server.sh: the host name '$1' of the pool has no IPv4 address; is the service of that name up?" >&2
    exit 1
fi
shift
sed "s/@POOL@/$pool/" /etc/courier/server.json >/tmp/courier-server.json
exec "$@" --json /tmp/courier-server.json
