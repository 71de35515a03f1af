#!/usr/bin/env bash
# A shell in the image for developing, with this checkout in it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lib-docker.sh
. "$COURIER_ROOT/scripts/lib-docker.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/dev.sh [--build] [--] [COMMAND ARGUMENT...]
       scripts/dev.sh --help

Opens a shell in Courier's image for developing, with this checkout on /courier, or runs COMMAND there:

  scripts/dev.sh ./scripts/demo.sh
  scripts/dev.sh ./scripts/test.sh
  scripts/dev.sh cargo clippy --workspace

The image (courier-dev) is built if there is none, which takes some ten minutes, mostly for SPDK. What cargo builds and
downloads is kept in the volumes courier-dev-target and courier-dev-registry.

  --build   bring the image up to date first
  --help    this text

Environment:
TEXT
    docker_environment
}

IMAGE=courier-dev
BUILD=
while [ $# -gt 0 ]; do
    case $1 in
        --build) BUILD=1 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) usage >&2; die "unknown option '$1'" ;;
        *) break ;;
    esac
    shift
done

need_engine
if [ -n "$BUILD" ] || ! image_there $IMAGE; then
    phase "the image $IMAGE"
    build_image dev $IMAGE
    phase_end
fi

# shellcheck disable=SC2054 # docker's commas
OPTIONS=(
    --rm --init --interactive
    --mount "type=bind,src=$COURIER_ROOT,dst=/courier"
    --mount type=volume,src=courier-dev-target,dst=/target
    --mount type=volume,src=courier-dev-registry,dst=/usr/local/cargo/registry
    # Hugepages: a mount of their own, made by the engine since the container may not mount, and the kernel's folder in which
    # their number is set, which is read-only in a container otherwise. The scripts put the number back.
    --mount 'type=volume,dst=/dev/hugepages,volume-opt=type=hugetlbfs,volume-opt=device=hugetlbfs,volume-opt=o=pagesize=2M'
    --mount type=bind,src=/sys/kernel/mm/hugepages,dst=/sys/kernel/mm/hugepages
    # Beside Docker's own capabilities, with which packages can be installed: to give the guest precedence over the targets, and
    # for spdk_dd, which registers more buffers with io_uring than may be locked otherwise (8 MiB).
    --cap-add SYS_NICE --cap-add IPC_LOCK
    # SPDK's traces lie there, some MiB for each process.
    --shm-size 512m
)
if [ -t 0 ] && [ -t 1 ]; then OPTIONS+=(--tty); fi
# As scripts/vm.sh looks for it.
if [ -w /dev/kvm ] && { [ -e /sys/module/kvm_intel ] || [ -e /sys/module/kvm_amd ]; }; then OPTIONS+=(--device /dev/kvm); fi

# It runs as root, who installs packages and mounts; what it makes in the checkout shall belong to the checkout's owner.
exec docker run "${OPTIONS[@]}" "${DOCKER_RUN_OPTIONS[@]}" $IMAGE /courier/docker/as-owner.sh "${@:-bash}"
