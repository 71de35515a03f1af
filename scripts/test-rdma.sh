#!/usr/bin/env bash
# Tests pools over RDMA (and TCP) against SPDK's target and the kernel's, in a machine with Soft-RoCE.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/test-rdma.sh [--quick] [--out DIR] [--help] [NAME...]

Builds Courier and its integration tests, and runs those of tests/integration/rdma in the machine of scripts/rdma-vm.sh;
with NAMEs, only those that have one of them in their name. The last line is `rdma: PASS` or `rdma: FAIL (reason)`.

  --quick     only some: data of each target over each fabric, through bdevs and controllers, several pools at once, losses of
              the address and of the targets over RDMA, wrong addresses, and what is counted as bounced
  --out DIR   keep the machine's console, and what the tests printed, in DIR
  --help      this text

Environment: as for scripts/rdma-vm.sh
TEXT
}

PASSED='' REASON=''
on_die() { REASON=$1; }
# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then echo "rdma: PASS"; else echo "rdma: FAIL (${REASON:-it was interrupted, or failed in ${PHASE_NAME:-the beginning}})"; fi
}

OUT=''
NAMES=()
QUICK=(rdma::data::{spdk,kernel}_{rdma,tcp}:: rdma::data::three_pools rdma::controller::hugepages rdma::faults::{spdk,kernel}_rdma::
    rdma::faults::a_wrong_address rdma::memory::data_in_memory_without_a_file)
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --quick) NAMES+=("${QUICK[@]}") ;;
        --out) [ $# -ge 2 ] || { usage >&2; die "--out wants a folder"; }; OUT=$2; shift ;;
        -*) usage >&2; die "unknown option '$1'" ;;
        *) NAMES+=("rdma::.*$1") ;;
    esac
    shift
done
at_exit verdict

need_cargo
# The machine runs this one's programs: `ip` takes addresses away.
need_packages pkg-config clang libclang-dev python3 iproute2
"$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed (why is above)"
"$COURIER_ROOT/scripts/install-guest.sh" || die "the guest could not be made (why is above)"

phase "courier and its tests: cargo"
cd "$COURIER_ROOT"
cargo build --release --quiet || die "cargo build --release failed (why is above)"
BUILT=$(cargo test --release --no-run --test integration --message-format json) || die "the tests could not be built (why is above)"
TESTS=$(printf '%s\n' "$BUILT" | sed -n 's/.*"executable":"\([^"]*\/integration-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$TESTS" ] || die "cargo told of no program with the integration tests"

phase "tests in the machine with RDMA"
CHOICE=(rdma::)
if [ ${#NAMES[@]} -gt 0 ]; then
    mapfile -t CHOICE < <("$TESTS" --list --ignored 2>/dev/null | sed -n 's/: test$//p' | grep -E "$(IFS='|'; printf '%s' "${NAMES[*]}")" || true)
    [ ${#CHOICE[@]} -gt 0 ] || die "no test of tests/integration/rdma has such a name"
    CHOICE+=(--exact)
fi
status=0
# In the background: a shell that waits for a background process heeds a signal at once.
setpriv --pdeathsig TERM -- "$COURIER_ROOT/scripts/rdma-vm.sh" --memory 6144 --hugepages 3072 --timeout 1800 ${OUT:+--out "$OUT"} \
    env COURIER_TEST_HUGEPAGES=1 "$TESTS" --ignored --test-threads 1 "${CHOICE[@]}" &
wait $! || status=$?
case $status in
    0) ;;
    124) die "the tests did not end in time" ;;
    125) die "the machine could not be made, or died (why is above)" ;;
    *) die "a test failed (which is above)" ;;
esac
phase_summary
PASSED=1
