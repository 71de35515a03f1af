#!/usr/bin/env bash
# A machine with RDMA: a Linux guest with Soft-RoCE (rdma_rxe) and this machine's root folder, in which a command runs.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/rdma-vm.sh [--cpus N] [--memory MIB] [--hugepages MIB] [--timeout S] [--icount] [--nic-cpu N]
                          [--out DIR] COMMAND [ARGUMENT...]

Boots Debian's kernel in QEMU (KVM where it works, else emulated) and runs COMMAND in it, as root and in the
folder where this script was called. What it prints is shown, and its exit status is that of this script. 125: the machine
could not be made or died; 124: COMMAND took too long. An empty COMMAND (`true`) takes about a minute or less.

COMMAND sees this machine's files, read-only, in the same places; programs built here run there. Its own are
  /out             a folder that comes back: with --out, into DIR, with `stdout`, `stderr` and `status`
  /tmp, /var/tmp, /run   empty folders in memory; this machine's are under /host
  /guest           the guest's own system: `chroot /guest ip ...`, as well rdma, nvme, fio
and it finds
  RDMA_ADDRESS, RDMA_ADDRESS2   two addresses (on the interfaces rdma0 and rdma1) with an RDMA device each, rxe0 and rxe1
  SPDK_DIR, COURIER_TARGET_DIR  SPDK's tree and the folder of courier_tgt; the programs of both are in PATH
  LD_LIBRARY_PATH               what SPDK's programs need
  hugepages, configfs, and the kernel's modules nvmet, nvmet-rdma, nvmet-tcp, nvme-rdma, nvme-tcp and loop

  --cpus N         virtual CPUs (2)
  --memory MIB     memory (4096)
  --hugepages MIB  how much of it is hugepages of 2 MiB (half of it)
  --timeout S      for booting and COMMAND together (600)
  --icount         the guest's clock counts instructions (one is a nanosecond): repeatable, and slow
  --nic-cpu N      what the software NIC works is done on this CPU (the first is 0), instead of wherever the kernel likes: with one
                   more than COMMAND uses, it leaves the others alone as a real NIC does
  --out DIR        see above
  --help           this text

Environment:
  SPDK_DIR          use this SPDK (a built tree or an installed prefix)
  COURIER_CACHE     the cache (default: ~/.cache/courier)
  CARGO_TARGET_DIR  where cargo builds (default: target)
TEXT
}

# What goes wrong before COMMAND has run is no status of COMMAND.
fail() {
    printf '%s: %s\n' "$SCRIPT_NAME" "$*" >&2
    exit 125
}

# number OPTION VALUE
number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 wants a whole number, not '$2'"
    printf '%s\n' "$2"
}

CPUS=2 MEMORY=4096 HUGEPAGES='' TIMEOUT=600 NIC_CPU='' OUT='' VM_OPTIONS=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --icount) VM_OPTIONS+=(--icount); shift; continue ;;
        --cpus | --memory | --hugepages | --timeout | --nic-cpu | --out) [ $# -ge 2 ] || fail "$1 needs a value; see --help" ;;
        --) shift; break ;;
        -*) usage >&2; fail "unknown option '$1'" ;;
        *) break ;;
    esac
    case $1 in
        --cpus) CPUS=$(number "$1" "$2") ;;
        --memory) MEMORY=$(number "$1" "$2") ;;
        --hugepages) HUGEPAGES=$(number "$1" "$2") ;;
        --timeout) TIMEOUT=$(number "$1" "$2") ;;
        --nic-cpu) NIC_CPU=$2 ;;
        --out) OUT=$2 ;;
    esac
    shift 2
done
[[ -z $NIC_CPU || $NIC_CPU =~ ^[0-9]+$ && $NIC_CPU -lt $CPUS ]] || fail "--nic-cpu wants one of the $CPUS CPUs, 0 to $((CPUS - 1)), not '$NIC_CPU'"
[ $# -gt 0 ] || { usage >&2; fail "no COMMAND is given"; }
HUGEPAGES=${HUGEPAGES:-$((MEMORY / 2))}
[ "$HUGEPAGES" -lt $((MEMORY - 300)) ] || fail "$HUGEPAGES MiB of hugepages leave too little of $MEMORY MiB; the guest itself needs 300"

"$COURIER_ROOT/scripts/install-guest.sh" || fail "the guest could not be made (why is above)"
SPDK=$("$COURIER_ROOT/scripts/install-spdk.sh" --print-dir) || fail "there is no SPDK yet; run scripts/install-spdk.sh"
TARGET=${CARGO_TARGET_DIR:-$COURIER_ROOT/target}/release

WORK=$(mktemp -d "${TMPDIR:-/tmp}/courier-rdma.XXXXXX")
at_exit rm -rf "$WORK"
{
    declare -p HUGEPAGES NIC_CPU
    printf 'COMMAND=('
    printf ' %q' "$@"
    printf ' )\n'
    printf 'FOLDER=%q\n' "$PWD"
    # Python compiles SPDK's RPC client once, and not for every call: its own cache cannot be written in that machine.
    printf 'VARIABLES=('
    printf ' %q' "HOME=$HOME" "SPDK_DIR=$SPDK" "COURIER_CACHE=$COURIER_CACHE" "COURIER_TARGET_DIR=$TARGET" \
        "LD_LIBRARY_PATH=$(spdk_library_path "$SPDK")" "PYTHONPYCACHEPREFIX=/tmp/pycache" \
        "PATH=$TARGET:$SPDK/build/bin:$SPDK/build/examples:$SPDK/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    printf ' )\n'
    cat "$COURIER_ROOT/scripts/guest/host-root.sh" "$COURIER_ROOT/scripts/guest/rdma.sh"
} >"$WORK/script"
if [ -n "$OUT" ]; then VM_OPTIONS+=(--out "$OUT"); fi
# In the background: a shell that waits for a background process heeds a signal at once.
setpriv --pdeathsig TERM -- "$COURIER_ROOT/scripts/vm.sh" run --script "$WORK/script" --host-root --cpus "$CPUS" \
    --memory "$MEMORY" --timeout "$TIMEOUT" ${VM_OPTIONS[@]+"${VM_OPTIONS[@]}"} &
status=0
wait $! || status=$?
exit $status
