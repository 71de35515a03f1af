# Courier's images. `dev` is for developing: toolchain, SPDK, QEMU and a guest. `runtime` holds what runs in production.
# `stock` is `runtime` with SPDK's own spdk_tgt and bdevperf, for a pool and a client (compose.yaml).
#
#   docker build --target dev -t courier-dev .        (or scripts/dev.sh, which does so by itself)
#   docker build --target runtime -t courier .
#   docker build --target stock -t courier-stock .
#
# BuildKit is needed (DOCKER_BUILDKIT=1 where it is not the default). docs/docker.md tells of the arguments.

# Debian 12 or 13.
ARG BASE=debian:bookworm-slim
# An image with a Rust toolchain in /usr/local/rustup and /usr/local/cargo.
ARG RUST=rust:1-slim-bookworm
# Where SPDK comes from: the stage below that builds it, or an image that has it in /opt/courier, built by the same script.
ARG SPDK_FROM=spdk-build

# --- the distribution, with the mirror that was asked for -----------------------------------------------------

FROM ${BASE} AS base
# Package mirrors in place of the base image's own. Without the second there are no security updates beyond the first's.
ARG DEBIAN_MIRROR=
ARG DEBIAN_SECURITY_MIRROR=
# What the mirror wants of apt's configuration: Acquire::Check-Valid-Until "false"; for one that stands still.
ARG APT_CONF=
RUN if [ -n "$APT_CONF" ]; then echo "$APT_CONF" >/etc/apt/apt.conf.d/99mirror; fi; \
    if [ -n "$DEBIAN_MIRROR" ]; then \
        . /etc/os-release; \
        rm -f /etc/apt/sources.list.d/*; \
        echo "deb $DEBIAN_MIRROR $VERSION_CODENAME main" >/etc/apt/sources.list; \
        if [ -n "$DEBIAN_SECURITY_MIRROR" ]; then \
            echo "deb $DEBIAN_SECURITY_MIRROR $VERSION_CODENAME-security main" >>/etc/apt/sources.list; \
        fi; \
    fi

# --- what SPDK and Courier are built with ---------------------------------------------------------------------

FROM base AS packages
ENV COURIER_CACHE=/opt/courier DEBIAN_FRONTEND=noninteractive
COPY scripts/lib.sh scripts/install-spdk.sh /opt/courier-scripts/scripts/
RUN apt-get update && \
    /opt/courier-scripts/scripts/install-spdk.sh --packages && \
    rm -rf /var/lib/apt/lists/*

# --- SPDK, built once: this layer changes only with the two scripts -------------------------------------------

FROM packages AS spdk-build
RUN /opt/courier-scripts/scripts/install-spdk.sh

FROM ${SPDK_FROM} AS spdk

# --- QEMU with vfio-user-pci, and a guest ---------------------------------------------------------------------

FROM packages AS guest
COPY scripts/install-guest.sh /opt/courier-scripts/scripts/
COPY scripts/guest/init /opt/courier-scripts/scripts/guest/
RUN /opt/courier-scripts/scripts/install-guest.sh

# --- the Rust toolchain ---------------------------------------------------------------------------------------

FROM ${RUST} AS rust

FROM packages AS toolchain
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo
ENV PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
# A mirror of rustup's downloads, and one of the crates' registry (as cargo takes it: sparse+URL), in place of their own.
ARG RUSTUP_DIST_SERVER=
ARG CARGO_REGISTRY=
# The secret `ca`, here and below, is a file of certificates for networks that have an authority of their own.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    if [ -z "$RUSTUP_DIST_SERVER" ]; then unset RUSTUP_DIST_SERVER; fi; \
    if [ -n "$CARGO_REGISTRY" ]; then \
        printf '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "%s"\n' "$CARGO_REGISTRY" \
            >>/usr/local/cargo/config.toml; \
    fi; \
    if command -v rustup >/dev/null; then rustup component add clippy rustfmt; fi; \
    cargo clippy --version && cargo fmt --version
COPY --from=spdk /opt/courier /opt/courier

# --- dev: to be run with the checkout on /courier (scripts/dev.sh) --------------------------------------------

FROM toolchain AS dev
LABEL org.opencontainers.image.title="Courier's image for developing" \
    org.opencontainers.image.description="Rust, SPDK, QEMU and a guest; to be run by scripts/dev.sh, as root"
# What the tests and the scripts would install themselves, and what a developer misses.
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
        shellcheck valgrind gnuplot-nox socat kmod zstd mmdebstrap debian-archive-keyring util-linux procps iproute2 git less && \
    rm -rf /var/lib/apt/lists/*
COPY --from=guest /opt/courier /opt/courier
# What is built stays out of the checkout.
ENV CARGO_TARGET_DIR=/target
WORKDIR /courier
CMD ["bash"]

# --- the programs ---------------------------------------------------------------------------------------------

FROM toolchain AS build
WORKDIR /courier
COPY . .
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    CARGO_TARGET_DIR=/target cargo build --release --locked && \
    docker/collect.sh /target/release /out && \
    rm -rf /target /usr/local/cargo/registry

# --- runtime: courier_tgt, the plugin, the RPC client, and the libraries that they load -----------------------
# `openssl` is there for its configuration file: without one SPDK does not start.

FROM base AS runtime
RUN --mount=type=bind,from=build,source=/out,target=/out \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 openssl $(cat /out/runtime.packages) && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=build /out/runtime /
# It needs no root: hugepages and sockets are to be where this user may write, of whom only the number counts outside.
RUN echo "courier-nvme:x:990:" >>/etc/group && \
    echo "courier-nvme:x:990:990:Courier:/run/courier-nvme:/usr/sbin/nologin" >>/etc/passwd && \
    install -d -o courier-nvme -g courier-nvme /run/courier-nvme
USER courier-nvme
# Healthy when it has started and answers RPCs at SPDK's usual socket. Whether its pools do is another question: compose.yaml.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["courier-rpc", "-t", "8", "framework_wait_init"]
LABEL org.opencontainers.image.title="Courier" \
    org.opencontainers.image.description="An NVMe-oF storage plugin for SPDK: a VM's NVMe commands, carried to a storage pool" \
    org.opencontainers.image.licenses="(Apache-2.0 OR MIT) AND BSD-3-Clause"
CMD ["courier_tgt", "--help"]

# --- stock: SPDK's own target and load generator beside it ----------------------------------------------------

FROM runtime AS stock
USER root
RUN --mount=type=bind,from=build,source=/out,target=/out \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(cat /out/stock.packages) && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=build /out/stock /
USER courier-nvme
LABEL org.opencontainers.image.title="Courier, with SPDK's own target and load generator"
ENV LD_LIBRARY_PATH=/opt/spdk/lib PATH=/opt/spdk/bin:$PATH
CMD ["spdk_tgt", "--help"]
