# Shared by every script here: messages, phases with their time, packages, the cache, and clean-up.
# Sourced, never run. Every script that sources it gets `set -euo pipefail` and an EXIT trap that
# runs what `at_exit` was given, newest first.
# shellcheck shell=bash
set -euo pipefail

COURIER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is expensive to make lives here, outside the checkout: SPDK, QEMU, the guest.
COURIER_CACHE=${COURIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/courier}
# DPDK's build and SPDK's RPC client want Debian's Python, not one that a version manager put first.
PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH
export COURIER_ROOT COURIER_CACHE PATH

SCRIPT_NAME=$(basename "$0")
PHASE_NAME=
PHASE_START=0
SCRIPT_START=$SECONDS
PHASE_LOG=()
AT_EXIT=()

say() { printf '%s\n' "$*" >&2; }
warn() { printf '%s: warning: %s\n' "$SCRIPT_NAME" "$*" >&2; }

# die MESSAGE: says what is wrong and leaves with exit status 1. A script that must end with a line of
# its own (demo.sh) defines on_die.
die() {
    printf '%s: %s\n' "$SCRIPT_NAME" "$*" >&2
    if declare -F on_die >/dev/null; then on_die "$*"; fi
    exit 1
}

# phase NAME: ends the phase before it, printing how long that took, and begins NAME.
phase() {
    phase_end
    PHASE_NAME=$1
    PHASE_START=$SECONDS
    say "==> $PHASE_NAME"
}

phase_end() {
    [ -n "$PHASE_NAME" ] || return 0
    local took=$((SECONDS - PHASE_START))
    say "    $PHASE_NAME: ${took} s"
    PHASE_LOG+=("$(printf '%5d s  %s' "$took" "$PHASE_NAME")")
    PHASE_NAME=
}

# phase_summary: the time of every phase and of the whole.
phase_summary() {
    phase_end
    [ ${#PHASE_LOG[@]} -eq 0 ] || printf '    %s\n' "${PHASE_LOG[@]}" >&2
    say "    $(printf '%5d s  in all' $((SECONDS - SCRIPT_START)))"
}

# at_exit COMMAND...: run COMMAND when the script ends, however it ends.
at_exit() { AT_EXIT+=("$(printf '%q ' "$@")"); }

run_at_exit() {
    local status=$? i
    trap - EXIT
    set +e
    for ((i = ${#AT_EXIT[@]} - 1; i >= 0; i--)); do eval "${AT_EXIT[i]}"; done
    exit "$status"
}
trap run_at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

need_root() {
    [ "$(id -u)" -eq 0 ] || die "must run as root (hugepages, mounts and apt-get need it); you are $(id -un). Try: sudo $0"
}

# need_packages PACKAGE...: installs the Debian packages that are missing, and nothing when none is.
need_packages() {
    local missing=() p
    for p in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "these packages are missing and apt-get is not here to install them: ${missing[*]}. Courier's scripts need Debian 12 or 13"
    need_root
    say "    installing packages: ${missing[*]}"
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
        apt-get update >>"$log" 2>&1 || {
            tail -n 5 "$log" >&2
            die "no network to the package mirror: apt-get update failed (its last lines are above)"
        }
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1 || {
            tail -n 15 "$log" >&2
            die "apt-get could not install: ${missing[*]} (its last lines are above)"
        }
    fi
    rm -f "$log"
}

# need_cargo: makes sure that there is a Rust toolchain; rustup's goes before Debian's older one.
need_cargo() {
    if [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    command -v cargo >/dev/null || die "no cargo: a Rust toolchain (1.88 or newer) is needed, for instance by way of Debian's package rustup"
}

# run_logged FILE COMMAND...: COMMAND with its output in FILE; on failure its last lines are shown.
run_logged() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "failed: $* (the last lines of $log are above)"
    fi
}

# debian_mirror: the URI of Debian's main archive, as this machine's own apt is configured.
debian_mirror() {
    local uri
    uri=$(first_archive_of Debian)
    if [ -z "$uri" ]; then
        apt-get update >/dev/null 2>&1 || die "no network to the package mirror: apt-get update failed"
        uri=$(first_archive_of Debian)
    fi
    [ -n "$uri" ] || die "this machine's apt knows no Debian archive (apt-get indextargets lists none with the label Debian); add one to its sources"
    printf '%s\n' "${uri%/}"
}

# shellcheck disable=SC2016 # the fields are apt's to fill in
first_archive_of() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n "s/^$1|//p" | head -n 1
}

# The keys that Debian signs its archive with.
# shellcheck disable=SC2034 # used by those that source this
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# need_hugepages MIB: reserves MIB of 2 MiB hugepages on top of those that are there, so that no other process's
# are taken, and mounts a hugetlbfs if there is none; both are put back at exit. Where the kernel cannot
# free as much memory, hugepages that are there and free will do.
need_hugepages() {
    local pages=$((($1 + 1) / 2)) dir=/sys/kernel/mm/hugepages/hugepages-2048kB added free
    [ -w "$dir/nr_hugepages" ] || die "no hugepages: $dir/nr_hugepages is not there or not writable; SPDK needs 2 MiB hugepages (kernel built with CONFIG_HUGETLBFS, and root)"
    added=$(change_hugepages "$pages")
    at_exit drop_hugepages "$added"
    free=$(cat "$dir/free_hugepages")
    [ "$free" -ge "$pages" ] || die "no hugepages: $1 MiB are needed, the kernel could free only $((free * 2)) MiB; free some memory, or reserve them at boot with hugepages=$pages"
    if ! grep -qs ' hugetlbfs ' /proc/mounts; then
        mkdir -p /dev/hugepages
        mount -t hugetlbfs -o pagesize=2M none /dev/hugepages || die "cannot mount hugetlbfs on /dev/hugepages; SPDK needs it"
        at_exit umount /dev/hugepages
    fi
}

# change_hugepages PAGES: adds PAGES (takes them away, if negative); prints by how many the number changed. One at a time:
# the kernel has no operation for it but reading the number and writing another.
change_hugepages() {
    local file=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages before lock
    mkdir -p "$COURIER_CACHE"
    exec {lock}>"$COURIER_CACHE/hugepages.lock"
    flock "$lock"
    before=$(cat "$file")
    echo $((before + $1 > 0 ? before + $1 : 0)) >"$file"
    printf '%s\n' $(($(cat "$file") - before))
    exec {lock}>&-
}

drop_hugepages() { change_hugepages "-$1" >/dev/null; }

# spdk_library_path DIR: where the shared libraries of the SPDK in DIR (a tree or a prefix) lie. The stock tools
# carry no run path; give it to a process of theirs as LD_LIBRARY_PATH, and to nothing else.
spdk_library_path() {
    local dir path=
    for dir in "$1/build/lib" "$1/dpdk/build/lib" "$1/build/libvfio-user/usr/local/lib" "$1/isa-l/.libs" \
        "$1/isa-l-crypto/.libs" "$1/lib"; do
        if [ -d "$dir" ]; then path="$path${path:+:}$dir"; fi
    done
    printf '%s\n' "$path"
}

# The Debian release of the guest, and of the tools and the firmware around it.
# shellcheck disable=SC2034 # used by those that source this
GUEST_SUITE=trixie

# What every guest's kernel is told. no_timer_check: on a busy host the kernel's test of its timer fails, and it would hang.
# shellcheck disable=SC2034 # used by those that source this
GUEST_KERNEL_OPTIONS="console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check"

# unpack_packages DIR PACKAGES SUITE...: unpacks Debian packages (PACKAGE,PACKAGE,...) and what they depend on into DIR,
# from the last SUITE where it has them, and from the first for the rest. Their maintainer scripts do not run: the
# folder is only read from, so it needs no mount and no chroot.
unpack_packages() {
    local dir=$1 packages=$2 mirror suite lines=()
    shift 2
    need_packages mmdebstrap debian-archive-keyring
    mirror=$(debian_mirror)
    for suite in "$@"; do lines+=("deb [signed-by=$DEBIAN_KEYRING] $mirror $suite main"); done
    rm -rf "$dir"
    mmdebstrap --variant=extract --architectures=amd64 --include="$packages" \
        --aptopt="APT::Default-Release \"${*: -1}\"" "$1" "$dir" "${lines[@]}" >"$dir.log" 2>&1 || {
        tail -n 15 "$dir.log" >&2
        die "mmdebstrap could not get Debian's $1 packages from the package mirror; is the network up? (its last lines are above)"
    }
}

# run_unpacked DIR PROGRAM ARGUMENT...: a program out of such a folder (usr/bin/mcopy), with that folder's libraries.
run_unpacked() {
    local dir=$1 program=$2
    shift 2
    "$dir/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path "$dir/usr/lib/x86_64-linux-gnu" \
        --argv0 "${program##*/}" "$dir/$program" "$@"
}
