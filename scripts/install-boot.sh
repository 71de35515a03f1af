#!/usr/bin/env bash
# Makes in Courier's cache what a test VM needs to boot from its drive: the drive's image, and UEFI's firmware.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/install-boot.sh [--print-dir] [--force] [--help]

Makes in Courier's cache, once, a raw disk image that a BIOS and UEFI can boot from, with the guest's kernel and
initramfs (scripts/install-guest.sh) on it, and unpacks Debian's OVMF. A second run does nothing.

  --print-dir   print the folder, which holds `disk.img`, `OVMF_CODE.fd` and `OVMF_VARS.fd`, and make nothing;
                exit 1 if there is none yet
  --force       make all of it anew
  --help        this text

Environment:
  COURIER_CACHE   the cache (default: ~/.cache/courier)
TEXT
}

# Raised when the steps below change what they make.
RECIPE=1
PACKAGES=(base-files grub-pc-bin grub-efi-amd64-bin fdisk mtools ovmf)
# GRUB reads its script, the partitions and the files, and starts Linux, with these alone.
GRUB_MODULES=(part_gpt fat search_fs_file serial terminal linux echo)

SECTOR=512
# Where the partitions begin, in sectors: GRUB's own for a BIOS, and the EFI system partition.
GRUB_START=2048
ESP_START=4096

boot_dir() {
    local guest key
    guest=$("$COURIER_ROOT/scripts/install-guest.sh" --print-dir) || exit 1
    key=$(printf '%s\n' "recipe $RECIPE" "$guest" "$GUEST_KERNEL_OPTIONS" "${PACKAGES[@]}" | sha256sum | cut -c 1-10)
    printf '%s/boot-%s-%s\n' "$COURIER_CACHE" "$GUEST_SUITE" "$key"
}

have_boot() { [ -s "$DIR/disk.img" ] && [ -s "$DIR/OVMF_CODE.fd" ] && [ -s "$DIR/OVMF_VARS.fd" ]; }

tool() { run_unpacked "$DIR/root" "$@"; }

# The same script for both firmwares. What goes wrong shows on the guest's console.
grub_script() {
    cat <<TEXT
serial --unit=0 --speed=115200
terminal_output serial
search.file /vmlinuz root
linux /vmlinuz $GUEST_KERNEL_OPTIONS courier.boot_drive
initrd /initramfs
boot
TEXT
}

# grub_image FORMAT MODULE FILE: GRUB in one file for a firmware; MODULE reads its disks.
grub_image() {
    run_logged "$DIR/grub.log" tool usr/bin/grub-mkimage -O "$1" -d "$DIR/root/usr/lib/grub/$1" -c "$DIR/grub.cfg" -p / \
        -o "$3" "$2" "${GRUB_MODULES[@]}"
}

# le BYTES NUMBER: the number in little-endian order, as an argument for printf.
le() {
    local i out=
    for ((i = 0; i < $1; i++)); do out+=$(printf '\\x%02x' $((($2 >> (8 * i)) & 255))); done
    printf '%s' "$out"
}

# put FILE OFFSET: writes stdin over a part of FILE.
put() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# What grub-install does for a BIOS, which it does to real disks only: the first sector (its code, not its partition table) knows
# where GRUB begins, and GRUB's own first sector knows where the rest of it is.
install_bios_grub() {
    local image=$1 core=$DIR/core.img sectors
    grub_image i386-pc biosdisk "$core"
    sectors=$((($(stat -c %s "$core") + SECTOR - 1) / SECTOR))
    [ $((GRUB_START + sectors)) -le $ESP_START ] || die "GRUB for a BIOS has $sectors sectors; there is room for $((ESP_START - GRUB_START))"
    head -c 440 "$DIR/root/usr/lib/grub/i386-pc/boot.img" | put "$image" 0
    printf '%b' "$(le 8 $GRUB_START)" | put "$image" $((0x5c))
    printf '%b' "$(le 8 $((GRUB_START + 1)))$(le 2 $((sectors - 1)))" | put "$core" $((0x1f4))
    dd if="$core" of="$image" bs=$SECTOR seek=$GRUB_START conv=notrunc status=none
}

# Files on the EFI system partition: both firmwares' GRUB reads the kernel from there.
fill_esp() {
    local image=$1 sectors=$2 esp
    esp=$image@@$((ESP_START * SECTOR))
    grub_image x86_64-efi part_gpt "$DIR/BOOTX64.EFI"
    # Clusters of 4 KiB: with smaller ones GRUB reads a file in smaller pieces, and the firmware's reads are slow.
    tool usr/bin/mformat -i "$esp" -T "$sectors" -h 64 -s 32 -c 8 ::
    tool usr/bin/mmd -i "$esp" ::/EFI ::/EFI/BOOT
    tool usr/bin/mcopy -i "$esp" "$DIR/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
    tool usr/bin/mcopy -i "$esp" "$GUEST/vmlinuz" ::/vmlinuz
    tool usr/bin/mcopy -i "$esp" "$DIR/initramfs" ::/initramfs
}

make_image() {
    local image=$DIR/disk.img.new mib sectors
    grub_script >"$DIR/grub.cfg"
    zstd -q -f -9 -T0 "$GUEST/initramfs" -o "$DIR/initramfs"
    mib=$((($(stat -c %s "$GUEST/vmlinuz") + $(stat -c %s "$DIR/initramfs")) / 1048576 + 4))
    sectors=$((mib * 1048576 / SECTOR))
    rm -f "$image"
    # One MiB more for the second copy of the partition table.
    truncate -s $(((ESP_START + sectors) * SECTOR + 1048576)) "$image"
    tool usr/sbin/sfdisk --quiet "$image" >"$DIR/sfdisk.log" 2>&1 <<TEXT || die "sfdisk could not partition the image: $(cat "$DIR/sfdisk.log")"
label: gpt
start=$GRUB_START, size=$((ESP_START - GRUB_START)), type=21686148-6449-6E6F-744E-656564454649
start=$ESP_START, size=$sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
TEXT
    install_bios_grub "$image"
    fill_esp "$image" "$sectors"
    mv "$image" "$DIR/disk.img"
}

make_boot() {
    phase "boot: GRUB, OVMF and tools from Debian $GUEST_SUITE (about 20 MB)"
    unpack_packages "$DIR/root" "$(IFS=,; printf '%s' "${PACKAGES[*]}")" "$GUEST_SUITE"
    cp "$DIR/root/usr/share/OVMF/OVMF_CODE_4M.fd" "$DIR/OVMF_CODE.fd"
    cp "$DIR/root/usr/share/OVMF/OVMF_VARS_4M.fd" "$DIR/OVMF_VARS.fd"
    phase "boot: the drive's image"
    make_image
    phase_end
    rm -rf "$DIR"/{root,initramfs,core.img,BOOTX64.EFI}
    # Those of older scripts.
    find "$COURIER_CACHE" -mindepth 1 -maxdepth 1 -name 'boot-*' ! -path "$DIR" ! -name boot.lock -exec rm -rf {} +
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

if [ -z "$PRINT" ]; then "$COURIER_ROOT/scripts/install-guest.sh" || die "the guest could not be made (why is above)"; fi
DIR=$(boot_dir)
if [ -n "$PRINT" ]; then
    have_boot || die "no image to boot from in $COURIER_CACHE yet; run scripts/install-boot.sh"
    printf '%s\n' "$DIR"
    exit 0
fi
GUEST=$("$COURIER_ROOT/scripts/install-guest.sh" --print-dir)
mkdir -p "$DIR"
exec 8>"$COURIER_CACHE/boot.lock"
flock -n 8 || { say "    another run is making the image; waiting for it"; flock 8; }
if [ -n "$FORCE" ] || ! have_boot; then
    need_root
    need_packages zstd
    make_boot
fi
say "    image to boot from: $DIR/disk.img"
