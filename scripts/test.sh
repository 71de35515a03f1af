#!/usr/bin/env bash
# Everything that must hold: style, units, SPDK in the process, live processes, a guest.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/test.sh [--full] [--docker | --no-docker] [--rdma] [--faults] [--no-guest] [--no-lint] [--help]

Installs what is missing (packages, SPDK, a guest) into Courier's cache, builds Courier, and tests it:
formatting, lints, documentation and dependencies, unit tests, SPDK within the test's process, live targets and controllers with
SPDK's own tools and with hostile clients, pools that hang, are late, lie or go, the instructions of the hot path, the bench in short, and the demo
in a guest. Needs root and Debian 12 or 13 with a Rust toolchain. Ends with `test: PASS` (exit 0) or
`test: FAIL (reason)`. On a warm machine some twenty minutes, and half as many more with --full.

  --full       also what takes long, as continuous integration does: the fuzz targets from their corpus; guests under
               resets, hot plug and reboot; nvme-cli on our drive and on QEMU's own; booting from the drive; some pools over
               RDMA, in a virtual machine with Soft-RoCE; Docker
  --docker     also the images for Docker and the services that they make (scripts/test-docker.sh), which is skipped,
               and said to be, where no Docker engine can be had
  --no-docker  leave that out of --full
  --rdma       also all tests of pools over RDMA (scripts/test-rdma.sh), of which --full has some
  --faults     also every fault of scripts/faults-compare.sh, a quarter of an hour; the tests have the shortest of them
  --no-guest   leave out the guests
  --no-lint    leave out formatting, lints, documentation and dependencies
  --help       this text

Environment:
  SPDK_DIR        use this SPDK (a built tree or an installed prefix) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

FULL=
unset DOCKER # as --full, unless an option says otherwise
RDMA=
FAULTS=
GUEST=1
LINT=1
while [ $# -gt 0 ]; do
    case $1 in
        --full) FULL=1 ;;
        --docker) DOCKER=1 ;;
        --no-docker) DOCKER= ;;
        --rdma) RDMA=1 ;;
        --faults) FAULTS=1 ;;
        --no-guest) GUEST= ;;
        --no-lint) LINT= ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done

PASSED=
REASON=
on_die() { REASON=$1; }
# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then echo "test: PASS"; else echo "test: FAIL (${REASON:-in: ${PHASE_NAME:-the beginning}})"; fi
}
at_exit verdict

# must COMMAND...: the run fails with the phase's name if COMMAND does.
must() { "$@" || die "$PHASE_NAME: failed: $*"; }

need_root
need_cargo
cd "$COURIER_ROOT"

phase "packages"
need_packages pkg-config clang libclang-dev shellcheck python3

phase "SPDK"
"$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed"

if [ -n "$LINT" ]; then
    phase "style"
    FUZZ=vfio-user-ctrl/fuzz/Cargo.toml # a workspace of its own
    must cargo fmt --all --check
    must cargo fmt --manifest-path $FUZZ --check
    must shellcheck -x scripts/*.sh scripts/guest/*.sh docker/*.sh docker/courier-rpc
    must cargo clippy --quiet --workspace --all-targets --release -- -D warnings
    must cargo clippy --quiet --manifest-path $FUZZ --target-dir "${CARGO_TARGET_DIR:-target}" --all-targets --release -- -D warnings
    must env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --release --workspace --no-deps --document-private-items
    must scripts/check-dependencies.sh
fi

phase "build"
must cargo build --release --workspace

phase "hugepages"
need_hugepages 1024

phase "tests"
must cargo test --release --workspace

phase "units that need no SPDK, with overflow checks"
must cargo test --quiet --package nvme-spec --package nvme-host --package nvme-tcp-queue --package vfio-user --package guest-memory --package nvme-device --lib --tests

if [ -n "$FAULTS" ]; then
    phase "faults, side by side with stock"
    must scripts/faults-compare.sh
fi

phase "instructions of the hot path"
must scripts/instructions.sh
must cargo bench --quiet --package nvme-device --bench pieces -- --test
must cargo bench --quiet --package nvme-host --bench wire -- --test

if [ -n "$FULL" ]; then
    phase "fuzzing"
    must scripts/fuzz.sh --time 30
fi

phase "RPC client and bench"
for FOLDER in python tools tools/bench; do
    must python3 -m unittest discover --start-directory $FOLDER --pattern 'test_*.py'
done
must scripts/bench.sh --case front-qd32 --case tcp-qd32 ${FULL:+--case attached} --pairs 1 --runtime 1 --out "${CARGO_TARGET_DIR:-target}/bench"

if [ -n "$GUEST" ]; then
    phase "demo in a guest"
    must scripts/demo.sh --runtime 2
fi

if [ -n "$GUEST" ] && [ -n "$FULL" ]; then
    phase "controllers in a guest: resets, hot plug, reboot"
    must cargo test --release --workspace --test integration guest:: -- --ignored
    phase "nvme-cli in a guest: our drive and QEMU's own"
    must scripts/nvme-compare.sh
    phase "a guest boots from the drive"
    must scripts/test-boot.sh
fi

if [ -n "$RDMA" ]; then
    phase "NVMe-oF over RDMA, in a machine of its own"
    must scripts/test-rdma.sh
elif [ -n "$FULL" ] && [ -n "$GUEST" ]; then
    phase "NVMe-oF over RDMA, some of it, in a machine of its own"
    must scripts/test-rdma.sh --quick
fi

if [ -n "${DOCKER-$FULL}" ]; then
    phase "docker: images and services"
    must scripts/test-docker.sh
fi

phase_summary
PASSED=1
