#!/usr/bin/env bash
# Lays out what the images `runtime` and `stock` hold. Run by the Dockerfile, where Courier and SPDK have been built:
#   collect.sh RELEASE OUT
# OUT/runtime and OUT/stock are laid over the image's root; OUT/*.packages list the Debian packages whose libraries they load.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

release=$1 out=$2
spdk=$("$COURIER_ROOT/scripts/install-spdk.sh" --print-dir)
multiarch=$(gcc -print-multiarch)

# libraries FILE...: the shared libraries that they load, one path per line.
libraries() { ldd "$@" | sed -n 's/.*=> \(\/[^ ]*\) (.*/\1/p' | sort -u; }

# packages: the packages of the libraries whose paths come in.
packages() {
    local path
    while read -r path; do
        dpkg-query --search "*/$multiarch/${path##*/}" | cut -d : -f 1 | grep . || die "no Debian package holds $path"
    done | sort -u
}

# put FILE PLACE: a copy without debugging information.
put() {
    install -D -m 755 "$(realpath "$1")" "$2"
    strip --strip-unneeded "$2"
}

runtime=$out/runtime/usr/local
put "$release/courier_tgt" "$runtime/bin/courier_tgt"
put "$release/libcourier.so" "$runtime/lib/courier/libcourier.so"
install -m 755 "$COURIER_ROOT/docker/courier-rpc" "$runtime/bin/courier-rpc"
install -D -m 644 "$COURIER_ROOT/python/courier_rpc.py" "$runtime/lib/courier/python/courier_rpc.py"
# SPDK's client looks for its parts beside its own folder.
install -D -m 755 "$spdk/scripts/rpc.py" "$runtime/lib/courier/spdk/scripts/rpc.py"
mkdir -p "$runtime/lib/courier/spdk/python/spdk"
cp -r "$spdk"/python/spdk/*.py "$spdk/python/spdk/cli" "$spdk/python/spdk/rpc" "$runtime/lib/courier/spdk/python/spdk/"
find "$runtime/lib/courier" -name __pycache__ -prune -exec rm -r {} +
install -D -m 644 -t "$out/runtime/usr/share/doc/courier" "$COURIER_ROOT"/LICENSE-*
install -m 644 "$spdk/LICENSE" "$out/runtime/usr/share/doc/courier/LICENSE-SPDK"
# RDMA's library finds the NICs' drivers at run time.
{ libraries "$release/courier_tgt" "$release/libcourier.so" | packages; echo ibverbs-providers; } | sort -u >"$out/runtime.packages"

# The shared build, so that the plugin can be preloaded into it.
stock=$out/stock/opt/spdk
LD_LIBRARY_PATH=$(spdk_library_path "$spdk")
export LD_LIBRARY_PATH
programs=("$spdk/build/bin/spdk_tgt" "$spdk/build/examples/bdevperf")
for program in "${programs[@]}"; do put "$program" "$stock/bin/${program##*/}"; done
loaded=$(libraries "${programs[@]}")
grep "^$spdk/" <<<"$loaded" | while read -r path; do put "$path" "$stock/lib/${path##*/}"; done
grep -v "^$spdk/" <<<"$loaded" | packages >"$out/stock.packages"
