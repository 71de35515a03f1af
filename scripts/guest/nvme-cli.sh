# Runs in the guest: nvme-cli's commands on QEMU's own NVMe controller (QEMUS=true) or on the other one (QEMUS=false). What
# each says goes to $OUT/NAME.json or $OUT/NAME.txt, and its exit status to $OUT/NAME.status. Overwrites namespace 1.
# shellcheck shell=bash
set -u
controller=''
for _ in $(seq 100); do
    for class in /sys/class/nvme/nvme*; do
        case $(cat "$class/model" 2>/dev/null) in
            'QEMU NVMe Ctrl'*) if $QEMUS; then controller=${class##*/}; fi ;;
            ?*) if ! $QEMUS; then controller=${class##*/}; fi ;;
        esac
    done
    [ -n "$controller" ] && [ -b "/dev/${controller}n1" ] && break
    sleep 0.2
done
[ -b "/dev/${controller:-nothing}n1" ] || {
    echo "no drive: the guest sees no namespace 1 of the controller (of QEMU's own: $QEMUS)" >&2
    dmesg | grep -i nvme >&2
    exit 10
}
ctrl=/dev/$controller
ns=${ctrl}n1

# try NAME COMMAND...: one command, text. json NAME COMMAND...: one that can speak JSON.
try() {
    local name=$1 status=0
    shift
    "$@" >"$OUT/$name.txt" 2>&1 || status=$?
    echo $status >"$OUT/$name.status"
}
json() {
    local name=$1 status=0
    shift
    "$@" -o json >"$OUT/$name.json" 2>"$OUT/$name.err" || status=$?
    [ -s "$OUT/$name.err" ] || rm -f "$OUT/$name.err"
    echo $status >"$OUT/$name.status"
}

# What the controller says of itself.
json id-ctrl nvme id-ctrl "$ctrl"
json id-ns nvme id-ns "$ns"
json list-ns nvme list-ns "$ctrl"
json list-ns-all nvme list-ns "$ctrl" --all
json ns-descs nvme ns-descs "$ns"
json nvm-id-ctrl nvme nvm-id-ctrl "$ctrl"
json nvm-id-ns nvme nvm-id-ns "$ns"
json cmdset-ind-id-ns nvme cmdset-ind-id-ns "$ns"
json list-ctrl nvme list-ctrl "$ctrl"
json id-iocs nvme id-iocs "$ctrl"
json primary-ctrl-caps nvme primary-ctrl-caps "$ctrl"
json id-uuid nvme id-uuid "$ctrl"
json show-regs nvme show-regs "$ctrl"

# Its logs.
json smart-log nvme smart-log "$ctrl"
json error-log nvme error-log "$ctrl" -e 4
json fw-log nvme fw-log "$ctrl"
json effects-log nvme effects-log "$ctrl"
json changed-ns-list-log nvme changed-ns-list-log "$ctrl"
json supported-log-pages nvme supported-log-pages "$ctrl"
json ana-log nvme ana-log "$ctrl"
try unknown-log nvme get-log "$ctrl" --log-id=0x7f --log-len=512
try log-past-the-end nvme get-log "$ctrl" --log-id=2 --log-len=512 --lpo=0x100000000

# Its features: what they are now, at first, and what can be done with them.
for fid in $(seq 1 32) 128 129 130 131 132; do
    id=$(printf '%02x' "$fid")
    for select in 0 1 3; do
        try "feature-$id-sel$select" nvme get-feature "$ctrl" -f "$fid" -s $select -n 1
    done
done
try set-arbitration nvme set-feature "$ctrl" -f 1 --value=0x03020107
try get-arbitration nvme get-feature "$ctrl" -f 1
try set-temperature nvme set-feature "$ctrl" -f 4 --value=0x160
try get-temperature nvme get-feature "$ctrl" -f 4
try set-write-cache nvme set-feature "$ctrl" -f 6 --value=1
try set-coalescing nvme set-feature "$ctrl" -f 8 --value=0x0103
try get-coalescing nvme get-feature "$ctrl" -f 8
try clear-coalescing nvme set-feature "$ctrl" -f 8 --value=0
try set-power-state nvme set-feature "$ctrl" -f 2 --value=0
try set-power-state-unknown nvme set-feature "$ctrl" -f 2 --value=31
try set-queues-late nvme set-feature "$ctrl" -f 7 --value=0x00010001
try set-feature-unknown nvme set-feature "$ctrl" -f 0x7f --value=1
try set-feature-saved nvme set-feature "$ctrl" -f 1 --value=7 --save

# Data: a pattern is written; compared; zeroed; deallocated.
block=$(blockdev --getss "$ns" 2>/dev/null || cat "/sys/block/${ns##*/}/queue/logical_block_size")
bytes=$((16 * block))
head -c $bytes /dev/urandom >/tmp/data
head -c $bytes /dev/zero >/tmp/zeros
# shellcheck disable=SC2317 # called by way of try
on() { nvme "$1" "$ns" --start-block="$2" "${@:3}"; }
sized=(--block-count=15 --data-size="$bytes")
try write on write 0 "${sized[@]}" --data=/tmp/data
try compare-same on compare 0 "${sized[@]}" --data=/tmp/data
try compare-other on compare 0 "${sized[@]}" --data=/tmp/zeros
try read on read 0 "${sized[@]}" --data=/tmp/read
try read-is-what-was-written cmp /tmp/data /tmp/read
try write-zeroes on write-zeroes 4 --block-count=3
try read-zeroed on read 0 "${sized[@]}" --data=/tmp/read
{ head -c $((4 * block)) /tmp/data; head -c $((4 * block)) /dev/zero; tail -c $((8 * block)) /tmp/data; } >/tmp/zeroed
try zeroes-are-where-they-belong cmp /tmp/zeroed /tmp/read
try flush nvme flush "$ns"
try dsm nvme dsm "$ns" --ad --slbs=256,512 --blocks=16,8
try dsm-hint nvme dsm "$ns" --idr --slbs=0 --blocks=16
try dsm-past-the-end nvme dsm "$ns" --ad --slbs=0xffffffff0 --blocks=16
try verify on verify 0 --block-count=15
try write-uncor on write-uncor 4096 --block-count=0
try copy nvme copy "$ns" --sdlba=128 --slbs=0 --blocks=15
try read-past-the-end on read 0xffffffff0 "${sized[@]}" --data=/tmp/read
try write-past-the-end on write 0xffffffff0 "${sized[@]}" --data=/tmp/data
try read-with-fua on read 0 "${sized[@]}" --data=/tmp/read --force-unit-access
try write-with-fua on write 0 "${sized[@]}" --data=/tmp/data --force-unit-access
json error-log-after nvme error-log "$ctrl" -e 4
json smart-log-after nvme smart-log "$ctrl"

# What no namespace and what no controller has.
try id-ns-unknown nvme id-ns "$ctrl" -n 200
try id-ns-none nvme admin-passthru "$ctrl" --opcode=6 --namespace-id=0 --data-len=4096 --read
try admin-unknown nvme admin-passthru "$ctrl" --opcode=0x7d
try io-unknown nvme io-passthru "$ns" --opcode=0x7d --namespace-id=1
try identify-unknown nvme admin-passthru "$ctrl" --opcode=6 --cdw10=0xfe --data-len=4096 --read
try self-test nvme device-self-test "$ctrl" -n 1 -s 1
try create-ns nvme create-ns "$ctrl" --nsze=64 --ncap=64 --flbas=0
try delete-ns nvme delete-ns "$ctrl" -n 200
try attach-ns nvme attach-ns "$ctrl" -n 1 -c 0
try security-recv nvme security-recv "$ctrl" --secp=0 --spsp=0 --size=512
try fw-commit nvme fw-commit "$ctrl" --slot=1 --action=2
try directive nvme dir-receive "$ns" --dir-type=0 --dir-oper=1 --data-len=4096
try abort-nothing nvme admin-passthru "$ctrl" --opcode=8 --cdw10=0xffff0000
try keep-alive nvme admin-passthru "$ctrl" --opcode=0x18

# Resets: the drive is there afterwards, with its data.
try reset nvme reset "$ctrl"
try read-after-reset on read 0 "${sized[@]}" --data=/tmp/read
try data-after-reset cmp /tmp/data /tmp/read
try subsystem-reset nvme subsystem-reset "$ctrl"
# Last, for these destroy data where they work.
try sanitize nvme sanitize "$ctrl" --sanact=2
try format nvme format "$ns" --lbaf=0 --force
cat "/sys/class/nvme/$controller/state" >"$OUT/state.txt"
cat "/sys/class/nvme/$controller/queue_count" >"$OUT/queue-count.txt"
lspci -s "$(cat "/sys/class/nvme/$controller/address")" -vv >"$OUT/lspci.out"
dmesg | grep -i nvme >"$OUT/dmesg.out"
exit 0
