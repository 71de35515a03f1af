#!/usr/bin/env bash
# Builds Courier's images and runs the services of compose.yaml until the client's verify says that all is well.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
COURIER_CA=${COURIER_CA:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$COURIER_CA" ]; then export COURIER_CA; else unset COURIER_CA; fi
# shellcheck source=scripts/lib-target.sh
. "$COURIER_ROOT/scripts/lib-target.sh"
# shellcheck source=scripts/lib-docker.sh
. "$COURIER_ROOT/scripts/lib-docker.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/test-docker.sh [--dev] [--from-nothing] [--clean] [--help]

Builds the images of the Dockerfile and runs them: what `runtime` holds; the plugin in a stock spdk_tgt; the services of
compose.yaml, with hardly a capability, until the client has verified what it wrote. Where no Docker engine runs, one is installed
(Debian's docker.io) and started, with its data in Courier's cache, and ended afterwards. Ends with `docker: PASS` (exit 0),
`docker: FAIL (reason)`, or `docker: SKIPPED (why)` (exit 0) where no engine can be had. The first run takes some minutes.

  --dev            build the image for developing, too, and run scripts/demo.sh and scripts/test.sh in it
  --from-nothing   build SPDK in the image; otherwise the one of Courier's cache is taken, if there is one
  --clean          remove what earlier runs have kept (images, the engine's data), and test nothing
  --help           this text

Environment:
  COURIER_CACHE          the cache (default: ~/.cache/courier)
TEXT
    docker_environment
}

IMAGE=courier-test
STOCK_IMAGE=courier-stock-test
PROJECT=courier-test
CLIENT_SECONDS=5
# What the server and the client of compose.yaml take.
HUGEPAGES_MIB=1024
DATA=$COURIER_CACHE/docker

# --- the verdict ---------------------------------------------------------------------------------------------

PASSED='' REASON='' SKIPPED=''
on_die() { REASON=$1; }

# shellcheck disable=SC2317 # run by at_exit
verdict() {
    if [ -n "$SKIPPED" ]; then
        echo "docker: SKIPPED ($SKIPPED)"
    elif [ -n "$PASSED" ]; then
        echo "docker: PASS"
    else
        echo "docker: FAIL (${REASON:-it was interrupted, or failed in ${PHASE_NAME:-the beginning}})"
    fi
}

skip() {
    SKIPPED=$1
    exit 0
}

# --- the engine ----------------------------------------------------------------------------------------------

# install_engine: Debian's, without having it started: the test's own daemon leaves nothing behind.
install_engine() {
    local packages=(docker.io) package
    command -v apt-get >/dev/null || skip "no Docker engine runs, and there is no apt-get to install one"
    # These are parts of docker.io in Debian 12.
    for package in docker-cli docker-buildx; do
        if apt-cache show "$package" >/dev/null 2>&1; then packages+=("$package"); fi
    done
    # In a child, so that its failure is no failure of the test.
    (AT_EXIT=(); RUNLEVEL=1 need_packages "${packages[@]}") || skip "no Docker engine runs, and none could be installed (why is above)"
    command -v dockerd >/dev/null || skip "the package docker.io brought no dockerd"
}

# Without bridge, packet filter and forwarding of the machine's: the services' network has no way out anyway.
start_engine() {
    local i
    phase "a Docker engine"
    [ "$(id -u)" -eq 0 ] || skip "no Docker engine runs, and only root can start one"
    # Bit 21. A container hardly ever has it.
    [ $((16#$(sed -n 's/^CapEff:\s*//p' /proc/self/status) >> 21 & 1)) -eq 1 ] ||
        skip "no Docker engine runs, and one cannot be started without the capability SYS_ADMIN"
    command -v dockerd >/dev/null || install_engine
    if ! engine_runs; then
        WORK_DOCKER=$(mktemp -d "${TMPDIR:-/tmp}/courier-docker.XXXXXX")
        at_exit stop_engine
        export DOCKER_HOST=unix://$WORK_DOCKER/docker.sock
        mkdir -p "$DATA"
        setpriv --pdeathsig TERM -- dockerd --data-root "$DATA" --exec-root "$WORK_DOCKER/run" --pidfile "$WORK_DOCKER/pid" \
            --host "$DOCKER_HOST" --bridge none --iptables=false --ip-forward=false >"$WORK_DOCKER/log" 2>&1 &
        DOCKERD=$!
        for ((i = 0; i < 300; i++)); do
            if engine_runs; then break; fi
            kill -0 "$DOCKERD" 2>/dev/null || break
            sleep 0.1
        done
        if ! engine_runs; then
            tail -n 10 "$WORK_DOCKER/log" >&2
            skip "dockerd does not start on this machine (its last lines are above)"
        fi
        runs_containers || skip "dockerd starts on this machine, but runs no container (why is above)"
    fi
}

# An image that holds this machine's program `true`, and what it loads: not every place that lets an engine start lets it mount, too.
runs_containers() {
    local true files
    true=$(type -P true)
    mapfile -t files < <(echo "$true"; ldd "$true" | grep -o '/[^ ]*')
    tar --create --dereference --directory / "${files[@]#/}" | docker import - courier-probe >/dev/null &&
        docker run --rm --network none --cap-drop ALL courier-probe "$true" >&2 &&
        docker image rm courier-probe >/dev/null
}

# shellcheck disable=SC2317 # run by at_exit
stop_engine() {
    local i mounted
    # The images and layers of sources that have changed since.
    if [ -n "$PASSED" ]; then
        docker image prune --force >/dev/null 2>&1
        docker builder prune --force --keep-storage 8GB >/dev/null 2>&1
    fi
    kill -TERM "$DOCKERD" 2>/dev/null
    for ((i = 0; i < 300; i++)); do
        kill -0 "$DOCKERD" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$DOCKERD" 2>/dev/null && warn "dockerd did not end in 30 s; it was killed"
    # Newest first.
    for mounted in $(awk '{ print $2 }' /proc/mounts | grep -e "^$WORK_DOCKER/" -e "^$DATA/" | tac); do umount "$mounted"; done
    rm -rf "$WORK_DOCKER"
}

# find_compose: sets COMPOSE. Debian 12 has 1.29 only, which the plugin `docker compose` has succeeded: Debian 13's is then taken.
find_compose() {
    local dir=$COURIER_CACHE/compose-$GUEST_SUITE
    phase "docker compose"
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif [ -e "$dir/.complete" ] || fetch_compose "$dir"; then
        COMPOSE=("$dir/usr/libexec/docker/cli-plugins/docker-compose")
    else
        # In a child, so that its failure is no failure of the test.
        (AT_EXIT=(); need_packages docker-compose) || skip "there is no docker compose, and none could be installed (why is above)"
        COMPOSE=(docker-compose)
    fi
    say "    ${COMPOSE[*]##*/}: $("${COMPOSE[@]}" version --short)"
    if command -v docker-compose >/dev/null; then
        docker-compose --file "$COURIER_ROOT/compose.yaml" config --quiet ||
            die "docker-compose $(docker-compose version --short) does not take compose.yaml (why is above)"
    fi
}

fetch_compose() {
    (AT_EXIT=(); unpack_packages "$1" docker-compose "$GUEST_SUITE" && "$1/usr/libexec/docker/cli-plugins/docker-compose" version >/dev/null && touch "$1/.complete")
}

# --- what the images are made from ---------------------------------------------------------------------------

# Where no registry is to be had, both images are made of what the machine has: its Debian, its Rust toolchain.
base_images() {
    local suite
    NO_REGISTRY=
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    [ "$suite" = trixie ] || suite=bookworm
    BASE=debian:$suite-slim
    RUST=rust:1-slim-$suite
    phase "the base images $BASE and $RUST"
    fetched "$BASE" 60 || make_base "$suite"
    fetched "$RUST" 300 || make_rust
}

# fetched IMAGE SECONDS: it is there, or a registry gives it. Where one did not, the next image is not asked for: to wait for
# a registry that does not answer takes minutes.
fetched() {
    if image_there "$1"; then return 0; fi
    [ -z "$NO_REGISTRY" ] && timeout "$2" docker pull --quiet "$1" >&2 && return 0
    NO_REGISTRY=1
    return 1
}

# As Docker's own image of Debian is configured: no manuals, no translations, and no waiting for the disk in what is thrown away.
SLIM=(--dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"'
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright'
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')

make_base() {
    local tar=$WORK/base.tar
    say "    no registry has it for us; it is made with mmdebstrap"
    need_packages mmdebstrap debian-archive-keyring
    run_logged "$WORK/mmdebstrap.log" mmdebstrap --variant=minbase "${SLIM[@]}" "$1" "$tar" "$(debian_mirror)"
    docker import "$tar" "$BASE" >/dev/null
    rm "$tar"
}

make_rust() {
    local sysroot root=$WORK/rust name
    need_cargo
    sysroot=$(rustc --print sysroot)
    say "    no registry has it for us; it is made of the toolchain in $sysroot"
    name=$(basename "$sysroot")
    mkdir -p "$root"/usr/local/{cargo/bin,rustup/toolchains}
    ln -s "$sysroot" "$root/usr/local/rustup/toolchains/$name"
    for program in cargo rustc rustfmt cargo-fmt clippy-driver cargo-clippy rustdoc; do
        ln -s "../../rustup/toolchains/$name/bin/$program" "$root/usr/local/cargo/bin/$program"
    done
    # Only the link to the toolchain is followed, which leads out of the tree; those within it stay links.
    tar -C "$root" -c usr/local/cargo -f "$WORK/rust.tar"
    tar -C "$(dirname "$sysroot")" --exclude=share/doc --exclude=rustlib/src --transform "s,^,usr/local/rustup/toolchains/," \
        -rf "$WORK/rust.tar" "$name"
    docker import "$WORK/rust.tar" "$RUST" >/dev/null
    rm "$WORK/rust.tar"
}

# spdk_image: an image of the SPDK that was built on this machine by the same script, in the place that the Dockerfile has
# for it. Sets SPDK_IMAGE, which is empty if there is none.
spdk_image() {
    local spdk place=$WORK/spdk/opt/courier name
    SPDK_IMAGE=
    [ -z "$FROM_NOTHING" ] || return 0
    spdk=$(SPDK_DIR='' "$COURIER_ROOT/scripts/install-spdk.sh" --print-dir 2>/dev/null) || return 0
    name=$(basename "$spdk")
    phase "an image of $name"
    SPDK_IMAGE=courier-spdk:$name
    if image_there "$SPDK_IMAGE"; then return 0; fi
    mkdir -p "$place"
    cp -a "$spdk" "$place/"
    # The build writes down where it was made.
    grep -rlIF "$spdk" "$place" --include='*.pc' --include='*.mk' --include='*.d' | xargs -r sed -i "s|$spdk|/opt/courier/$name|g"
    tar -C "$WORK/spdk" -c opt | docker import - "$SPDK_IMAGE" >/dev/null
    rm -rf "$WORK/spdk"
}

# --- what is tested ------------------------------------------------------------------------------------------

build_images() {
    BUILD_ARGS=(--build-arg "BASE=$BASE" --build-arg "RUST=$RUST")
    # A mirror that stands still, such as a snapshot, is one for the images, too.
    BUILD_ARGS+=(--build-arg "APT_CONF=$(apt-config dump 2>/dev/null | grep '^Acquire::Check-' || true)")
    if [ -n "$SPDK_IMAGE" ]; then BUILD_ARGS+=(--build-arg "SPDK_FROM=$SPDK_IMAGE"); fi
    phase "docker build: runtime"
    build_image runtime $IMAGE --network host "${BUILD_ARGS[@]}"
    phase "docker build: stock"
    build_image stock $STOCK_IMAGE --network host "${BUILD_ARGS[@]}"
    if [ -n "$DEV" ]; then
        phase "docker build: dev"
        build_image dev courier-dev --network host "${BUILD_ARGS[@]}"
    fi
    docker image ls --format '{{.Repository}}: {{.Size}}' | grep -e "^$IMAGE:" -e "^$STOCK_IMAGE:" -e '^courier-dev:' | sed 's/^/    /' >&2
}

layers() { docker image inspect --format '{{.RootFS.Layers}}' "$1"; }

# What a user types. It must come to the same images, and all layers are there by then.
compose_build() {
    local args=("${BUILD_ARGS[@]}") files=() i
    phase "docker compose build"
    case $("${COMPOSE[@]}" version --short) in
        1.* | v1.*) say "    left out: this docker compose is too old for secrets"; return ;;
    esac
    for ((i = 0; i < ${#DOCKER_BUILD_OPTIONS[@]}; i++)); do
        case ${DOCKER_BUILD_OPTIONS[i]} in
            --build-arg) args+=(--build-arg "${DOCKER_BUILD_OPTIONS[++i]}") ;;
            --build-arg=*) args+=("${DOCKER_BUILD_OPTIONS[i]}") ;;
        esac
    done
    if [ -n "${COURIER_CA:-}" ]; then files=(--file "$COURIER_ROOT/docker/compose-ca.yaml"); fi
    printf 'services:\n  pool: {build: {network: host}}\n  server: {build: {network: host}}\n' >"$WORK/build.yaml"
    SUFFIX=-compose compose "${files[@]}" --file "$WORK/build.yaml" build "${args[@]}" pool server >"$WORK/build.log" 2>&1 ||
        { tail -n 20 "$WORK/build.log" >&2; die "docker compose build failed (why is above)"; }
    for i in $IMAGE $STOCK_IMAGE; do
        [ "$(layers "$i-compose")" = "$(layers "$i")" ] || die "docker compose build made another image of $i than docker build"
        docker image rm "$i-compose" >/dev/null
    done
}

check_runtime() {
    local found label
    phase "what the runtime image holds"
    # shellcheck disable=SC2016 # for the container's shell
    found=$(docker run --rm --network none --cap-drop ALL --read-only $IMAGE sh -c '
        courier_tgt --version &&
        courier-rpc courier_pool_create --help >/dev/null && echo "the RPC client knows Courier" &&
        ldd /usr/local/bin/courier_tgt | grep "not found" || echo "courier_tgt finds its libraries"
        for tool in gcc cargo make clang; do if command -v $tool >/dev/null; then echo "the build tool $tool is in it"; fi; done
    ' 2>&1) || die "the programs in the runtime image do not run: $found"
    say "$found"
    grep -q "finds its libraries" <<<"$found" || die "courier_tgt in the runtime image lacks libraries (see above)"
    ! grep -q "build tool" <<<"$found" || die "the runtime image holds build tools (see above)"
    found=$(docker image inspect --format '{{.Config.User}} {{json .Config.Labels}}' $IMAGE)
    for label in 'title":"Courier"' "version\":\"$(version)\"" 'licenses":"(Apache-2.0 OR MIT) AND BSD-3-Clause"'; do
        [[ $found = "courier-nvme "*"org.opencontainers.image.$label"* ]] || die "the runtime image does not say $label: $found"
    done
}

# As its own user, with no capability at all, it starts, and is healthy.
check_health() {
    local i health=
    phase "the health of a courier_tgt that is not root"
    docker run --detach --name $PROJECT-alone --network none --cap-drop ALL --health-interval 1s \
        --mount "type=bind,src=$SMALL_POOLS,dst=/etc/courier/pools.json,readonly" \
        $IMAGE courier_tgt -m "[$MIDDLE_CORE]" --no-pci --no-huge -s 512 --json /etc/courier/pools.json >/dev/null
    for ((i = 0; i < 60; i++)); do
        health=$(docker inspect --format '{{.State.Health.Status}}' $PROJECT-alone)
        [ "$health" != healthy ] || break
        sleep 0.5
    done
    if [ "$health" != healthy ] || [ "$(docker exec $PROJECT-alone id -u)" != 990 ]; then
        docker logs --tail 15 $PROJECT-alone >&2
        die "a courier_tgt in the runtime image is $health after 30 s, and runs as $(docker exec $PROJECT-alone id) (its last lines are above)"
    fi
    docker rm --force --volumes $PROJECT-alone >/dev/null
}

# What root makes in a container, on a checkout that is somebody's: it is that somebody's in the end.
check_owner() {
    local checkout=$WORK/checkout status=0
    phase "the owner of what the development container makes"
    install -d -o 1234 -g 1234 "$checkout"
    docker run --rm --user 0 --network none --mount "type=bind,src=$checkout,dst=/courier" \
        --mount "type=bind,src=$COURIER_ROOT/docker/as-owner.sh,dst=/as-owner.sh,readonly" \
        $IMAGE /as-owner.sh sh -c 'mkdir /courier/made && touch /courier/made/file && exit 7' || status=$?
    [ $status -eq 7 ] || die "docker/as-owner.sh ended with status $status, and its command with 7"
    [ "$(stat -c %u:%g "$checkout/made/file")" = 1234:1234 ] || die "a file made in the container belongs to $(stat -c %u:%g "$checkout/made/file"), not to the checkout's owner"
}

# The plugin gets its RPCs into an spdk_tgt that knows nothing of Courier.
check_plugin() {
    local i
    phase "the plugin in a stock spdk_tgt"
    docker run --detach --name $PROJECT-plugin --network none --cap-drop ALL --env LD_PRELOAD=/usr/local/lib/courier/libcourier.so \
        --mount "type=bind,src=$COURIER_ROOT/docker/pool.json,dst=/etc/courier/pool.json,readonly" \
        $STOCK_IMAGE spdk_tgt -m "[$POOL_CORE]" --no-pci --no-huge -s 512 --json /etc/courier/pool.json >/dev/null
    for ((i = 0; i < 30; i++)); do
        if docker exec --env LD_PRELOAD= $PROJECT-plugin courier-rpc -t 30 rpc_get_methods 2>/dev/null | grep -q courier_pool_create; then
            docker rm --force --volumes $PROJECT-plugin >/dev/null
            return
        fi
        sleep 1
    done
    docker logs --tail 15 $PROJECT-plugin >&2
    die "no courier_pool_create in a stock spdk_tgt that has the plugin preloaded (its last lines are above)"
}

# compose OPTION...: with SUFFIX, on images whose names end in it.
compose() {
    env COURIER_IMAGE="$IMAGE${SUFFIX:-}" COURIER_STOCK_IMAGE="$STOCK_IMAGE${SUFFIX:-}" COURIER_POOL_CORE="$POOL_CORE" COURIER_SERVER_CORE="$MIDDLE_CORE" \
        COURIER_CLIENT_CORE="$POOL_CORE" COURIER_CLIENT_SECONDS=$CLIENT_SECONDS \
        timeout 300 "${COMPOSE[@]}" --project-name $PROJECT --file "$COURIER_ROOT/compose.yaml" "$@"
}

# shellcheck disable=SC2317 # run by at_exit
remove_services() {
    docker rm --force --volumes $PROJECT-plugin $PROJECT-alone >/dev/null 2>&1 || true
    compose down --volumes --remove-orphans --timeout 20 >/dev/null 2>&1 || true
}

run_services() {
    local id service status=0 capabilities
    phase "compose: pool, server and client"
    need_hugepages $HUGEPAGES_MIB
    # Returns when the client, which waits for the others' health, has been started.
    compose up --no-build --detach >"$WORK/compose.log" 2>&1 || services_failed "docker compose up failed"
    for service in pool server; do
        id=$(compose ps -q $service)
        [ "$(docker inspect --format '{{.State.Health.Status}}' "$id")" = healthy ] || services_failed "the service $service is not healthy"
        [ "$(docker inspect --format '{{.HostConfig.Privileged}}' "$id")" = false ] || die "the service $service is privileged"
        # Of the process that serves: an empty set, or that of SYS_NICE.
        capabilities=$((16#$(docker exec "$id" sed -n 's/^CapPrm:\s*//p' /proc/1/status)))
        [ $((capabilities & ~(1 << 23))) -eq 0 ] || die "the service $service has more capabilities than SYS_NICE: $capabilities"
    done
    id=$(compose ps --all -q client)
    status=$(timeout $((120 + CLIENT_SECONDS)) docker wait "$id") || services_failed "the client did not end in time"
    docker logs "$id" >"$WORK/client.log" 2>&1
    [ "$status" = 0 ] || services_failed "the client ended with status $status"
    grep -q 'workload: verify' "$WORK/client.log" || services_failed "the client did not verify"
    tr '\r' '\n' <"$WORK/client.log" | grep -E '^[[:space:]]*(Job:|Verification|Device Information|Drive0n1)' >&2
}

services_failed() {
    tail -n 20 "$WORK/compose.log" >&2
    for service in pool server client; do
        say "--- $service:"
        compose logs --no-color --tail 20 $service >&2
    done
    die "$1 (the logs are above)"
}

check_dev() {
    local command
    for command in ./scripts/demo.sh ./scripts/test.sh; do
        phase "in the dev image: $command"
        COURIER_DOCKER_RUN="--network host" "$COURIER_ROOT/scripts/dev.sh" $command >&2 || die "$command failed in the dev image (why is above)"
    done
}

clean() {
    local image
    if engine_runs; then
        for image in $IMAGE $STOCK_IMAGE $(docker image ls --quiet courier-spdk); do docker image rm --force "$image" >/dev/null 2>&1 || true; done
    fi
    rm -rf "$DATA"
    say "    removed: the test's images, and $DATA"
}

# --- main ----------------------------------------------------------------------------------------------------

DEV='' FROM_NOTHING='' CLEAN=''
while [ $# -gt 0 ]; do
    case $1 in
        --dev) DEV=1 ;;
        --from-nothing) FROM_NOTHING=1 ;;
        --clean) CLEAN=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done
if [ -n "$CLEAN" ]; then
    clean
    exit 0
fi

at_exit verdict
[ "$(uname -sm)" = "Linux x86_64" ] || skip "this machine is $(uname -sm); the images are made for Linux x86_64 only"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/courier-test-docker.XXXXXX")
at_exit rm -rf "$WORK"
engine_runs || start_engine
find_compose
choose_cores
base_images
spdk_image
build_images
compose_build
at_exit remove_services
remove_services
check_runtime
check_health
check_owner
check_plugin
run_services
# They poll, and what follows wants both cores.
remove_services
[ -z "$DEV" ] || check_dev
phase_summary
PASSED=1
