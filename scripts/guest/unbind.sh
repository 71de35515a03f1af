# Runs in the guest: the driver is unbound from the controller of namespace NSID with fio in flight, and bound again, TIMES
# times; then the drive holds the data that it held.
# shellcheck shell=bash
set -eu
await_drive "$NSID"
address=$(cat "/sys/class/nvme/$CONTROLLER/address")
driver=/sys/bus/pci/drivers/nvme
dd if=/dev/urandom of=/tmp/data bs=1M count=2 status=none
dd if=/tmp/data of="$DRIVE" bs=1M oflag=direct status=none
for ((round = 1; round <= TIMES; round++)); do
    # It fails, of course.
    fio --name=unbind --filename="$DRIVE" --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw --bs=4k --offset=4m --size=16m \
        --time_based --runtime=20 >"$OUT/fio-$round" 2>&1 &
    fio=$!
    sleep 1
    echo "$address" >$driver/unbind
    wait $fio || true
    echo "$address" >$driver/bind
    await_drive "$NSID"
    dd if="$DRIVE" bs=1M count=2 iflag=direct status=none | cmp - /tmp/data || {
        echo "round $round: $DRIVE does not hold what it held" >&2
        dmesg | tail -n 20 >&2
        exit 12
    }
done
