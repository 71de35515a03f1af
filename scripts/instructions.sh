#!/usr/bin/env bash
# Instructions of the hot path, per I/O: counted, not timed, so that the same program gives the same figure anywhere.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/instructions.sh [--update] [--help]

Counts under callgrind how many instructions Courier's queues spend on an I/O of 4 KiB at queue depth 32, from
the doorbell to the completion entry, with a backend that does nothing: in a guest of one memory region, and in one of 300
regions of which each I/O uses another. Fails when a figure is more than 3 % over the one kept in
nvme-device/instructions.txt.

  --update   keep the figures of this run
  --help     this text
TEXT
}

UPDATE=
case ${1:-} in
    "") ;;
    --update) UPDATE=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option '$1'" ;;
esac

KEPT=$COURIER_ROOT/nvme-device/instructions.txt
IOS=32000

need_cargo
need_packages valgrind
cd "$COURIER_ROOT"
cargo build --quiet --release --package nvme-device --example hot_path
PROGRAM=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/examples/hot_path
WORK=$(mktemp -d)
at_exit rm -rf "$WORK"

# count REGIONS: instructions per I/O.
count() {
    local total
    valgrind --tool=callgrind --callgrind-out-file="$WORK/out" --toggle-collect='hot_path::poll' \
        "$PROGRAM" "$IOS" "$1" >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; die "the hot path did not run under callgrind"; }
    total=$(sed -n 's/^summary: //p; s/^totals: //p' "$WORK/out" | head -1)
    [ "${total:-0}" -gt 0 ] || die "callgrind counted nothing: the function hot_path::poll was not found"
    echo $((total / IOS))
}

FAILED=
for REGIONS in 1 300; do
    NOW=$(count "$REGIONS")
    WAS=
    if [ -f "$KEPT" ]; then WAS=$(sed -n "s/^$REGIONS //p" "$KEPT"); fi
    printf 'instructions per I/O, %3d regions: %s (kept: %s)\n' "$REGIONS" "$NOW" "${WAS:-none}"
    echo "$REGIONS $NOW" >>"$WORK/figures"
    if [ -n "$WAS" ] && [ $((NOW * 100)) -gt $((WAS * 103)) ]; then FAILED=1; fi
done
if [ -n "$UPDATE" ]; then
    cp "$WORK/figures" "$KEPT"
    echo "kept in nvme-device/instructions.txt"
elif [ -n "$FAILED" ]; then
    die "the hot path has grown by more than 3 %; find out why, or keep the new figures with --update and say why"
fi
