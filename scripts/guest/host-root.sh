# Goes before the guest's scripts that run the host's programs, in a guest with the host's root folder.
# shellcheck shell=bash

# memory MIB: so much in hugepages.
memory() {
    echo $(($1 / 2)) >/proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" -eq $(($1 / 2)) ] || {
        echo "only $(cat /proc/sys/vm/nr_hugepages) of $(($1 / 2)) hugepages could be had" >&2
        return 1
    }
    mkdir -p /dev/hugepages
    mount -t hugetlbfs -o pagesize=2M none /dev/hugepages
}

# root TREE: the host's folders and links, with some of the guest's own in between.
root() {
    local tree=$1 path name
    [ -d /host/usr ] || { echo "the host's root folder is not there" >&2; return 1; }
    # Where udev makes it, on other machines: bash wants it for its <(...).
    [ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
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
