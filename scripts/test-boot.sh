#!/usr/bin/env bash
# A guest boots from the drive: its firmware, BIOS and UEFI, reads boot loader, kernel and initramfs through the controller.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-target.sh
. "$COURIER_ROOT/scripts/lib-target.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/test-boot.sh [--front-end courier|stock] [--firmware seabios|ovmf]... [--help]

Boots a guest from an NVMe drive whose content is an image file (a GPT disk that a BIOS and UEFI can boot
from), once per firmware, and checks that it is the drive that it started from, and that the drive still
holds the image. Installs what is missing into Courier's cache, and builds Courier. Needs root and 512 MiB
for hugepages. Ends with `boot: PASS` or `boot: FAIL (reason)`.

  --front-end WHAT  the drive: `courier`, Courier's controller (the default), or `stock`, for comparison:
                    SPDK's own vfio-user target in SPDK's own spdk_tgt
  --firmware FW     only this one (may be repeated); both, unless it is given
  --help            this text

Environment:
  SPDK_DIR        use this SPDK (a built tree or an installed prefix) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

# For one process with the smaller pools of small-pools.json.
HUGEPAGES_MIB=512
# Two minutes: a slow host has to emulate the firmware and the guest.
BOOT_SECONDS=120
FAILED=$COURIER_CACHE/boot-failed

PASSED='' REASON='' WORK=''
on_die() { REASON=$1; }

# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then
        echo "boot: PASS"
    else
        echo "boot: FAIL (${REASON:-it was interrupted, or failed in ${PHASE_NAME:-the beginning}})"
    fi
}

# shellcheck disable=SC2317 # run by at_exit
keep_logs() {
    [ -z "$PASSED" ] || return 0
    rm -rf "$FAILED"
    mkdir -p "$FAILED"
    cp -r "$WORK"/*.log "$WORK"/out-* "$FAILED/" 2>/dev/null
    say "    the logs are in $FAILED"
}

prepare() {
    phase "packages"
    need_root
    need_packages python3 util-linux
    "$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed (why is above)"
    "$COURIER_ROOT/scripts/install-boot.sh" || die "the guest's image could not be made (why is above)"
    IMAGE=$("$COURIER_ROOT/scripts/install-boot.sh" --print-dir)/disk.img
    find_spdk
    if [ "$FRONT_END" = courier ]; then build_courier; fi
    phase "hugepages"
    need_hugepages $HUGEPAGES_MIB
}

# start_drive: the process that shows a copy of the image as a drive.
start_drive() {
    local program=$COURIER_TGT
    if [ "$FRONT_END" = stock ]; then program=$BIN/spdk_tgt; fi
    cp "$IMAGE" "$WORK/disk.img"
    SHA256=$(sha256sum <"$IMAGE" | cut -d ' ' -f 1)
    launch target "$program" "$MIDDLE_CORE" "$LIBRARIES"
    must_rpc target bdev_aio_create "$WORK/disk.img" Disk 512
    show_drive target "$FRONT_END" Disk "$WORK/drive"
}

# boot_with FIRMWARE: one guest from its firmware's first instruction to the end of the script in it. The drive is the same for all.
boot_with() {
    local status=0
    printf '%s\n' "FIRMWARE=$1" "SHA256=$SHA256" | cat - "$COURIER_ROOT/scripts/guest/booted.sh" >"$WORK/script"
    # A shell that waits for a background process heeds a signal at once.
    "${TIE[@]}" "$COURIER_ROOT/scripts/vm.sh" run --boot-drive "$1" --socket-dir "$WORK/drive" --script "$WORK/script" \
        --out "$WORK/out-$1" --timeout $BOOT_SECONDS >&2 &
    wait $! || status=$?
    alive target || died target
    [ "$status" -ne 125 ] || die "$1 did not boot the guest from the drive (why is above)"
    [ "$status" -eq 0 ] || die "$1: the guest's check failed with status $status (why is above)"
}

FRONT_END=courier FIRMWARES=()
at_exit verdict
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; AT_EXIT=(); exit 0 ;;
        --front-end | --firmware) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    case $1 in
        --front-end) FRONT_END=$2 ;;
        --firmware) FIRMWARES+=("$2") ;;
    esac
    shift 2
done
[[ $FRONT_END = courier || $FRONT_END = stock ]] || die "--front-end must be courier or stock, got '$FRONT_END'"
[ ${#FIRMWARES[@]} -gt 0 ] || FIRMWARES=(seabios ovmf)
for firmware in "${FIRMWARES[@]}"; do
    [[ $firmware = seabios || $firmware = ovmf ]] || die "--firmware must be seabios or ovmf, got '$firmware'"
done

prepare
choose_cores
WORK=$(mktemp -d "${TMPDIR:-/tmp}/courier-boot.XXXXXX")
at_exit rm -rf "$WORK"
at_exit keep_logs
phase "the drive: an image file behind $([ "$FRONT_END" = courier ] && echo "Courier's controller" || echo "SPDK's front end")"
start_drive
for firmware in "${FIRMWARES[@]}"; do
    phase "the guest boots: $firmware"
    boot_with "$firmware"
done
phase_summary
PASSED=1
