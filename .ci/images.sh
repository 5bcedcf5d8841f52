#!/usr/bin/env bash
# make images: static binaries, and an OCI archive of each image in target/images; no container engine is needed.
#   REGISTRY=registry.local TAG=<version of the workspace>   what the images are called
#   PROFILE=release|dev     dev: quick to build, into target/images-dev; sizes are not held against their bars
# Needs Rust, python3, and a static busybox for sentinel's shell (Debian: busybox-static).
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=x86_64-unknown-linux-gnu
REGISTRY=${REGISTRY:-registry.local}
TAG=${TAG:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
PROFILE=${PROFILE:-release}
case $PROFILE in
  release) out=target/images built=target/$TARGET/release level=9 flags=(--release) ;;
  dev) out=target/images-dev built=target/$TARGET/debug level=1 flags=(--config 'profile.dev.strip="debuginfo"') ;;
  *) echo "images: PROFILE is $PROFILE, wanted: release or dev" >&2; exit 2 ;;
esac

[ "$(uname -m)" = x86_64 ] || { echo "images: amd64 alone for now, and this machine is $(uname -m)" >&2; exit 1; }
command -v python3 >/dev/null || { echo "images: python3 writes the archives and is missing" >&2; exit 1; }
busybox=$(command -v busybox) || busybox=/missing
if ! [ -x "$busybox" ] || readelf -l "$busybox" 2>/dev/null | grep -q INTERP; then
  echo "images: sentinel's image has a shell and needs a static busybox (Debian: apt-get install busybox-static)" >&2; exit 1
fi

# no tables for unwinding: a panic aborts, and stripped binaries have no names to print
rustflags='["-C","target-feature=+crt-static","-C","force-unwind-tables=no"]'
[ "$PROFILE" = release ] || rustflags='["-C","target-feature=+crt-static"]'
cargo build --locked "${flags[@]}" --target $TARGET --config "target.$TARGET.rustflags=$rustflags" \
  -p vsecm-safe -p vsecm-sentinel -p vsecm-node-agent -p vsecm-csi --bins
mkdir -p "$out"

failed=0
bar() { # BINARY MEGABYTES
  local size; size=$(stat -c %s "$built/$1")
  printf '%-17s %8d kB of %5d kB\n' "$1" $((size / 1000)) $(($2 * 1000))
  if [ $((size)) -gt $(($2 * 1000000)) ]; then
    echo "images: $1 has $size bytes, its bar is $2 MB: see what was linked (cargo bloat), or argue for a higher bar in .ci/images.sh" >&2
    failed=1
  fi
}
if [ "$PROFILE" = release ]; then
  bar vsecm-csi 8; bar vsecm-node-agent 12; bar vsecm-safe 16; bar vsecm-keeper 2
fi

image() { # NAME UID:GID FLAGS OF mkimage.py...
  local name=$1 user=$2; shift 2
  .ci/mkimage.py "$out/$name.tar" "$REGISTRY/$name:$TAG" --level $level --user "$user" "$@"
}
image vsecm-safe       61001:61001 --file "$built/vsecm-safe:/vsecm-safe"             --entrypoint /vsecm-safe
image vsecm-node-agent 61003:0     --file "$built/vsecm-node-agent:/vsecm-node-agent" --entrypoint /vsecm-node-agent
image vsecm-csi        0:0         --file "$built/vsecm-csi:/vsecm-csi"               --entrypoint /vsecm-csi
image vsecm-keeper     61004:61004 --file "$built/vsecm-keeper:/vsecm-keeper"         --entrypoint /vsecm-keeper

links=()
for command in $("$busybox" --list); do
  [ "$command" = busybox ] || links+=(--link "busybox:/bin/$command")
done
image vsecm-sentinel 61002:61002 --file "$busybox:/bin/busybox" "${links[@]}" --dir /tmp \
  --file "$built/safe:/bin/safe" --file "$built/vsecm-sentinel:/bin/vsecm-sentinel" --entrypoint /bin/vsecm-sentinel

ls "$out"/*.tar
exit $failed
