# Runs in the guest: writes random data to the drive from OFFSET_MIB on, reads it back past the page cache, and
# leaves its checksum in $OUT/sha256; what the drive says of itself goes to $OUT/id-ctrl.
# shellcheck shell=bash
set -eu
drive=/dev/nvme0n1
dd if=/dev/urandom of=/tmp/pattern bs=1M count="$MIB" status=none
dd if=/tmp/pattern of=$drive bs=1M seek="$OFFSET_MIB" oflag=direct conv=fsync status=none
written=$(sha256sum </tmp/pattern | cut -d ' ' -f 1)
read=$(dd if=$drive bs=1M skip="$OFFSET_MIB" count="$MIB" iflag=direct status=none | sha256sum | cut -d ' ' -f 1)
echo "$written" >"$OUT/sha256"
nvme id-ctrl --raw-binary /dev/nvme0 >"$OUT/id-ctrl"
nvme id-ns --raw-binary $drive >"$OUT/id-ns"
[ "$written" = "$read" ] || {
    echo "written sha256 $written, read back $read" >&2
    exit 12
}
