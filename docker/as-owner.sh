#!/bin/sh
# Runs a command in the container for developing, and then gives what it has made in the checkout to the checkout's owner:
#   as-owner.sh COMMAND ARGUMENT...
status=0
"$@" || status=$?
# Where the owner is root, or an engine without root makes it look so, nothing is to be done.
if [ "$(stat -c %u /courier)" != 0 ]; then
    find /courier -xdev -user root -exec chown --no-dereference --reference=/courier {} +
fi
exit $status
