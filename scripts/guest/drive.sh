# Goes before the guest's scripts that use a drive. The kernel looks for namespaces on several processors at once, so the
# number in a drive's name is not that of its namespace.
# shellcheck shell=bash

# find_drive NSID: sets DRIVE to the block device of a namespace, and CONTROLLER to its controller's name; fails if there is none.
find_drive() {
    local block name
    for block in /sys/block/nvme*; do
        name=${block##*/}
        # A path of a drive with several is no drive.
        [[ $name =~ ^nvme[0-9]+n[0-9]+$ ]] || continue
        if [ "$(cat "$block/nsid" 2>/dev/null)" = "$1" ] && [ -b "/dev/$name" ]; then
            DRIVE=/dev/$name
            # shellcheck disable=SC2034 # used by what follows
            CONTROLLER=${name%n*}
            return 0
        fi
    done
    return 1
}

# await_drive NSID: waits for it for 30 s.
await_drive() {
    local i
    for ((i = 0; i < 300; i++)); do
        if find_drive "$1"; then return 0; fi
        sleep 0.1
    done
    echo "no drive of namespace $1" >&2
    dmesg | tail -n 20 >&2
    exit 10
}

# sectors NSID: how many sectors of 512 bytes a drive has.
sectors() { find_drive "$1" && cat "/sys/block/${DRIVE##*/}/size"; }
