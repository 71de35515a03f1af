# Docker for scripts: is an engine there, images of the Dockerfile's stages. Sourced after lib.sh, never run.
# shellcheck shell=bash disable=SC2034 # variables are for those that source this

# BuildKit leaves out the stages that are not wanted, which the old builder does not; docker of Debian 12 must be asked for it.
export DOCKER_BUILDKIT=1

# words VARIABLE: the words of a variable, one per line. Quotes and backslashes count as in a shell; nothing is expanded.
words() {
    printf '%s\n' "${!1:-}" | xargs -r -n 1 printf '%s\n' || die "$1 has a quote without an end: ${!1}"
}

# More options for `docker build` and `docker run`.
DOCKER_BUILD_OPTIONS=() DOCKER_RUN_OPTIONS=()
build_words=$(words COURIER_DOCKER_BUILD)
run_words=$(words COURIER_DOCKER_RUN)
if [ -n "$build_words" ]; then mapfile -t DOCKER_BUILD_OPTIONS <<<"$build_words"; fi
if [ -n "$run_words" ]; then mapfile -t DOCKER_RUN_OPTIONS <<<"$run_words"; fi
if [ -n "${COURIER_CA:-}" ]; then
    [ -r "$COURIER_CA" ] || die "COURIER_CA is '$COURIER_CA', which cannot be read; it names a file of certificates"
    DOCKER_BUILD_OPTIONS+=(--secret "id=ca,src=$COURIER_CA")
    DOCKER_RUN_OPTIONS+=(--mount "type=bind,src=$COURIER_CA,dst=/etc/ssl/certs/ca-certificates.crt,readonly")
fi

docker_environment() {
    cat <<'TEXT'
  COURIER_DOCKER_BUILD   more options for `docker build`: --build-arg BASE=IMAGE, --build-arg DEBIAN_MIRROR=URI, --network host.
                         In quotes, an option may have blanks: --build-arg 'APT_CONF=Acquire::Check-Valid-Until "false";'
  COURIER_DOCKER_RUN     more options for `docker run`
  COURIER_CA             a file of certificates, where the network has an authority of its own
  DOCKER_HOST            the engine, where it is not the machine's own
TEXT
}

engine_runs() { command -v docker >/dev/null && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

need_engine() {
    command -v docker >/dev/null || die "there is no program docker; install a Docker engine (in Debian: apt-get install docker.io)"
    local said
    said=$(docker version --format '{{.Server.Version}}' 2>&1) ||
        die "no Docker engine answers (${said##*$'\n'}); start it (systemctl start docker, or dockerd), or point DOCKER_HOST at one"
}

image_there() { docker image inspect "$1" >/dev/null 2>&1; }

version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$COURIER_ROOT/Cargo.toml"; }

# The commit, where there is one.
revision() { git -C "$COURIER_ROOT" rev-parse HEAD 2>/dev/null || true; }

# build_image STAGE TAG OPTION...: an image of a stage of the Dockerfile. What was built before is not built again.
build_image() {
    local stage=$1 tag=$2
    shift 2
    docker build --target "$stage" --tag "$tag" --label "org.opencontainers.image.version=$(version)" \
        --label "org.opencontainers.image.revision=$(revision)" "${DOCKER_BUILD_OPTIONS[@]}" "$@" "$COURIER_ROOT" >&2 ||
        die "docker build --target $stage failed (why is above; mirrors and certificates: docs/docker.md)"
}
