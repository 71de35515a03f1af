# Runs in the guest, after the assignments of rdma-vm.sh and host-root.sh: makes it a machine with RDMA devices and the host's root folder, and
# runs COMMAND there. 125 is the status of whatever goes wrong before.
# shellcheck shell=bash disable=SC2154
set -eu
trap 'status=$?; [ $status -eq 0 ] || { echo "rdma-vm: the guest could not be set up (why is above)" >&2; exit 125; }' EXIT

# Two devices on interfaces that lead nowhere: packets between their addresses stay in the kernel.
devices() {
    local i
    modprobe -a dummy rdma_rxe rdma_ucm nvmet nvmet-rdma nvmet-tcp nvme-rdma nvme-tcp loop
    for i in 0 1; do
        ip link add "rdma$i" type dummy
        # Room for RoCE packets with 4096 bytes of data. ARP, since a host that does not answer is not there.
        ip link set "rdma$i" mtu 4200 arp on
        ip address add "192.168.20$i.1/24" dev "rdma$i"
        ip link set "rdma$i" up
        rdma link add "rxe$i" type rxe netdev "rdma$i"
    done
}

# The NIC's work is that of the kernel's threads that are bound to no CPU.
if [ -n "$NIC_CPU" ]; then printf '%x\n' $((1 << NIC_CPU)) >/sys/devices/virtual/workqueue/cpumask; fi
devices
memory "$HUGEPAGES"
mount -t configfs none /sys/kernel/config
ulimit -l unlimited
root /newroot
cd /
trap - EXIT
# shellcheck disable=SC2016 # for the inner shell
exec env -i TERM=dumb LANG=C.UTF-8 RDMA_ADDRESS=192.168.200.1 RDMA_ADDRESS2=192.168.201.1 "${VARIABLES[@]}" \
    chroot /newroot /bin/bash -c 'cd "$1" && shift && exec "$@"' bash "$FOLDER" "${COMMAND[@]}"
