# Runs in the guest: fio, with the job file whose text is in JOB, on the drive whose serial number is SERIAL and which must have
# QUEUES I/O queues. Its result is $OUT/fio.json; what /proc/interrupts had before and after is in $OUT/before and $OUT/after.
# All three variables are set by who runs this.
# shellcheck shell=bash
set -eu

# has_serial FOLDER: whether that is the serial number of a controller, a drive or a drive with several paths.
has_serial() { [ "$(sed 's/ *$//' "$1/serial" 2>/dev/null)" = "$SERIAL" ]; }

# find_drive: sets CONTROLLER and DRIVE, whose numbers need not be the same; fails as long as the guest has no such drive.
find_drive() {
    local folder
    CONTROLLER='' DRIVE=''
    for folder in /sys/class/nvme/nvme*; do
        if has_serial "$folder"; then CONTROLLER=${folder##*/}; fi
    done
    for folder in /sys/block/nvme*; do
        if has_serial "$folder/device" && [ -b "/dev/${folder##*/}" ]; then DRIVE=/dev/${folder##*/}; fi
    done
    [ -n "$CONTROLLER" ] && [ -n "$DRIVE" ]
}

for ((i = 0; i < 300; i++)); do
    if find_drive; then break; fi
    sleep 0.1
done
find_drive || {
    echo "the guest has no drive with the serial number $SERIAL" >&2
    dmesg | tail -n 20 >&2
    exit 10
}
# The admin queue is counted, too.
found=$(($(cat "/sys/class/nvme/$CONTROLLER/queue_count") - 1))
[ "$found" -ge "$QUEUES" ] || {
    echo "the drive has $found I/O queues, not $QUEUES" >&2
    exit 11
}
printf '%s\n' "$CONTROLLER" >"$OUT/controller"
printf '%s\n' "$JOB" >job.fio
cat /proc/interrupts >"$OUT/before"
fio --filename="$DRIVE" --output-format=json --output="$OUT/fio.json" job.fio
cat /proc/interrupts >"$OUT/after"
