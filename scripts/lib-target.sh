# SPDK processes for scripts that show or test Courier: started, asked and ended, with their files in the folder WORK.
# Sourced after lib.sh, never run.
# shellcheck shell=bash disable=SC2034 # variables are for those that source this

COURIER_TGT=${CARGO_TARGET_DIR:-$COURIER_ROOT/target}/release/courier_tgt
DRIVE_NQN=nqn.2024-01.io.courier:drive0

# What starts a process so that it dies with this script, even if that is killed; or, with --keep, outlives it.
TIE=(setpriv --pdeathsig KILL --)

# An spdk_tgt serves iSCSI too, and sets 370 MiB aside for it; and memory for 65,535 bdev I/Os at once. The same sizes are
# in docker/*.json.
SMALL_POOLS=$COURIER_ROOT/scripts/small-pools.json

# launch NAME PROGRAM CORE LIBRARIES OPTION...: starts an SPDK process whose socket, log and pid are WORK/NAME.*, and waits
# until it answers.
launch() {
    local name=$1 program=$2 core=$3 libraries=$4 i
    shift 4
    env LD_LIBRARY_PATH="$libraries" "${TIE[@]}" "$program" -m "[$core]" -r "$WORK/$name.sock" \
        --disable-cpumask-locks --no-pci --iova-mode va --json "$SMALL_POOLS" --json-ignore-init-errors "$@" </dev/null >"$WORK/$name.log" 2>&1 &
    echo $! >"$WORK/$name.pid"
    at_exit end "$name"
    for ((i = 0; i < 300; i++)); do
        # Not `alive`: the process may not have become the program yet.
        kill -0 "$(cat "$WORK/$name.pid")" 2>/dev/null || died "$name"
        if [ -S "$WORK/$name.sock" ] && rpc "$name" -t 30 framework_wait_init >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    died "$name"
}

# processor_times /proc/PID...: what these processes have had of the processors, what everybody has had (time that a hypervisor took
# is somebody's, too), and the time of day, all in milliseconds. The kernel counts in ticks.
TICKS_PER_SECOND=$(getconf CLK_TCK)
processor_times() {
    cat "${@/%//stat}" /proc/stat /proc/uptime 2>/dev/null | awk -v unit=$((1000 / TICKS_PER_SECOND)) '
        / \(.*\) / { sub(/.*\) /, ""); own += $12 + $13; next }
        $1 == "cpu" { all = $2 + $3 + $4 + $7 + $8 + $9 }
        NF == 2 { now = $1 }
        END { printf "%.0f %.0f %.0f\n", own * unit, all * unit, now * 1000 }'
}

# others BEFORE AFTER: how much of one core all other processes had between two answers of `processor_times`, in percent.
others() {
    awk -v before="$1" -v after="$2" 'BEGIN {
        split(before, a, " "); split(after, b, " ")
        printf "%d\n", 100 * ((b[2] - a[2]) - (b[1] - a[1])) / (b[3] > a[3] ? b[3] - a[3] : 1)
    }'
}

# alive NAME: the process is there, and is still the one that was started.
alive() { tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$WORK/$1.pid")/cmdline" | grep -qF "$WORK/$1.sock"; }

died() {
    say "--- the last lines of $1's log:"
    tail -n 15 "$WORK/$1.log" >&2
    die "the $1 process did not come up, or died (its last lines are above)"
}

# end NAME: ends a process that this script, or the one that was told to --keep, started.
end() {
    local pid i
    [ -e "$WORK/$1.pid" ] && alive "$1" || return 0
    pid=$(cat "$WORK/$1.pid")
    kill -TERM "$pid" 2>/dev/null
    for ((i = 0; i < 100; i++)); do
        alive "$1" || return 0
        sleep 0.1
    done
    warn "the $1 process did not end in 10 s; it is killed"
    kill -KILL "$pid" 2>/dev/null
    # Its traces stay in memory otherwise, some MiB.
    rm -f "/dev/shm/"*"_trace.pid$pid"
}

# rpc NAME COMMAND...: an RPC to the process NAME.
rpc() {
    local name=$1
    shift
    SPDK_DIR=$SPDK "$COURIER_ROOT/scripts/rpc.sh" -s "$WORK/$name.sock" "$@"
}

# must_rpc NAME COMMAND...: the same, and the end of the script if it fails.
must_rpc() {
    rpc "$@" >"$WORK/rpc.log" 2>&1 || {
        cat "$WORK/rpc.log" >&2
        alive "$1" || died "$1"
        die "the $1 process refused: ${*:2} (its answer is above)"
    }
}

# find_spdk: sets SPDK, LIBRARIES (what its tools need as LD_LIBRARY_PATH) and BIN, its folder of programs.
find_spdk() {
    SPDK=$("$COURIER_ROOT/scripts/install-spdk.sh" --print-dir)
    LIBRARIES=$(spdk_library_path "$SPDK")
    BIN=$SPDK/build/bin
    [ -x "$BIN/spdk_tgt" ] || BIN=$SPDK/bin
    [ -x "$BIN/spdk_tgt" ] || die "the SPDK in use, $SPDK, has no spdk_tgt in build/bin or bin"
}

# build_courier: the phase that makes COURIER_TGT.
build_courier() {
    phase "courier: cargo build --release"
    need_cargo
    (cd "$COURIER_ROOT" && cargo build --release --quiet) || die "cargo build --release failed (why is above)"
}

# The first and the last core that this process may use, for the pool and the middle: each polls on its own, the
# guest's processors run where they find room (vm.sh gives them precedence). On two cores that was as quick
# as a pool in SPDK's interrupt mode, and three times as quick as both processes on one core.
choose_cores() {
    local list
    list=$(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status)
    POOL_CORE=${list%%[,-]*}
    MIDDLE_CORE=${list##*[,-]}
}

# show_drive NAME FRONT_END BDEV DIR: the process NAME puts BDEV on the socket DIR/cntrl as an NVMe drive, which is Courier's
# controller or SPDK's.
show_drive() {
    local name=$1 front_end=$2 bdev=$3 dir=$4
    if [ "$front_end" = courier ]; then
        must_rpc "$name" courier_controller_create -b drive0 -a "$dir" -s DRIVE0001
        must_rpc "$name" courier_controller_add_ns drive0 "$bdev"
        return
    fi
    mkdir "$dir"
    must_rpc "$name" nvmf_create_transport -t VFIOUSER
    must_rpc "$name" nvmf_create_subsystem $DRIVE_NQN -a -s DRIVE0001 -d Courier
    must_rpc "$name" nvmf_subsystem_add_ns $DRIVE_NQN "$bdev"
    must_rpc "$name" nvmf_subsystem_add_listener $DRIVE_NQN -t VFIOUSER -a "$dir" -s 0
}
