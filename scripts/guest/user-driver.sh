# Runs in the guest, after host-root.sh: SPDK's examples abort and hotplug, with SPDK's driver for PCI in user space, on the
# controller of namespace NSID. EXAMPLES and LIBRARIES are folders of the host's.
# shellcheck shell=bash
set -eu
await_drive "$NSID"
address=$(cat "/sys/class/nvme/$CONTROLLER/address")
device=/sys/bus/pci/devices/$address
read -r vendor <"$device/vendor"
read -r model <"$device/device"
# The guest's IOMMU does not remap interrupts.
modprobe vfio_iommu_type1 allow_unsafe_interrupts=1
modprobe -r nvme
modprobe vfio-pci "ids=${vendor#0x}:${model#0x}"
memory 512
root /newroot
cd /

example() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "LD_LIBRARY_PATH=$LIBRARIES" chroot /newroot "$EXAMPLES/$1" "${@:2}"
}

echo "--- abort"
example abort -q 64 -o 4096 -w randrw -M 50 -t 5 -r "trtype:PCIe traddr:$address"

echo "--- hotplug"
# It is told how often a controller goes and comes.
example hotplug -t 30 -n 1 -r 1 &
hotplug=$!
sleep 5
echo 1 >"$device/remove"
sleep 3
echo 1 >/sys/bus/pci/rescan
wait $hotplug

# The kernel's driver finds it in order.
echo "$address" >/sys/bus/pci/drivers/vfio-pci/unbind
modprobe nvme
echo "$address" >/sys/bus/pci/drivers_probe
await_drive "$NSID"
dd if="$DRIVE" of=/dev/null bs=1M count=1 iflag=direct status=none
