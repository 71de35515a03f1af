# Runs in the guest, after the assignments of rdma-vm.sh: makes it a machine with RDMA devices and the host's root folder, and
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
        # Room for RoCE packets with 4096 bytes of data.
        ip link set "rdma$i" mtu 4200
        ip address add "192.168.20$i.1/24" dev "rdma$i"
        ip link set "rdma$i" up
        rdma link add "rxe$i" type rxe netdev "rdma$i"
    done
}

memory() {
    echo $((HUGEPAGES / 2)) >/proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" -eq $((HUGEPAGES / 2)) ] || {
        echo "only $(cat /proc/sys/vm/nr_hugepages) of $((HUGEPAGES / 2)) hugepages could be had" >&2
        return 1
    }
    mkdir -p /dev/hugepages
    mount -t hugetlbfs -o pagesize=2M none /dev/hugepages
    mount -t configfs none /sys/kernel/config
    ulimit -l unlimited
}

# root TREE: the host's folders and links, with some of the guest's own in between.
root() {
    local tree=$1 path name
    mkdir -p "$tree"
    mount -t tmpfs none "$tree"
    for path in /host/*; do
        name=${path##*/}
        if [ -L "$path" ]; then
            cp -P "$path" "$tree/$name"
        elif [ -d "$path" ]; then
            mkdir "$tree/$name"
            case $name in
                dev | proc | sys) mount -o rbind "/$name" "$tree/$name" ;;
                run | tmp) mount -t tmpfs none "$tree/$name" ;;
                out | guest | host) ;;
                *) mount -o bind "$path" "$tree/$name" ;;
            esac
        fi
    done
    # SPDK's programs make sockets there.
    mount -t tmpfs none "$tree/var/tmp"
    mkdir -p "$tree"/{out,guest,host}
    mount -o bind "$OUT" "$tree/out"
    mount -o bind / "$tree/guest"
    for name in dev proc sys; do mount -o rbind "/$name" "$tree/guest/$name"; done
    mount -o bind /host "$tree/host"
}

[ -d /host/usr ] || { echo "the host's root folder is not there" >&2; exit 1; }
devices
memory
root /newroot
cd /
trap - EXIT
# shellcheck disable=SC2016 # for the inner shell
exec env -i TERM=dumb LANG=C.UTF-8 RDMA_ADDRESS=192.168.200.1 RDMA_ADDRESS2=192.168.201.1 "${VARIABLES[@]}" \
    chroot /newroot /bin/bash -c 'cd "$1" && shift && exec "$@"' bash "$FOLDER" "${COMMAND[@]}"
