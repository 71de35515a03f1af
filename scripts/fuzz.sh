#!/usr/bin/env bash
# Runs the fuzz targets of the vfio-user controller and of the NVMe/TCP host from the kept corpus.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/fuzz.sh [--time S] [--target T] [--grow] [--help]

Builds the fuzz targets (vfio-user-ctrl/fuzz) with libFuzzer, and with AddressSanitizer where the toolchain has it, and runs
each for a fixed time from its corpus. The stable toolchain suffices. Ends with `fuzz: PASS` (exit 0) or `fuzz: FAIL (reason)`;
the input that failed is kept, and how to run it again is printed.

  --time S     seconds for each target (default: 30)
  --target T   only this target: wire, controller, pool
  --grow       add to the corpus what reaches code that nothing in it reaches
  --help       this text

To write the corpus's seeds anew: cd vfio-user-ctrl/fuzz && cargo run --bin seeds corpus
TEXT
}

TIME=30
TARGETS=(wire controller pool)
GROW=
while [ $# -gt 0 ]; do
    case $1 in
        --time | --target) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
    esac
    case $1 in
        --time) TIME=${2:-} && shift ;;
        --target) TARGETS=("${2:-}") && shift ;;
        --grow) GROW=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done
[[ $TIME =~ ^[0-9]+$ ]] || die "--time must be a number of seconds, got '$TIME'"
for target in "${TARGETS[@]}"; do
    [[ $target =~ ^(wire|controller|pool)$ ]] || die "--target must be wire, controller or pool, got '$target'"
done

PASSED=
REASON=
on_die() { REASON=$1; }
# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$PASSED" ]; then echo "fuzz: PASS"; else echo "fuzz: FAIL (${REASON:-in: ${PHASE_NAME:-the beginning}})"; fi
}
at_exit verdict

need_cargo
command -v c++ >/dev/null || need_packages g++
FUZZ=$COURIER_ROOT/vfio-user-ctrl/fuzz
TARGET_DIR=${CARGO_TARGET_DIR:-$FUZZ/target}
HOST=$(rustc -vV | sed -n 's/^host: //p')
FOUND=$TARGET_DIR/found
ARTIFACTS=$TARGET_DIR/artifacts
mkdir -p "$ARTIFACTS"

# What cargo-fuzz passes; the passes are stable, the sanitizer is let in by RUSTC_BOOTSTRAP.
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
if compgen -G "$(rustc --print sysroot)/lib/rustlib/$HOST/lib/librustc-*_rt.asan.a" >/dev/null; then
    flags+=" -Zsanitizer=address"
else
    warn "this toolchain has no AddressSanitizer: only what panics or faults is found"
fi

phase "build"
# With --target, build scripts and macros are built without these flags.
(cd "$FUZZ" && RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_TARGET_DIR=$TARGET_DIR cargo build --quiet --release --target "$HOST" \
    --features libfuzzer --bin wire --bin controller --bin pool) || die "the fuzz targets cannot be built"

for target in "${TARGETS[@]}"; do
    phase "$target for $TIME s"
    program=$TARGET_DIR/$HOST/release/$target
    corpus=$FUZZ/corpus/$target
    rm -rf "${FOUND:?}/$target"
    mkdir -p "$FOUND/$target"
    log=$TARGET_DIR/$target.log
    if ! nice "$program" -max_total_time="$TIME" -timeout=10 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
        -artifact_prefix="$ARTIFACTS/$target-" "$FOUND/$target" "$corpus" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        say "    run it again with: $program $(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
        die "$target failed (the end of $log is above)"
    fi
    say "    $(sed -n 's/^stat::number_of_executed_units: */runs: /p' "$log"), $(find "$FOUND/$target" -type f | wc -l) new inputs"
    if [ -n "$GROW" ]; then
        "$program" -merge=1 -use_counters=0 -max_len=8192 "$corpus" "$FOUND/$target" >>"$log" 2>&1 || die "$target: the corpus could not be extended"
        say "    the corpus has $(find "$corpus" -type f | wc -l) inputs"
    fi
done

phase_summary
PASSED=1
