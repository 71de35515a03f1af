#!/usr/bin/env bash
# What Courier depends on: is all of it used, and may all of it be given away with Courier?
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/check-dependencies.sh [--help]

Fails when a crate of the workspace names a dependency that it does not use (cargo-machete, which is built into
Courier's cache at first), or when a dependency of any crate, as Cargo resolved it, has a licence that is not on the
list in this script.
TEXT
}

case ${1:-} in
    "") ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option '$1'" ;;
esac

MACHETE_VERSION=0.9.2
# Licences that a program under Apache-2.0 OR MIT may be linked with and given away under. Of "A OR B" one must be here, of "A AND B" both.
PERMITTED='^(Apache-2\.0|MIT|BSD-2-Clause|BSD-3-Clause|ISC|Zlib|Unicode-3\.0|Unlicense)$'

# permitted LICENCE: whether an SPDX expression, without its parentheses, can be kept by the permitted licences alone.
permitted() {
    local part choice any
    # AND binds less than OR in what remains when "(A OR B) AND C" has lost its parentheses, which is the only nesting in use.
    while read -r part; do
        any=
        while read -r choice; do
            if [[ $choice =~ $PERMITTED ]]; then any=1; fi
        done <<<"${part// OR /$'\n'}"
        [ -n "$any" ] || return 1
    done < <(sed 's/[()]//g; s/ \?\/ \?/ OR /g; s/ AND /\n/g' <<<"$1")
}

need_cargo
cd "$COURIER_ROOT"

BAD=
for MANIFEST in Cargo.toml vfio-user-ctrl/fuzz/Cargo.toml; do
    TREE=$(cargo tree --quiet --locked --manifest-path "$MANIFEST" --workspace --edges normal,build,dev --prefix none --no-dedupe --format '{p}|{l}') ||
        die "cargo tree failed for $MANIFEST"
    COUNT=0
    while IFS='|' read -r CRATE LICENCE; do
        [ -n "$CRATE" ] || continue # between the crates of the workspace
        COUNT=$((COUNT + 1))
        permitted "$LICENCE" || { echo "$CRATE: the licence '${LICENCE:-(none)}' is not on the list in $0" >&2; BAD=1; }
    done < <(printf '%s\n' "$TREE" | sed 's/ (.*|/|/' | sort -u)
    [ "$COUNT" -gt 0 ] || die "cargo tree lists no dependency for $MANIFEST"
    echo "$MANIFEST: licences of $COUNT crates looked at"
done
[ -z "$BAD" ] || die "dependencies with licences that are not permitted (above)"

MACHETE=$COURIER_CACHE/tools/cargo-machete-$MACHETE_VERSION
if [ ! -x "$MACHETE/bin/cargo-machete" ]; then
    say "    building cargo-machete $MACHETE_VERSION (about a minute)"
    mkdir -p "$COURIER_CACHE/tools"
    run_logged "$COURIER_CACHE/tools/cargo-machete.log" \
        cargo install --locked --version "$MACHETE_VERSION" --root "$MACHETE" cargo-machete
fi
"$MACHETE/bin/cargo-machete" --skip-target-dir . || die "dependencies that are named and not used (above)"
