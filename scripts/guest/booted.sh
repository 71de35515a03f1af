# Runs in the guest: that FIRMWARE (seabios or ovmf) started it from the drive, and that the drive still holds the image whose
# checksum is SHA256. Both are set by who runs this.
# shellcheck shell=bash
set -eu
drive=/dev/nvme0n1
if [ -d /sys/firmware/efi ]; then found=ovmf; else found=seabios; fi
[ "$found" = "$FIRMWARE" ] || {
    echo "the guest was started by $found, not by $FIRMWARE" >&2
    exit 10
}
grep -qw courier.boot_drive /proc/cmdline || {
    echo "the kernel was not started from the drive: $(cat /proc/cmdline)" >&2
    exit 11
}
for _ in $(seq 100); do
    [ -b $drive ] && break
    sleep 0.2
done
[ -b $drive ] || {
    echo "no drive: the guest's kernel made no $drive" >&2
    dmesg | grep -i nvme >&2
    exit 12
}
found=$(dd if=$drive bs=1M iflag=direct status=none | sha256sum | cut -d ' ' -f 1)
[ "$found" = "$SHA256" ] || {
    echo "the drive does not hold the image: sha256 $found, not $SHA256" >&2
    exit 13
}
echo "started by $FIRMWARE from $(sed "s/ *$//" /sys/class/nvme/nvme0/model) in $(cut -d ' ' -f 1 /proc/uptime) s of the kernel's time"
