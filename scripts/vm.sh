#!/usr/bin/env bash
# Boots a small Linux guest whose NVMe drives are vfio-user sockets, and runs shell scripts in it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/vm.sh run   --script FILE [--out DIR] [VM OPTION]...
       scripts/vm.sh start --vm DIR [VM OPTION]...
       scripts/vm.sh serve --vm DIR [VM OPTION]...
       scripts/vm.sh exec  --vm DIR --script FILE [--out DIR] [--timeout S]
       scripts/vm.sh shell --vm DIR
       scripts/vm.sh stop  --vm DIR

  run     boots a guest, runs a script in it, ends the guest
  start   boots a guest that stays; returns when it is ready for `exec`
  serve   as start, but stays until the guest ends and prints `ready` on stdout when it is; the guest
          dies with it, even if it is killed
  exec    runs a script in a guest that was started; several may run at once
  shell   a root shell in it (leave it with Ctrl-])
  stop    powers it off, or kills it if it does not answer, and removes DIR

A script is run by bash as root, in a folder of its own, also named by $OUT. Its stdout and stderr
are passed on; with --out, DIR gets them as `stdout`, `stderr` and `status`, with every file that the
script left in $OUT (and after `run`, its console.log). The guest has bash, busybox, fio, nvme, ip, rdma, mkfs.ext4, modprobe.

Exit status: the script's; 124 if it took too long; 125 if the guest did not boot or died (the end
of its console is shown on stderr).

VM options:
  --socket-dir DIR   an NVMe drive behind the vfio-user socket DIR/cntrl; may be repeated
  --cpus N           virtual CPUs (2)
  --memory MB        memory, shared with whoever serves the sockets (1024)
  --timeout S        for booting and, in `run`, the script too (300)
  --host-root        the host's root folder, read-only, as /host
  --icount           software emulation on one thread, in which the guest's clock counts instructions: an
                     instruction is a nanosecond, and the time in which all processors wait is skipped
  --iommu            an IOMMU (Intel's), so that the guest can give a drive to a program of its own
  --append TEXT      more for the kernel's command line
  --boot-drive FW    the firmware FW (seabios or ovmf) loads kernel and initramfs from the first drive, which
                     holds the image of scripts/install-boot.sh; not with --host-root, --iommu and --append
  --qemu-arg ARG     one more argument for QEMU; may be repeated

Files in a VM's DIR: console.log, firmware.log (with --boot-drive), qemu.log, pid, qmp.sock (QEMU's
machine protocol), shell.sock (the shell's terminal).
TEXT
}

fail() { # STATUS MESSAGE
    printf '%s: %s\n' "$SCRIPT_NAME" "$2" >&2
    exit "$1"
}

show_console() {
    say "--- the last lines of QEMU's output, of the guest's console and of its firmware:"
    tail -n 5 "$VM/qemu.log" >&2 2>/dev/null || true
    tail -n 25 "$VM/console.log" 2>/dev/null | tr -d '\r' >&2 || true
    tail -n 10 "$VM/firmware.log" 2>/dev/null | tr -d '\r' >&2 || true
    say "---"
}

# The process that DIR/pid names, if it is still the QEMU of this DIR.
vm_pid() {
    local pid
    pid=$(cat "$VM/pid" 2>/dev/null) && [ -n "$pid" ] &&
        tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$VM/qmp.sock" && printf '%s\n' "$pid"
}

# Ordinary KVM only: a /dev/kvm of some other kind (nested, paravirtual) may be there and not run a guest.
accelerator() {
    if [ -n "$ICOUNT" ]; then
        printf '%s\n' -accel tcg,thread=single -icount shift=0,sleep=off -cpu max
    elif [ -w /dev/kvm ] && { [ -e /sys/module/kvm_intel ] || [ -e /sys/module/kvm_amd ]; }; then
        printf '%s\n' -accel kvm -cpu host
    else
        printf '%s\n' -accel tcg,thread=multi -cpu max
    fi
}

# start_with: where the guest's kernel comes from, as QEMU's arguments, one per line: QEMU itself, or a firmware that finds it
# on the drive.
start_with() {
    local guest=$1 boot
    if [ -z "$BOOT_DRIVE" ]; then
        printf '%s\n' -kernel "$guest/vmlinuz" -initrd "$guest/initramfs" -append \
            "$GUEST_KERNEL_OPTIONS${HOST_ROOT:+ courier.host_root}${IOMMU:+ intel_iommu=on}$APPEND"
        return
    fi
    # Strict: nothing else is tried if the drive does not boot.
    printf '%s\n' -boot strict=on -chardev "file,id=firmware,path=$VM/firmware.log" -device isa-debugcon,iobase=0x402,chardev=firmware
    [ "$BOOT_DRIVE" = ovmf ] || return 0
    boot=$("$COURIER_ROOT/scripts/install-boot.sh" --print-dir) || exit 125
    cp "$boot/OVMF_VARS.fd" "$VM/variables.fd"
    printf '%s\n' -drive "if=pflash,format=raw,readonly=on,file=$boot/OVMF_CODE.fd" -drive "if=pflash,format=raw,file=$VM/variables.fd"
}

# boot FATE: starts QEMU and waits until the guest is ready. FATE is `tied` (QEMU is killed when this script dies) or
# `free` (it outlives it).
boot() {
    local fate=$1 guest dir deadline=$((SECONDS + TIMEOUT)) kernel bootindex='' args=() command=()
    guest=$("$COURIER_ROOT/scripts/install-guest.sh" --print-dir) || exit 125
    mkdir -p "$VM/share"
    VM=$(cd "$VM" && pwd)
    [ ${#VM} -le 90 ] || fail 125 "the path $VM is too long for a socket in it; choose a shorter one"
    [ -z "$(vm_pid)" ] || fail 125 "a VM is running in $VM already; stop it first: scripts/vm.sh stop --vm $VM"
    rm -rf "$VM"/share/* "$VM"/ctl.* "$VM/halted"
    mkfifo "$VM/ctl.in" "$VM/ctl.out"
    kernel=$(start_with "$guest") || exit 125
    mapfile -t args < <(accelerator; printf '%s\n' "$kernel")
    args+=(-nodefaults -no-user-config -display none -no-reboot
        -machine "q35,memory-backend=mem,hpet=off,vmport=off"
        -object "memory-backend-memfd,id=mem,size=${MEMORY}M,share=on" -smp "$CPUS"
        -chardev "file,id=console,path=$VM/console.log" -serial chardev:console
        -chardev "pipe,id=ctl,path=$VM/ctl" -serial chardev:ctl
        -chardev "socket,id=shell,path=$VM/shell.sock,server=on,wait=off" -serial chardev:shell
        -qmp "unix:$VM/qmp.sock,server=on,wait=off"
        -virtfs "local,path=$VM/share,mount_tag=share,security_model=none")
    # Before the drives: it is for the devices that follow.
    if [ -n "$IOMMU" ]; then args+=(-device "intel-iommu,caching-mode=on"); fi
    if [ -n "$HOST_ROOT" ]; then args+=(-virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"); fi
    if [ -n "$BOOT_DRIVE" ]; then bootindex=',"bootindex":0'; fi
    for dir in ${SOCKET_DIRS[@]+"${SOCKET_DIRS[@]}"}; do
        [ -S "$dir/cntrl" ] || fail 125 "there is no socket $dir/cntrl; is the controller listening?"
        args+=(-device "{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"$dir/cntrl\"}$bootindex}")
        bootindex=
    done
    if [ "$fate" = tied ]; then command=(setpriv --pdeathsig KILL --); else command=(setsid); fi
    # The targets behind the drives poll, and use all of their cores: the guest gets more than an equal share of what
    # is left (where that is not allowed, nice says so and goes on).
    command+=(nice -n -10)
    "${command[@]}" "$guest/qemu" "${args[@]}" ${QEMU_ARGS[@]+"${QEMU_ARGS[@]}"} </dev/null >"$VM/qemu.log" 2>&1 &
    echo $! >"$VM/pid"
    until [ -e "$VM/share/ready" ]; do
        sleep 0.1
        kill -0 "$(cat "$VM/pid")" 2>/dev/null || { show_console; fail 125 "the guest died while booting"; }
        [ $SECONDS -lt $deadline ] || { show_console; halt; fail 125 "the guest did not boot in $TIMEOUT s"; }
    done
}

# execute SCRIPT OUT TIMEOUT: runs SCRIPT in the guest; its status is in STATUS.
execute() {
    local script=$1 out=$2 deadline=$((SECONDS + $3)) job lasting tails=()
    job=$(mktemp -d "$VM/share/job.XXXXXX")
    mkdir "$job/out"
    cp "$script" "$job/script"
    touch "$job/stdout" "$job/stderr"
    printf 'run %s\n' "${job##*/}" >"$VM/ctl.in"
    # What it prints is shown as it comes: the tails read on until this process is gone.
    setpriv --pdeathsig KILL -- sleep infinity &
    lasting=$!
    tail -n +1 -f -s 0.1 --pid=$lasting "$job/stdout" &
    tails+=($!)
    tail -n +1 -f -s 0.1 --pid=$lasting "$job/stderr" >&2 &
    tails+=($!)
    STATUS=
    until [ -e "$job/status" ]; do
        sleep 0.1
        if [ -z "$(vm_pid)" ]; then STATUS=125; break; fi
        if [ $SECONDS -ge $deadline ]; then STATUS=124; break; fi
    done
    # Should somebody stop the VM just now, its folder is gone, too.
    STATUS=${STATUS:-$(cat "$job/status" 2>/dev/null || echo 125)}
    kill "$lasting"
    wait "$lasting" "${tails[@]}" 2>/dev/null || true
    if [ -n "$out" ] && [ -d "$job" ]; then
        mkdir -p "$out"
        echo "$STATUS" >"$job/status"
        cp -r "$job"/{stdout,stderr,status} "$job/out/." "$out/"
    fi
    case $STATUS in
        124) show_console; say "$SCRIPT_NAME: the script did not end in $3 s" ;;
        125) [ -n "$(vm_pid)" ] || { show_console; say "$SCRIPT_NAME: the guest died while it ran the script"; } ;;
    esac
    rm -rf "$job"
}

# halt: powers the guest off, or kills QEMU after some seconds.
halt() {
    local pid i
    pid=$(vm_pid) || return 0
    if [ -e "$VM/share/ready" ]; then
        # In a child: should nobody read the pipe any more, it must not hold us up.
        echo poweroff | timeout 1 tee "$VM/ctl.in" >/dev/null || true
        for ((i = 0; i < 50; i++)); do
            [ -n "$(vm_pid)" ] || return 0
            sleep 0.1
        done
    fi
    # For `serve`: that is no accident.
    touch "$VM/halted"
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do
        [ -n "$(vm_pid)" ] || return 0
        sleep 0.1
    done
}

discard() {
    halt
    if [ -n "$OUT" ]; then cp "$VM"/{console,firmware}.log "$OUT/" 2>/dev/null || true; fi
    rm -rf "$VM"
}

number() { # OPTION VALUE
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail 125 "$1 wants a whole number, not '$2'"
    printf '%s\n' "$2"
}

VERB=${1:-}
[ $# -eq 0 ] || shift
case $VERB in
    run | start | serve | exec | shell | stop) ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail 125 "the first argument must be run, start, serve, exec, shell or stop, not '$VERB'" ;;
esac
VM='' SCRIPT='' OUT='' HOST_ROOT='' ICOUNT='' IOMMU='' APPEND='' BOOT_DRIVE=''
CPUS=2 MEMORY=1024 TIMEOUT=300
SOCKET_DIRS=() QEMU_ARGS=()
while [ $# -gt 0 ]; do
    case $1 in
        --host-root) HOST_ROOT=1; shift; continue ;;
        --iommu) IOMMU=1; shift; continue ;;
        --icount) ICOUNT=1; shift; continue ;;
        -h | --help) usage; exit 0 ;;
    esac
    [ $# -ge 2 ] || fail 125 "the option $1 is unknown or wants a value"
    case $1 in
        --vm) VM=$2 ;;
        --script) SCRIPT=$2 ;;
        --out) OUT=$2 ;;
        --socket-dir) SOCKET_DIRS+=("$(realpath -m "$2")") ;;
        --cpus) CPUS=$(number "$1" "$2") ;;
        --memory) MEMORY=$(number "$1" "$2") ;;
        --timeout) TIMEOUT=$(number "$1" "$2") ;;
        --append) APPEND+=" $2" ;;
        --boot-drive) BOOT_DRIVE=$2 ;;
        --qemu-arg) QEMU_ARGS+=("$2") ;;
        *) usage >&2; fail 125 "unknown option '$1'" ;;
    esac
    shift 2
done
case $BOOT_DRIVE in
    '') ;;
    seabios | ovmf)
        [ ${#SOCKET_DIRS[@]} -gt 0 ] || fail 125 "--boot-drive needs a drive: --socket-dir DIR"
        [ -z "$HOST_ROOT$IOMMU$APPEND" ] || fail 125 "--boot-drive does not go with --host-root, --iommu and --append: the kernel's command line is on the drive"
        ;;
    *) fail 125 "--boot-drive is seabios or ovmf, not '$BOOT_DRIVE'" ;;
esac

case $VERB in
    run | exec)
        [ -n "$SCRIPT" ] || fail 125 "$VERB needs --script FILE"
        [ -r "$SCRIPT" ] || fail 125 "cannot read the script '$SCRIPT'"
        ;;
esac
if [ "$VERB" = run ]; then
    [ -z "$VM" ] || fail 125 "run makes its own VM; --vm is for start and exec"
    VM=$(mktemp -d "${TMPDIR:-/tmp}/courier-vm.XXXXXX")
    if [ -n "$OUT" ]; then mkdir -p "$OUT"; fi
else
    [ -n "$VM" ] || fail 125 "$VERB needs --vm DIR"
    case $VERB in
        exec | shell)
            VM=$(realpath -m "$VM")
            [ -n "$(vm_pid)" ] || fail 125 "no VM runs in $VM; start one: scripts/vm.sh start --vm $VM"
            ;;
    esac
fi

case $VERB in
    run)
        at_exit discard
        started=$SECONDS
        boot tied
        left=$((TIMEOUT - (SECONDS - started)))
        execute "$SCRIPT" "$OUT" $((left > 1 ? left : 1))
        exit "$STATUS"
        ;;
    start) boot free ;;
    serve)
        at_exit discard
        boot tied
        echo ready
        # What the shell says about a process that was killed is said better below.
        status=0
        wait "$(cat "$VM/pid")" 2>/dev/null || status=$?
        # A guest that did not power off in time was killed by `stop`, which removes the folder, too.
        if [ $status -ne 0 ] && [ -d "$VM" ] && [ ! -e "$VM/halted" ]; then fail 125 "QEMU ended with status $status"; fi
        ;;
    exec)
        execute "$SCRIPT" "$OUT" "$TIMEOUT"
        exit "$STATUS"
        ;;
    shell)
        need_packages socat
        socat STDIO,raw,echo=0,escape=0x1d "UNIX-CONNECT:$VM/shell.sock"
        ;;
    stop)
        VM=$(realpath -m "$VM")
        discard
        ;;
esac
