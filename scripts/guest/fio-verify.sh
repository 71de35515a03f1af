# Runs in the guest: fio writes the first JOBS * SIZE_MIB of namespace NSID with checksums and reads them back, from JOBS
# processors, each with a part of its own and an I/O queue of its own.
# shellcheck shell=bash
set -eu
await_drive "$NSID"
# The admin queue is counted, too.
queues=$(($(cat "/sys/class/nvme/$CONTROLLER/queue_count") - 1))
[ "$queues" -ge "$JOBS" ] || {
    echo "the drive has $queues I/O queues, not $JOBS" >&2
    exit 11
}
for size in 4k 128k; do
    fio --name=verify --filename="$DRIVE" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=$size \
        --size="${SIZE_MIB}m" --offset_increment="${SIZE_MIB}m" --numjobs="$JOBS" \
        --cpus_allowed="0-$((JOBS - 1))" --cpus_allowed_policy=split --group_reporting \
        --verify=crc32c --verify_fatal=1 --output-format=json --output="$OUT/verify-$size.json"
done
