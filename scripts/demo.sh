#!/usr/bin/env bash
# The main job end to end: a VM's fio runs on a remote NVMe-oF pool that Courier forwards to.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-target.sh
. "$COURIER_ROOT/scripts/lib-target.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/demo.sh [--runtime S] [--transport tcp|rdma] [--front-end courier|stock] [--keep] [--stop] [--help]

Runs a Linux guest in QEMU whose fio reads and writes an NVMe drive; behind the drive is Courier, and
behind Courier a storage pool in another process, on NVMe/TCP. Installs what is missing (packages,
SPDK, a guest) into Courier's cache, builds Courier, prints a table of the guest's fio jobs and, as its
last line, `demo: PASS` or `demo: FAIL (reason)`. Needs root, 1.5 GiB for hugepages and as much
for the guest. Leaves no process, mount or hugepage behind.

  --runtime S       seconds for each of the five fio jobs (5)
  --transport WHAT  what the pool speaks: `tcp` (the default), or `rdma`: all of it, guest and pool, is then within the
                    machine of scripts/rdma-vm.sh, on Soft-RoCE and the kernel's own target. A guest in an emulated machine
                    is slow: count on a quarter of an hour or more, with --runtime 1. (The times of the phases are
                    that machine's own.)
  --keep            leave all of it up, and print how to reach the guest
  --stop            stop what --keep left up
  --front-end WHAT  the drive that the guest sees: `courier`, Courier's controller (the default), or `stock`, for
                    comparison: SPDK's own vfio-user target, with Courier's bdev behind it
  --middle stock    for comparison: SPDK's own spdk_tgt, front end and bdev_nvme in Courier's place
  --help            this text

Environment:
  SPDK_DIR        use this SPDK (a built tree or an installed prefix) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

POOL_NQN=nqn.2024-01.io.courier:internal-pool
POOL_MIB=128
PATTERN_OFFSET_MIB=64
PATTERN_MIB=8
# What the two SPDK processes take, with the smaller pools of small-pools.json: the pool 510 MiB, the middle 390.
HUGEPAGES_MIB=1024
KEPT=$COURIER_CACHE/demo-kept
FAILED=$COURIER_CACHE/demo-failed
# With --transport rdma: what the middle takes in hugepages, and the machine in all; the pool's data is in a file.
RDMA_HUGEPAGES_MIB=512
RDMA_MEMORY_MIB=3072
NVMET=/sys/kernel/config/nvmet
# How much of a core other processes may have during the guest's fio jobs before the table says that they had it; and had it.
DISTURBED_PERCENT=25
OTHERS_PERCENT=0
RDMA_PACKETS=

# --- the verdict ---------------------------------------------------------------------------------------------

PASSED='' REASON=''
on_die() { REASON=$1; }

# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then
        echo "demo: PASS"
    else
        echo "demo: FAIL (${REASON:-it was interrupted, or failed in ${PHASE_NAME:-the beginning}})"
    fi
}

# What was logged outlives a demo that failed.
# shellcheck disable=SC2317 # run by at_exit
keep_logs() {
    [ -z "$PASSED" ] && [ -z "$STOP" ] || return 0
    rm -rf "$FAILED"
    mkdir -p "$FAILED"
    cp -r "$WORK"/*.log "$WORK"/out "$FAILED/" 2>/dev/null
    say "    the logs are in $FAILED"
}

# --- the chain -----------------------------------------------------------------------------------------------

prepare() {
    phase "packages"
    need_root
    need_packages python3 util-linux
    "$COURIER_ROOT/scripts/install-spdk.sh" || die "SPDK could not be installed (why is above)"
    "$COURIER_ROOT/scripts/install-guest.sh" || die "the guest could not be made (why is above)"
    find_spdk
    if [ "$MIDDLE" = courier ]; then
        build_courier
    fi
    if [ "$TRANSPORT" = tcp ]; then
        phase "hugepages"
        need_hugepages $HUGEPAGES_MIB
    fi
}

# The same demo within the machine that has RDMA. Its last line is this one's, too.
in_rdma_machine() {
    phase "the machine with RDMA"
    REASON="the machine with RDMA died, or did not end in time (what it said is above)"
    rm -rf "$FAILED"
    setpriv --pdeathsig TERM -- "$COURIER_ROOT/scripts/rdma-vm.sh" --memory $RDMA_MEMORY_MIB --hugepages $RDMA_HUGEPAGES_MIB \
        --timeout 3000 --out "$FAILED" "$COURIER_ROOT/scripts/demo.sh" --transport rdma --runtime "$RUNTIME" \
        --middle "$MIDDLE" --front-end "$FRONT_END" >"$WORK/said" &
    wait $! || true
    # All but its last line.
    sed '$d' "$WORK/said"
    case $(tail -n 1 "$WORK/said") in
        "demo: PASS") PASSED=1 ;;
        "demo: FAIL ("*) REASON=$(sed -n '$s/^demo: FAIL (\(.*\))$/\1/p' "$WORK/said") ;;
    esac
    phase_summary
    [ -n "$PASSED" ] || die "$REASON"
    rm -rf "$FAILED"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The kernel's target: it takes no core for itself.
start_rdma_pool() {
    local subsystem=$NVMET/subsystems/$POOL_NQN port=$NVMET/ports/1
    POOL_ADDRESS=$RDMA_ADDRESS PORT=4420
    truncate -s ${POOL_MIB}M "$WORK/pool.img"
    mkdir "$subsystem" && mkdir "$subsystem/namespaces/1" "$port"
    echo 1 >"$subsystem/attr_allow_any_host"
    echo "$WORK/pool.img" >"$subsystem/namespaces/1/device_path"
    echo 1 >"$subsystem/namespaces/1/enable"
    echo rdma >"$port/addr_trtype"
    echo ipv4 >"$port/addr_adrfam"
    echo "$POOL_ADDRESS" >"$port/addr_traddr"
    echo $PORT >"$port/addr_trsvcid"
    ln -s "$subsystem" "$port/subsystems/$POOL_NQN"
}

start_pool() {
    if [ "$TRANSPORT" = rdma ]; then start_rdma_pool; return; fi
    POOL_ADDRESS=127.0.0.1 PORT=$(free_port)
    launch pool "$BIN/spdk_tgt" "$POOL_CORE" "$LIBRARIES"
    must_rpc pool bdev_malloc_create -b Disk $POOL_MIB 512
    must_rpc pool nvmf_create_transport -t TCP
    must_rpc pool nvmf_create_subsystem $POOL_NQN -a -s POOL0001
    must_rpc pool nvmf_subsystem_add_ns $POOL_NQN Disk
    must_rpc pool nvmf_subsystem_add_listener $POOL_NQN -t TCP -f ipv4 -a 127.0.0.1 -s "$PORT"
}

start_middle() {
    local bdev
    if [ "$MIDDLE" = stock ]; then
        launch middle "$BIN/spdk_tgt" "$MIDDLE_CORE" "$LIBRARIES"
        must_rpc middle bdev_nvme_attach_controller -b Pool -t "$TRANSPORT" -f ipv4 -a "$POOL_ADDRESS" -s "$PORT" -n $POOL_NQN
        bdev=Pooln1
    else
        launch middle "$COURIER_TGT" "$MIDDLE_CORE" "$LIBRARIES"
        must_rpc middle courier_pool_create -b pool0 -t "$TRANSPORT" -f ipv4 -a "$POOL_ADDRESS" -s "$PORT" -n $POOL_NQN
        must_rpc middle bdev_courier_create -b Courier0 -p pool0 -n 1
        bdev=Courier0
    fi
    show_drive middle "$FRONT_END" $bdev "$WORK/drive"
}

# The parts between the guest and the pool, in words.
middle_in_words() {
    case $FRONT_END/$MIDDLE in
        courier/*) echo "Courier's controller and bdev" ;;
        stock/courier) echo "SPDK's front end and Courier's bdev" ;;
        stock/stock) echo "SPDK's front end and bdev_nvme" ;;
    esac
}

# shellcheck disable=SC2317 # run by at_exit
stop_vm() { "$COURIER_ROOT/scripts/vm.sh" stop --vm "$WORK/vm" --out "$WORK"; }

start_vm() {
    local pid
    at_exit stop_vm
    if [ -n "$KEEP" ]; then
        "$COURIER_ROOT/scripts/vm.sh" start --vm "$WORK/vm" --socket-dir "$WORK/drive" &
        wait $! || die "the guest did not boot (its console is above)"
        return
    fi
    "${TIE[@]}" "$COURIER_ROOT/scripts/vm.sh" serve --vm "$WORK/vm" --socket-dir "$WORK/drive" "${VM_OPTIONS[@]}" >"$WORK/vm.ready" &
    pid=$!
    until grep -qs ready "$WORK/vm.ready"; do
        kill -0 $pid 2>/dev/null || die "the guest did not boot (its console is above)"
        sleep 0.1
    done
}

# in_guest SCRIPT SECONDS ASSIGNMENT...: runs a script of scripts/guest with some variables set; its files come
# back into WORK/out.
in_guest() {
    local script=$1 seconds=$2 status=0
    shift 2
    { printf '%s\n' "$@"; cat "$COURIER_ROOT/scripts/guest/$script"; } >"$WORK/script"
    # A shell that waits for a background process heeds a signal at once.
    "${TIE[@]}" "$COURIER_ROOT/scripts/vm.sh" exec --vm "$WORK/vm" --script "$WORK/script" \
        --out "$WORK/out" --timeout $((seconds * SLOWNESS)) >&2 &
    wait $! || status=$?
    return $status
}

# What the RDMA device has sent and received, in packets. Nothing, where the kernel does not count.
RDMA_COUNTERS=/sys/class/infiniband/rxe0/ports/1/hw_counters
rdma_packets() {
    [ -r $RDMA_COUNTERS/sent_pkts ] || return 0
    cat $RDMA_COUNTERS/sent_pkts $RDMA_COUNTERS/rcvd_pkts | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

run_fio() {
    local status=0 own=() before='' packets=''
    # Over RDMA, the software NIC's work is the kernel's, and the pool's.
    if [ "$TRANSPORT" = tcp ]; then
        mapfile -t own < <(cat "$WORK"/{pool,middle}.pid "$WORK/vm/pid")
        before=$(processor_times "${own[@]/#//proc/}")
    fi
    if [ "$TRANSPORT" = rdma ]; then packets=$(rdma_packets); fi
    in_guest fio-jobs.sh $((180 + 10 * RUNTIME)) RUNTIME="$RUNTIME" "${FIO_SIZES[@]}" || status=$?
    FIO_STATUS=$status
    if [ -n "$before" ]; then OTHERS_PERCENT=$(others "$before" "$(processor_times "${own[@]/#//proc/}")"); fi
    if [ -n "$packets" ]; then
        RDMA_PACKETS=$(($(rdma_packets) - packets))
        [ $RDMA_PACKETS -gt 0 ] || die "the RDMA device carried nothing during the guest's fio jobs"
    fi
    [ "$status" -ne 124 ] || die "the guest's fio jobs did not end in time"
    [ "$status" -ne 125 ] || die "the guest died during its fio jobs"
    [ "$status" -ne 10 ] || die "the guest sees no drive"
}

# The guest's data, read from the pool past Courier by a tool of SPDK's: that it is where it should be, too.
check_pool() {
    if [ "$TRANSPORT" = rdma ]; then
        dd if="$WORK/pool.img" of="$WORK/dd.img" bs=1M skip=$PATTERN_OFFSET_MIB count=$PATTERN_MIB status=none
    else
        read_pool
    fi
    [ "$(sha256sum <"$WORK/dd.img" | cut -d ' ' -f 1)" = "$(cat "$WORK/out/sha256")" ] ||
        die "the pool, read past Courier, does not hold what the guest wrote"
}

read_pool() {
    local config=$WORK/dd.json image=$WORK/dd.img
    cat >"$config" <<TEXT
{"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_nvme_attach_controller", "params": {
  "name": "Pool", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "$PORT",
  "subnqn": "$POOL_NQN"}}]}]}
TEXT
    env LD_LIBRARY_PATH="$LIBRARIES" timeout 60 "$BIN/spdk_dd" -m "[$MIDDLE_CORE]" --no-huge -s 400 --disable-cpumask-locks \
        -r "$WORK/dd.sock" --json "$config" --ib Pooln1 --of "$image" --bs 1048576 \
        --skip $PATTERN_OFFSET_MIB --count $PATTERN_MIB >"$WORK/dd.log" 2>&1 || {
        tail -n 15 "$WORK/dd.log" >&2
        die "spdk_dd could not read the pool (its last lines are above)"
    }
}

check_data() {
    in_guest pattern.sh 120 OFFSET_MIB=$PATTERN_OFFSET_MIB MIB=$PATTERN_MIB || die "the guest read back other data than it wrote (why is above)"
    check_pool
    if grep -aqF "$POOL_NQN" "$WORK/out/id-ctrl" "$WORK/out/id-ns"; then die "the guest can see the pool's NQN"; fi
}

# Figures of a machine that is busy with other things say little of Courier.
warn_starved() {
    [ "$OTHERS_PERCENT" -ge $DISTURBED_PERCENT ] || return 0
    echo "note: during these jobs other processes had $OTHERS_PERCENT % of a core of this machine's $(nproc), which pool, Courier and guest"
    echo "      lacked: what the table shows, low figures and zeroes included, is a busy machine's"
}

print_results() {
    echo
    echo "An unmodified Linux guest's NVMe driver -> $(middle_in_words) -> NVMe/${TRANSPORT^^} -> the pool ($RUNTIME s per job):"
    echo
    python3 "$COURIER_ROOT/tools/fio_table.py" "$WORK/out"
    echo
    warn_starved
    if [ -n "$RDMA_PACKETS" ]; then echo "the RDMA device rxe0 sent and received $RDMA_PACKETS packets during these jobs"; fi
    echo "sha256 of $PATTERN_MIB MiB written by the guest, read back by it, and read from the pool past ${MIDDLE/courier/Courier}: the same"
    echo "the pool's NQN in what the drive tells the guest: not there"
    echo
}

# --- --keep and --stop ---------------------------------------------------------------------------------------

# Which methods the middle knows, depends on whose it is.
keep_questions() {
    local ask="  scripts/rpc.sh -s $WORK/middle.sock"
    if [ "$FRONT_END" = courier ]; then echo "$ask courier_controller_get ask Courier for the drive"; fi
    if [ "$MIDDLE" = courier ]; then echo "$ask courier_pool_get       ask Courier for the pool"; fi
    if [ "$MIDDLE" = stock ]; then echo "$ask bdev_get_iostat        ask the middle"; fi
}

# What would have been done at the end is written down for --stop.
keep() {
    # As plain assignments: a `declare` that a function reads in makes local variables.
    declare -p WORK SPDK AT_EXIT | sed 's/^declare -[^ ]* //' >"$WORK/kept"
    ln -sfn "$WORK" "$KEPT"
    AT_EXIT=("${AT_EXIT[0]}")
    cat <<TEXT
The guest is up. To reach it:
  scripts/vm.sh shell --vm $WORK/vm          a root shell in it; leave it with Ctrl-]
  scripts/vm.sh exec --vm $WORK/vm --script FILE     run a script in it
$(keep_questions)
  scripts/rpc.sh -s $WORK/pool.sock bdev_get_iostat          ask the pool
To stop it all:
  scripts/demo.sh --stop

TEXT
}

stop_kept() {
    need_root
    [ -e "$KEPT/kept" ] || die "there is nothing to stop: no demo was left up with --keep"
    # shellcheck source=/dev/null
    . "$KEPT/kept"
    # All but the verdict.
    AT_EXIT=("${AT_EXIT[@]:1}")
    at_exit rm -f "$KEPT"
    say "    stopping the demo in $WORK"
}

# --- main ----------------------------------------------------------------------------------------------------

RUNTIME=5 MIDDLE=courier FRONT_END='' KEEP='' STOP='' TRANSPORT=tcp
# What a guest in an emulated machine needs: so many times longer, and small jobs.
SLOWNESS=1 VM_OPTIONS=() FIO_SIZES=()
at_exit verdict
while [ $# -gt 0 ]; do
    case $1 in
        --keep) KEEP=1; TIE=(setsid); shift; continue ;;
        --stop) STOP=1; shift; continue ;;
        -h | --help) usage; AT_EXIT=(); exit 0 ;;
    esac
    case $1 in
        --runtime | --transport | --middle | --front-end) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    case $1 in
        --runtime) RUNTIME=$2 ;;
        --transport) TRANSPORT=$2 ;;
        --middle) MIDDLE=$2 ;;
        --front-end) FRONT_END=$2 ;;
    esac
    shift 2
done
[[ $RUNTIME =~ ^[1-9][0-9]{0,4}$ ]] || die "--runtime must be whole seconds from 1 to 99999, got '$RUNTIME'"
[[ $TRANSPORT = tcp || $TRANSPORT = rdma ]] || die "--transport must be tcp or rdma, got '$TRANSPORT'"
[ "$TRANSPORT" = tcp ] || [ -z "$KEEP" ] || die "--keep does not go with --transport rdma: the machine in which all of it is ends with the demo"
[[ $MIDDLE = courier || $MIDDLE = stock ]] || die "--middle must be courier or stock, got '$MIDDLE'"
FRONT_END=${FRONT_END:-$MIDDLE}
[[ $FRONT_END = courier || $FRONT_END = stock ]] || die "--front-end must be courier or stock, got '$FRONT_END'"
[[ $FRONT_END = stock || $MIDDLE = courier ]] || die "--front-end courier is not in SPDK's own spdk_tgt, which --middle stock runs; leave one of them out"

if [ -n "$STOP" ]; then
    AT_EXIT=()
    stop_kept
    exit 0
fi
if [ -e "$KEPT/kept" ]; then die "a demo is still up that was left so with --keep; stop it first: scripts/demo.sh --stop"; fi

if [ "$TRANSPORT" = rdma ]; then
    SLOWNESS=8 VM_OPTIONS=(--cpus 1 --memory 384 --timeout 2000) FIO_SIZES=(SEQUENTIAL_MIB=1 RANDOM_MIB=1) PATTERN_MIB=1
fi

# rdma-vm.sh sets RDMA_ADDRESS in its machine, where everything has been prepared, and what is to be kept goes to /out.
INSIDE=${RDMA_ADDRESS:-}
if [ -n "$INSIDE" ]; then FAILED=/out/failed; find_spdk; else prepare; fi
choose_cores
WORK=$(mktemp -d "${TMPDIR:-/tmp}/courier-demo.XXXXXX")
at_exit rm -rf "$WORK"
if [ "$TRANSPORT" = rdma ] && [ -z "$INSIDE" ]; then
    in_rdma_machine
    exit
fi
at_exit keep_logs
phase "the pool on NVMe/${TRANSPORT^^}"
start_pool
phase "the middle: $(middle_in_words)"
start_middle
phase "the guest boots"
start_vm
phase "the guest's fio jobs"
run_fio
phase "data, end to end"
check_data
phase_summary
print_results
[ "$FIO_STATUS" -eq 0 ] || die "a fio job failed, or its data did not verify (see the table)"
if [ -n "$KEEP" ]; then keep; fi
PASSED=1
