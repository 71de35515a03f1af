#!/usr/bin/env bash
# Measures what a guest notices of another one that does harm beside it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/neighbour.sh [--two] [--pairs N] [--milliseconds N] [--only TEXT] [--list] [--help]

A guest reads from a disk in memory while another one, with a controller of its own, does what harms: it resets or is killed with
thousands of commands in flight, its pool hangs, it maps and unmaps without end, connects and goes without end, and so on. Prints a
table in Markdown: the slowest read, the reads in a second, and what of its fair share is left, each in pairs of one measurement before
and one beside (docs/performance.md tells how). Needs root, two cores, and what scripts/test.sh needs; builds Courier first.
Some 5 s for each pair, so that all of them take about five minutes.

  --two             both guests have a reactor of their own, the neighbour on the second core
  --pairs N         pairs of each (default: 3); every one has a courier_tgt of its own
  --milliseconds N  how long each measurement takes (default: 2000)
  --only TEXT       only what has this text in its name
  --list            the names
  --help            this text
TEXT
}

TEST=table_of_one_reactor
while [ $# -gt 0 ]; do
    case $1 in
        --pairs | --milliseconds | --only) [ $# -ge 2 ] || die "$1 needs a value; see --help" ;;
    esac
    case $1 in
        --two) TEST=table_of_two_reactors ;;
        --pairs) export COURIER_NEIGHBOUR_PAIRS=${2:-} && shift ;;
        --milliseconds) export COURIER_NEIGHBOUR_MILLISECONDS=${2:-} && shift ;;
        --only) export COURIER_NEIGHBOUR_ONLY=${2:-} && shift ;;
        --list) sed -n 's/^ *\(Behaviour::\)\?of("\([^"]*\)".*/\2/p' "$COURIER_ROOT/tests/integration/neighbour/behaviour.rs"; exit 0 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done
for number in "${COURIER_NEIGHBOUR_PAIRS-1}" "${COURIER_NEIGHBOUR_MILLISECONDS-1}"; do
    [[ $number =~ ^[1-9][0-9]{0,4}$ ]] || die "expected a number from 1 to 99999, got '$number'"
done
[ "$(nproc)" -ge 2 ] || die "two cores are needed: one for the reactor, one for the guests; there is $(nproc)"

need_root
need_cargo
cd "$COURIER_ROOT"
"$COURIER_ROOT/scripts/install-spdk.sh"
cargo build --release --quiet --bin courier_tgt || die "cargo build failed (see above)"
cargo test --release --quiet --package courier --test integration "neighbour::$TEST" -- --ignored --exact --nocapture
