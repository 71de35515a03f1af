#!/usr/bin/env bash
# Courier's pools and SPDK's own initiator on the same faults, side by side.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/faults-compare.sh [--fault WORDS] [--out FILE] [--help]

Has a courier_tgt with a pool and a stock spdk_tgt with a controller of bdev_nvme meet the same faults, while
the same client does I/O through each and checks its data. Prints a table of what became of the I/O, and of how
long a deletion and SIGTERM took afterwards, and fails where Courier is worse. Installs what is missing into
Courier's cache, and builds Courier. Needs root, and a quarter of an hour for all faults. Ends with
`faults-compare: PASS`, or with `faults-compare: FAIL (reason)`.

  --fault WORDS  only the fault of that name, or those with that in their names
  --out FILE     write the table to FILE as well
  --help         this text

Environment:
  SPDK_DIR        use this SPDK (a built tree) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

PASSED='' REASON=''
on_die() { REASON=$1; }

# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then
        echo "faults-compare: PASS"
    else
        echo "faults-compare: FAIL (${REASON:-it was interrupted})"
    fi
}

FAULT='' OUT=''
at_exit verdict
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; AT_EXIT=(); exit 0 ;;
        --fault | --out) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    case $1 in
        --fault) FAULT=$2 ;;
        --out) OUT=$(realpath -m "$2") ;;
    esac
    shift 2
done

need_root
need_cargo
need_packages pkg-config clang libclang-dev util-linux
"$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed (why is above)"
cd "$COURIER_ROOT"
cargo build --release --quiet || die "cargo build --release failed (why is above)"
export COURIER_FAULTS=$FAULT
if [ -n "$OUT" ]; then export COURIER_FAULTS_TABLE=$OUT; fi
cargo test --release --quiet --test integration -- --ignored --nocapture stock:: || die "Courier was worse than stock, or a run failed (it is above)"
PASSED=1
