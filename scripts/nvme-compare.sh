#!/usr/bin/env bash
# The same nvme-cli commands on QEMU's own NVMe drive and on ours, in one guest: what differs must be explained.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-target.sh
. "$COURIER_ROOT/scripts/lib-target.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/nvme-compare.sh [--front-end courier|stock] [--out DIR] [--help]

Boots a guest with two NVMe drives, QEMU's `-device nvme` and Courier's, runs the same nvme-cli commands
on both (scripts/guest/nvme-cli.sh), and prints every field that differs with its explanation from
scripts/guest/nvme-differences.txt. Installs what is missing into Courier's cache, and builds Courier.
Needs root and 512 MiB for hugepages. Ends with `compare: PASS`, or with `compare: FAIL (reason)`, as
when a difference has no explanation.

  --front-end WHAT  `courier` (the default), or `stock`: SPDK's own front end, whose differences are not
                    listed, and are printed only
  --out DIR         keep what nvme-cli said, in DIR/qemu and DIR/WHAT
  --help            this text

Environment:
  SPDK_DIR        use this SPDK (a built tree or an installed prefix) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

# For one process with the smaller pools of small-pools.json, and its disk.
HUGEPAGES_MIB=512
DISK_MIB=64
# Two minutes: a slow host has to emulate the guest.
GUEST_SECONDS=120
DIFFERENCES=$COURIER_ROOT/scripts/guest/nvme-differences.txt

PASSED='' REASON='' WORK=''
on_die() { REASON=$1; }

# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then
        echo "compare: PASS"
    else
        echo "compare: FAIL (${REASON:-it was interrupted, or failed in ${PHASE_NAME:-the beginning}})"
    fi
}

prepare() {
    phase "packages"
    need_root
    need_packages python3 util-linux
    "$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed (why is above)"
    "$COURIER_ROOT/scripts/install-guest.sh" || die "the guest could not be made (why is above)"
    find_spdk
    if [ "$FRONT_END" = courier ]; then build_courier; fi
    phase "hugepages"
    need_hugepages $HUGEPAGES_MIB
}

start_drive() {
    local program=$COURIER_TGT
    if [ "$FRONT_END" = stock ]; then program=$BIN/spdk_tgt; fi
    launch target "$program" "$MIDDLE_CORE" "$LIBRARIES"
    must_rpc target bdev_malloc_create -b Disk $DISK_MIB 512
    show_drive target "$FRONT_END" Disk "$WORK/drive"
}

# run_guest: boots the guest, which runs the commands on one drive after the other.
run_guest() {
    local status=0 name which
    truncate -s ${DISK_MIB}M "$WORK/qemu.raw"
    for name in qemu "$FRONT_END"; do
        if [ "$name" = qemu ]; then which=true; else which=false; fi
        # shellcheck disable=SC2016 # the guest's to expand
        printf '(\nOUT=$OUT/%s\nmkdir "$OUT"\nQEMUS=%s\n' "$name" $which
        cat "$COURIER_ROOT/scripts/guest/nvme-cli.sh"
        echo ') || exit'
    done >"$WORK/script"
    # A shell that waits for a background process heeds a signal at once. The registers are read past the driver.
    "${TIE[@]}" "$COURIER_ROOT/scripts/vm.sh" run --socket-dir "$WORK/drive" --script "$WORK/script" --out "$WORK/out" \
        --append iomem=relaxed --timeout $GUEST_SECONDS \
        --qemu-arg -drive --qemu-arg "file=$WORK/qemu.raw,format=raw,if=none,id=reference" \
        --qemu-arg -device --qemu-arg nvme,serial=DRIVE0001,drive=reference >&2 &
    wait $! || status=$?
    alive target || died target
    [ "$status" -ne 125 ] || die "the guest did not boot, or died (why is above)"
    [ "$status" -eq 0 ] || die "the commands in the guest ended with status $status (why is above)"
    if [ -n "$OUT" ]; then
        mkdir -p "$OUT"
        cp -r "$WORK/out/qemu" "$WORK/out/$FRONT_END" "$WORK/out/console.log" "$OUT/"
    fi
}

compare() {
    local list=$DIFFERENCES status=0
    if [ "$FRONT_END" = stock ]; then list=/dev/null; fi
    python3 "$COURIER_ROOT/tools/nvme_compare.py" "$list" "$WORK/out/qemu" "$WORK/out/$FRONT_END" || status=$?
    [ "$FRONT_END" = stock ] || [ "$status" -eq 0 ] ||
        die "there are differences that scripts/guest/nvme-differences.txt does not explain (they are above)"
}

FRONT_END=courier OUT=''
at_exit verdict
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; AT_EXIT=(); exit 0 ;;
        --front-end | --out) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    case $1 in
        --front-end) FRONT_END=$2 ;;
        --out) OUT=$2 ;;
    esac
    shift 2
done
[[ $FRONT_END = courier || $FRONT_END = stock ]] || die "--front-end must be courier or stock, got '$FRONT_END'"

prepare
choose_cores
WORK=$(mktemp -d "${TMPDIR:-/tmp}/courier-compare.XXXXXX")
at_exit rm -rf "$WORK"
phase "the drive: $FRONT_END"
start_drive
phase "the guest: nvme-cli on both drives"
run_guest
phase_end
compare
phase_summary
PASSED=1
