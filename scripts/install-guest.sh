#!/usr/bin/env bash
# Makes in Courier's cache what a test VM needs: a QEMU with vfio-user-pci, a kernel and an initramfs.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/install-guest.sh [--print-dir] [--force] [--help]

Makes a virtual machine's parts in Courier's cache, once: Debian 13's kernel with an initramfs (fio,
nvme-cli, checksums), and a QEMU that has the device vfio-user-pci (10.1 or newer; the machine's own
if it has it, else Debian's from trixie-backports, in a folder of its own). A second run does nothing.

  --print-dir   print the folder, which holds `qemu` (to be run), `vmlinuz` and `initramfs`, and make
                nothing; exit 1 if there is none yet
  --force       make all of it anew
  --help        this text

Environment:
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

SUITE=$GUEST_SUITE
# Raised when the steps below change what they make.
RECIPE=1

GUEST_PACKAGES=(base-files linux-image-amd64 bash busybox-static fio nvme-cli kmod iproute2 coreutils diffutils
    util-linux e2fsprogs pciutils)
# Real programs, where busybox has none or one that can do less; busybox fills up the rest.
GUEST_PROGRAMS=(bash fio nvme kmod ip rdma dd sha256sum timeout stat cmp blkdiscard lsblk mkfs.ext4 lspci setpci)
# With the modules that these need. The fabric and RDMA ones let a guest be a pool or an initiator itself. (rdma_rxe asks for
# crc32 when it is given an interface; no module's list of needs tells that.)
GUEST_MODULES=(nvme nvme-tcp nvme-rdma nvmet-tcp nvmet-rdma 9p 9pnet_virtio virtio_net virtio_blk ext4 loop
    veth dummy rdma_rxe crc32_generic rdma_ucm ib_uverbs crc32c_intel vfio-pci)

guest_dir() {
    local key
    key=$({ printf '%s\n' "recipe $RECIPE" "$SUITE" "${GUEST_PACKAGES[@]}" "${GUEST_PROGRAMS[@]}" "${GUEST_MODULES[@]}"
        cat "$COURIER_ROOT/scripts/guest/init"; } | sha256sum | cut -c 1-10)
    printf '%s/guest-%s-%s\n' "$COURIER_CACHE" "$SUITE" "$key"
}

# Debian's QEMU has a folder of its own, so that a change of the guest does not fetch it again.
qemu_root() { printf '%s/qemu-%s-backports-%s\n' "$COURIER_CACHE" "$SUITE" "$RECIPE"; }

has_vfio_user() { "$1" -device help 2>/dev/null | grep -q '"vfio-user-pci"'; }

have_qemu() { [ -x "$DIR/qemu" ] && has_vfio_user "$DIR/qemu"; }
have_guest() { [ -s "$DIR/vmlinuz" ] && [ -s "$DIR/initramfs" ]; }

# The machine's own QEMU where it has the device; else Debian's newer one, run by its own dynamic linker
# with its own libraries. Without a chroot it needs no mount, and sees the sockets where they are.
make_qemu() {
    local root lib=usr/lib/x86_64-linux-gnu
    root=$(qemu_root)
    if command -v qemu-system-x86_64 >/dev/null && has_vfio_user qemu-system-x86_64; then
        phase "guest: QEMU (the machine's own has vfio-user-pci)"
        printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v qemu-system-x86_64)" >"$DIR/qemu.new"
    else
        if [ -n "$FORCE" ] || [ ! -e "$root/.complete" ]; then
            phase "guest: QEMU from $SUITE-backports (about 60 MB)"
            unpack_packages "$root" base-files,qemu-system-x86 "$SUITE" "$SUITE-backports"
            touch "$root/.complete"
        fi
        cat >"$DIR/qemu.new" <<TEXT
#!/bin/sh
root='$root'
export QEMU_MODULE_DIR="\$root/$lib/qemu"
exec "\$root/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path "\$root/$lib" \\
    --argv0 qemu-system-x86_64 "\$root/usr/bin/qemu-system-x86_64" \\
    -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" -L "\$root/usr/lib/ipxe/qemu" "\$@"
TEXT
    fi
    chmod +x "$DIR/qemu.new"
    has_vfio_user "$DIR/qemu.new" || die "the QEMU that was unpacked in $root does not run or has no vfio-user-pci: $("$DIR/qemu.new" --version 2>&1 | head -n 1)"
    mv "$DIR/qemu.new" "$DIR/qemu"
}

# add_program ROOT TREE NAME: a program of ROOT and the libraries that it loads, into TREE.
add_program() {
    local root=$1 tree=$2 path lib=$1/usr/lib/x86_64-linux-gnu file
    path=$(find "$root/usr/bin" "$root/usr/sbin" -maxdepth 1 -name "$3" | head -n 1)
    [ -n "$path" ] || die "Debian's $SUITE packages hold no program '$3' any more"
    cp -L "$path" "$tree/usr/bin/$3"
    # The linker lists nothing for a static program, and says so by its exit status.
    while read -r file; do
        [ -e "$tree/usr/lib/${file##*/}" ] || cp -L "$file" "$tree/usr/lib/"
    done < <("$root/lib64/ld-linux-x86-64.so.2" --inhibit-cache --library-path "$lib:$lib/ceph:$lib/systemd" --list "$path" |
        sed -n 's/.*=> \(\/[^ ]*\) (.*/\1/p')
}

# add_modules ROOT TREE VERSION: the modules wanted and what they need, unpacked (the guest is slow, we are not).
add_modules() {
    local root=$1 tree=$2 version=$3 file relative module
    depmod -b "$root/usr" "$version"
    for module in "${GUEST_MODULES[@]}"; do
        modprobe -d "$root/usr" -S "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' |
            grep . || die "Debian's kernel $version has no module '$module' any more"
    done | sort -u | while read -r file; do
        relative=${file#"$root/usr/"}
        mkdir -p "$tree/usr/$(dirname "$relative")"
        case $file in
            *.xz) xz -dc "$file" >"$tree/usr/${relative%.xz}" ;;
            *) cp "$file" "$tree/usr/$relative" ;;
        esac
    done
    cp "$root/usr/lib/modules/$version/modules."{builtin,builtin.modinfo,order} "$tree/usr/lib/modules/$version/"
    depmod -b "$tree/usr" "$version"
}

make_guest() {
    local root=$DIR/guest-root tree=$DIR/tree program version
    phase "guest: Debian $SUITE's kernel and tools (about 150 MB)"
    unpack_packages "$root" "$(IFS=,; printf '%s' "${GUEST_PACKAGES[*]}")" "$SUITE"
    phase "guest: initramfs"
    version=$(find "$root/usr/lib/modules" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -V | tail -n 1)
    [ -s "$root/boot/vmlinuz-$version" ] || die "Debian's package linux-image-amd64 brought no boot/vmlinuz-$version"
    rm -rf "$tree"
    mkdir -p "$tree"/{dev,proc,sys,etc,root,usr/bin,usr/lib}
    ln -s bin "$tree/usr/sbin"
    ln -s usr/bin "$tree/bin"
    ln -s usr/bin "$tree/sbin"
    ln -s usr/lib "$tree/lib"
    ln -s usr/lib "$tree/lib64"
    cp -L "$root/lib64/ld-linux-x86-64.so.2" "$tree/usr/lib/"
    for program in "${GUEST_PROGRAMS[@]}"; do add_program "$root" "$tree" "$program"; done
    for program in modprobe insmod rmmod lsmod modinfo depmod; do ln -s kmod "$tree/usr/bin/$program"; done
    cp "$root/usr/bin/busybox" "$tree/usr/bin/"
    for program in $("$tree/usr/bin/busybox" --list); do
        [ -e "$tree/usr/bin/$program" ] || ln -s busybox "$tree/usr/bin/$program"
    done
    printf 'root:x:0:0:root:/root:/bin/bash\n' >"$tree/etc/passwd"
    printf 'root:x:0:\n' >"$tree/etc/group"
    printf 'export PS1="guest# "\n' >"$tree/etc/profile"
    add_modules "$root" "$tree" "$version"
    install -m 755 "$COURIER_ROOT/scripts/guest/init" "$tree/init"
    (cd "$tree" && find . -print0 | sort -z | cpio --null --quiet -o -H newc -R 0:0) >"$DIR/initramfs.new"
    cp "$root/boot/vmlinuz-$version" "$DIR/vmlinuz"
    mv "$DIR/initramfs.new" "$DIR/initramfs"
    rm -rf "$root" "$root.log" "$tree"
    # Those of older scripts.
    find "$COURIER_CACHE" -mindepth 1 -maxdepth 1 -name 'guest-*' ! -path "$DIR" ! -name guest.lock -exec rm -rf {} +
}

FORCE=
PRINT=
while [ $# -gt 0 ]; do
    case $1 in
        --print-dir) PRINT=1 ;;
        --force) FORCE=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done

[ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m); the guest and its QEMU are made for x86_64 only"
DIR=$(guest_dir)
if [ -n "$PRINT" ]; then
    if ! have_guest || [ ! -x "$DIR/qemu" ]; then die "no guest in $COURIER_CACHE yet; run scripts/install-guest.sh"; fi
    printf '%s\n' "$DIR"
    exit 0
fi

mkdir -p "$DIR"
exec 8>"$COURIER_CACHE/guest.lock"
flock -n 8 || { say "    another run is making the guest; waiting for it"; flock 8; }
if [ -n "$FORCE" ] || ! have_guest || ! have_qemu; then
    phase "guest: packages"
    need_root
    need_packages cpio xz-utils kmod
    if [ -n "$FORCE" ] || ! have_qemu; then make_qemu; fi
    if [ -n "$FORCE" ] || ! have_guest; then make_guest; fi
    phase_end
fi
say "    guest in use: $DIR ($("$DIR/qemu" --version | head -n 1))"
