# Runs in the guest: fio with checksums on namespace NSID, while the controller is reset in the way that HOW names, TIMES
# times. fio must see no error: the driver sends again what a reset has cut off.
# shellcheck shell=bash
set -eu
await_drive "$NSID"
class=/sys/class/nvme/$CONTROLLER
device=$(realpath "$class/device")

# live: waits until the controller works.
live() {
    local i
    for ((i = 0; i < 300; i++)); do
        [ "$(cat "$class/state")" = live ] && return 0
        sleep 0.1
    done
    echo "the controller is $(cat "$class/state") 30 s after reset number $1" >&2
    dmesg | tail -n 20 >&2
    exit 12
}

reset() {
    case $HOW in
        nvme) nvme reset "/dev/$CONTROLLER" ;;
        sysfs) echo 1 >"$class/reset_controller" ;;
        function)
            grep -qw flr "$device/reset_method" || {
                echo "no function level reset: the device's ways are '$(cat "$device/reset_method")'" >&2
                exit 13
            }
            echo flr >"$device/reset_method"
            echo 1 >"$device/reset"
            ;;
        *) exit 14 ;;
    esac
}

fio --name=resets --filename="$DRIVE" --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw --bs=4k --size=16m \
    --time_based --runtime=$((TIMES * 2)) --verify=crc32c --verify_fatal=1 --verify_backlog=256 --serialize_overlap=1 \
    --output-format=json --output="$OUT/fio.json" &
fio=$!
sleep 1
for ((round = 1; round <= TIMES; round++)); do
    reset
    live $round
    sleep 0.5
done
wait $fio || {
    echo "fio saw an error" >&2
    dmesg | tail -n 20 >&2
    exit 15
}
