#!/usr/bin/env bash
# Measures Courier against SPDK's own C stack: prepares the machine, then runs tools/bench/courier_bench.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# All processes' memory (tools/bench/courier_bench/__main__.py), and a little more.
HUGEPAGES_MIB=4424
RDMA_HUGEPAGES_MIB=1664
BENCH_PID=

# bench ARGUMENT...: becomes the Python program that measures.
bench() {
    export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$COURIER_ROOT/tools/bench"
    exec python3 -m courier_bench "$@"
}

# link_tools SPDK FOLDER: puts SPDK's spdk_tgt, spdk_nvme_perf and bdevperf into FOLDER, linked statically. courier_tgt is
# linked so, too; a rival out of shared libraries would pay for its calls between them.
link_tools() {
    local spdk=$1 folder=$2 vfio_user=$1/build/libvfio-user/usr/local/lib place archives
    for place in app/spdk_tgt/spdk_tgt.o app/spdk_nvme_perf/perf.o examples/bdev/bdevperf/bdevperf.o; do
        [ -e "$spdk/$place" ] || die "'$spdk' is not a built SPDK tree (no $place in it); the bench links its tools from one. Point SPDK_DIR at such a tree, or unset it"
    done
    archives=$folder/archives
    mkdir -p "$archives"
    # The linker takes a shared library where it finds one beside the archive: show it a folder without.
    for place in "$spdk"/{build,dpdk/build}/lib "$spdk"/isa-l{,-crypto}/.libs "$vfio_user"; do
        find "$place" -maxdepth 1 -name '*.a' -exec ln -sf -t "$archives" {} + 2>/dev/null || true
    done
    link_tool "$spdk/app/spdk_tgt" "$folder/spdk_tgt"
    link_tool "$spdk/app/spdk_nvme_perf" "$folder/spdk_nvme_perf"
    link_tool "$spdk/examples/bdev/bdevperf" "$folder/bdevperf"
}

# link_tool SOURCES PROGRAM: SPDK's own make rule, told where to look first and where to write to.
link_tool() {
    run_logged "$folder/$(basename "$2").log" flock "$folder" \
        make -C "$1" CONFIG_SHARED=n "CC=${CC:-gcc} -L$archives -Wl,-rpath,$vfio_user" "APP=$2"
}

# The bench ends its SPDK processes itself; it is given the time for that.
# shellcheck disable=SC2317 # run by at_exit
stop_bench() {
    if [ -n "$BENCH_PID" ] && kill -TERM "$BENCH_PID" 2>/dev/null; then wait "$BENCH_PID"; fi
}

# in_rdma_machine ARGUMENT...: the bench within a machine that has RDMA, and whose clock counts instructions. The NIC, which is software,
# has a CPU to itself: what of it would run on those of the processes, and whether in a round that counts as busy, is chance.
in_rdma_machine() {
    local out
    out=$COURIER_ROOT/bench-results/$(date -u +%Y%m%dT%H%M%SZ)-rdma
    exec "$COURIER_ROOT/scripts/rdma-vm.sh" --icount --cpus 3 --nic-cpu 2 --memory $((RDMA_HUGEPAGES_MIB + 1280)) --hugepages $RDMA_HUGEPAGES_MIB --timeout 3600 --out "$out" \
        env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$COURIER_ROOT/tools/bench" python3 -m courier_bench "$@" --out /out
}

for option; do
    case $option in
        -h | --help | --list) need_packages python3; bench "$@" ;;
    esac
done

need_root
need_packages python3
mkdir -p "$COURIER_CACHE"
exec 8>"$COURIER_CACHE/bench.lock"
flock -n 8 || die "another bench is running on this machine; two would measure each other"
needs=$(bench --needs "$@") || exit 2 # a mistake in the options is better told now than after the build
# Only the chart needs it.
(need_packages gnuplot-nox) || warn "there will be no chart"
"$COURIER_ROOT/scripts/install-spdk.sh"
spdk=$("$COURIER_ROOT/scripts/install-spdk.sh" --print-dir)
if [[ " $needs " = *" perf "* ]]; then need_packages linux-perf; fi
phase "stock spdk_tgt and SPDK's tools, linked statically"
tools=$COURIER_CACHE/bench-tools-$(printf '%s' "$spdk" | sha256sum | cut -c 1-10)
link_tools "$spdk" "$tools"
if [[ " $needs " = *" guest "* ]]; then
    "$COURIER_ROOT/scripts/install-guest.sh" || die "the guest could not be made (why is above)"
fi
if [[ " $needs " = *" courier "* ]]; then
    phase "courier: cargo build --release"
    need_cargo
    (cd "$COURIER_ROOT" && cargo build --release --bin courier_tgt) || die "cargo build failed (see above)"
fi
[[ " $needs " = *" rdma "* ]] || need_hugepages "$HUGEPAGES_MIB"

phase "bench"
at_exit stop_bench
# One signal ends the bench; those that follow must not cut its clean-up short.
trap 'trap "" INT TERM HUP; exit 130' INT
trap 'trap "" INT TERM HUP; exit 143' TERM HUP
# In the background, so that a signal to this script is acted on at once.
programs=(--tools "$tools" --courier-tgt "${CARGO_TARGET_DIR:-$COURIER_ROOT/target}/release/courier_tgt")
if [[ " $needs " = *" rdma "* ]]; then in_rdma_machine "${programs[@]}" "$@" & else bench "${programs[@]}" "$@" & fi
BENCH_PID=$!
status=0
wait "$BENCH_PID" || status=$?
BENCH_PID=
exit "$status"
