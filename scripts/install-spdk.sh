#!/usr/bin/env bash
# Builds SPDK from Debian's source package `ceph`, which carries it whole, into Courier's cache.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/install-spdk.sh [--print-dir] [--packages] [--force] [--help]

Builds SPDK (static and shared libraries, spdk_tgt and the stock tools) in Courier's cache, once.
A second run finds it there and does nothing.

  --print-dir   print the folder of the SPDK in use (stock tools in its build/bin and build/examples)
                and build nothing; exit 1 if there is none yet
  --packages    install the Debian packages that SPDK and Courier are built with, and build nothing
  --force       build anew even if the cache has it
  --help        this text

Environment:
  SPDK_DIR        use this SPDK (a built tree or an installed prefix) and build none
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

SUITES="forky sid"
SUBDIR=src/nvmeof/gateway/spdk
MIN_VERSION=26.01
BUILD_PACKAGES=(gcc g++ make ninja-build meson nasm autoconf automake libtool pkg-config patchelf help2man
    python3 python3-pyelftools libaio-dev libssl-dev libjson-c-dev libcmocka-dev uuid-dev libncurses-dev
    libnuma-dev libfuse3-dev libibverbs-dev librdmacm-dev rdma-core liburing-dev libkeyutils-dev
    libarchive-dev libcunit1-dev clang libclang-dev cpio xz-utils ca-certificates)
CONFIGURE=(--with-shared --with-rdma --with-vfio-user --with-uring --with-ublk
    --disable-unit-tests --disable-tests)
if [ "$(uname -m)" = x86_64 ] && grep -qw avx2 /proc/cpuinfo; then
    CONFIGURE+=(--target-arch=x86-64-v3)
fi
# Raised when the steps below change what they make.
RECIPE=1

options_key() { printf '%s\n' "recipe $RECIPE" "$(uname -m)" "${CONFIGURE[@]}" | sha256sum | cut -c 1-10; }

# The newest finished build in the cache, or nothing.
cached_dir() {
    local found
    found=$(find "$COURIER_CACHE" -mindepth 2 -maxdepth 2 -path "*/spdk-*-$(options_key)/.complete" 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] && dirname "$found"
}

print_dir() {
    if [ -n "${SPDK_DIR:-}" ]; then
        check_spdk_dir "$SPDK_DIR"
        printf '%s\n' "$SPDK_DIR"
    else
        cached_dir || die "no SPDK in $COURIER_CACHE yet; run scripts/install-spdk.sh, or set SPDK_DIR to an SPDK of yours"
    fi
}

check_spdk_dir() {
    [ -d "$1" ] || die "SPDK_DIR is '$1', which is no folder; set it to a built SPDK tree or an installed prefix"
    local pc
    for pc in "$1"/build/lib/pkgconfig "$1"/lib/pkgconfig "$1"/lib64/pkgconfig "$1"/lib/*/pkgconfig; do
        [ -e "$pc/spdk_nvme.pc" ] && return 0
    done
    die "SPDK_DIR is '$1', but no spdk_nvme.pc lies in its build/lib/pkgconfig or lib/pkgconfig; build that SPDK first, or unset SPDK_DIR to have one built"
}

# A private apt state with one deb-src line, so that the machine's own stays as it is.
fetch_source() {
    local work=$1 mirror suite
    mirror=$(debian_mirror)
    [ -e "$DEBIAN_KEYRING" ] || need_packages debian-archive-keyring
    for suite in $SUITES; do
        rm -rf "$work/apt"
        mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/parts"
        printf 'deb-src [signed-by=%s] %s %s main\n' "$DEBIAN_KEYRING" "$mirror" "$suite" >"$work/apt/sources.list"
        APT_OPTIONS=(-o "Dir::Etc::SourceList=$work/apt/sources.list" -o "Dir::Etc::SourceParts=$work/apt/parts"
            -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
        if apt-get "${APT_OPTIONS[@]}" update >"$work/apt/update.log" 2>&1 &&
            (cd "$work" && apt-get "${APT_OPTIONS[@]}" source --tar-only --download-only ceph >"$work/apt/source.log" 2>&1); then
            return 0
        fi
        warn "Debian's $suite gave no source package ceph; $(tail -qn 1 "$work"/apt/*.log | tr '\n' ' ')"
    done
    die "no source package ceph to be had from the package mirror (tried: $SUITES); is the network up? An SPDK of yours can be named with SPDK_DIR"
}

# Ceph's SPDK is a fork that is always built with RBD. These are what is missing without it.
mend_without_rbd() {
    local tree=$1
    if ! grep -rqs 'SPDK_LOG_REGISTER_COMPONENT(reservation)' "$tree/lib/nvmf"; then
        local user="$tree/lib/nvmf/subsystem_rbd_resrv.c"
        if [ -e "$user" ]; then printf '\nSPDK_LOG_REGISTER_COMPONENT(reservation)\n' >>"$user"; fi
    fi
    local map="$tree/lib/notify/spdk_notify.map"
    if grep -qs spdk_notify_type_register_once "$tree/include/spdk/notify.h" && ! grep -qs spdk_notify_type_register_once "$map"; then
        sed -i 's/^\(\s*\)spdk_notify_type_register;/&\n\1spdk_notify_type_register_once;/' "$map"
    fi
}

install_packages() {
    phase "SPDK: packages"
    need_root
    need_packages "${BUILD_PACKAGES[@]}"
}

build() {
    local work tarball inner version dir
    mkdir -p "$COURIER_CACHE"
    exec 9>"$COURIER_CACHE/spdk.lock"
    flock -n 9 || { say "    another run is building SPDK; waiting for it"; flock 9; }
    if [ -z "$FORCE" ] && cached_dir >/dev/null; then return 0; fi

    install_packages
    work=$(mktemp -d "$COURIER_CACHE/spdk-fetch.XXXXXX")
    at_exit rm -rf "$work"
    phase "SPDK: download (about 250 MB)"
    fetch_source "$work"
    phase "SPDK: extract"
    tarball=$(find "$work" -maxdepth 1 -name 'ceph_*.orig.tar.*' | head -n 1)
    [ -n "$tarball" ] || die "apt-get source brought no ceph_*.orig.tar in $work"
    inner=${tarball##*/}
    tar -C "$work" -xf "$tarball" --wildcards "*/$SUBDIR/*" || die "cannot extract $SUBDIR from $inner"
    dir=$(find "$work" -path "*/$SUBDIR/VERSION" | head -n 1)
    [ -n "$dir" ] || die "$inner holds no $SUBDIR any more; name an SPDK of yours with SPDK_DIR"
    version=$(cat "$dir")
    dir=$(dirname "$dir")
    if [ "$(printf '%s\n' "$MIN_VERSION" "$version" | sort -V | head -n 1)" != "$MIN_VERSION" ]; then
        die "$inner carries SPDK $version; Courier needs $MIN_VERSION or newer"
    fi
    mend_without_rbd "$dir"

    TARGET="$COURIER_CACHE/spdk-$version-$(options_key)"
    rm -rf "$TARGET"
    mv "$dir" "$TARGET"
    phase "SPDK $version: configure"
    cd "$TARGET"
    run_logged "$TARGET/configure.log" ./configure "${CONFIGURE[@]}"
    phase "SPDK $version: make -j$(nproc) (about $((8 / $(nproc))) minutes)"
    run_logged "$TARGET/make.log" make -j"$(nproc)"
    # With shared libraries SPDK makes libvfio-user as one only; a program that is linked statically wants the archive.
    ar rcs build/lib/libvfio-user.a build/libvfio-user/build-release/lib/libvfio-user.so.*.p/*.o
    [ -x build/bin/spdk_tgt ] || die "make went through but $TARGET/build/bin/spdk_tgt is not there; see $TARGET/make.log"
    touch .complete
    cd "$COURIER_ROOT"
}

FORCE=
PRINT=
PACKAGES=
while [ $# -gt 0 ]; do
    case $1 in
        --print-dir) PRINT=1 ;;
        --packages) PACKAGES=1 ;;
        --force) FORCE=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done

if [ -n "$PRINT" ]; then
    print_dir
    exit 0
fi
if [ -n "$PACKAGES" ]; then
    install_packages
    phase_end
    exit 0
fi
if [ -n "${SPDK_DIR:-}" ]; then
    check_spdk_dir "$SPDK_DIR"
    say "    SPDK_DIR is set: $SPDK_DIR is used as it is"
    exit 0
fi
if [ -n "$FORCE" ] || ! cached_dir >/dev/null; then build; fi
phase_end
say "    SPDK in use: $(cached_dir)"
