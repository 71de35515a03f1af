# Runs in the guest: fio on the drive, each job's result in $OUT/NN-NAME.json, how its data was checked in
# $OUT/NN-NAME.verified. RUNTIME (seconds per job) is set by who runs this, and on slow machines SEQUENTIAL_MIB and RANDOM_MIB,
# the sizes of the regions.
# shellcheck shell=bash
set -u
drive=/dev/nvme0n1
for _ in $(seq 100); do
    [ -b $drive ] && break
    sleep 0.2
done
[ -b $drive ] || {
    echo "no drive: the guest's kernel made no $drive" >&2
    dmesg | grep -i nvme >&2
    exit 10
}

# Two regions, so that each holds blocks of one size only and can be checked with it.
sequential=(--offset=0 --size="${SEQUENTIAL_MIB:-32}m" --bs=128k)
random=(--offset=32m --size="${RANDOM_MIB:-16}m" --bs=4k)
failed=0

# fio_run NAME FIO_OPTION...: every block written carries its offset and a checksum.
fio_run() {
    local name=$1
    shift
    fio --name="$name" --filename=$drive --direct=1 --ioengine=libaio --thread --verify=crc32c --verify_fatal=1 \
        --do_verify=0 --output-format=json --output="$OUT/$name.json" "$@"
}

# fill and check are not in the table: they write a region once, and read all of it with its checksums.
fill() { fio_run fill --rw=write --iodepth=16 "$@" || exit 11; }
check() { fio_run check --rw=read --iodepth=16 "$@"; }

verified() { # NAME STATUS HOW
    if [ "$2" -eq 0 ]; then echo "yes ($3)"; else echo "no ($3)"; failed=1; fi >"$OUT/$1.verified"
}

timed=(--time_based --runtime="$RUNTIME")

fill "${sequential[@]}"
fio_run 1-write-128k-qd8 --rw=write --iodepth=8 "${sequential[@]}" "${timed[@]}"
status=$?
check "${sequential[@]}" || status=1
verified 1-write-128k-qd8 $status "crc32c of the whole region, read afterwards"

fio_run 2-read-128k-qd8 --rw=read --iodepth=8 "${sequential[@]}" "${timed[@]}"
verified 2-read-128k-qd8 $? "crc32c of every block read"

fill "${random[@]}"
fio_run 3-randwrite-4k-qd32 --rw=randwrite --iodepth=32 "${random[@]}" "${timed[@]}"
status=$?
check "${random[@]}" || status=1
verified 3-randwrite-4k-qd32 $status "crc32c of the whole region, read afterwards"

fio_run 4-randread-4k-qd32 --rw=randread --iodepth=32 "${random[@]}" "${timed[@]}"
verified 4-randread-4k-qd32 $? "crc32c of every block read"

fio_run 5-randread-4k-qd1 --rw=randread --iodepth=1 "${random[@]}" "${timed[@]}"
verified 5-randread-4k-qd1 $? "crc32c of every block read"

rm -f "$OUT/fill.json" "$OUT/check.json"
exit $failed
