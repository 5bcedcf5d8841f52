#!/usr/bin/env bash
# Pushes the images to a registry that runs for this test alone, and asks it for what it has: the digests must be those
# of the archives, and every layer must be whole.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${CLUSTER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/vsecm-cluster/bin}
IMAGES=${IMAGES:-target/images}
tests/cluster/build registry crane

work=$(mktemp -d)
registry=
cleanup() {
  if [ -n "$registry" ]; then kill "$registry"; wait "$registry" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/config.yml" <<T
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/data}}
http: {addr: "127.0.0.1:$port"}
T
OTEL_TRACES_EXPORTER=none "$BIN/registry" serve "$work/config.yml" > "$work/log" 2>&1 &
registry=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "$registry" 2>/dev/null || { echo "push-test: the registry does not run:" >&2; cat "$work/log" >&2; exit 1; }
  sleep 0.1
done

PATH=$BIN:$PATH REGISTRY=127.0.0.1:$port/vsecm TAG=test .ci/push.sh "$IMAGES"/*.tar > /dev/null
for archive in "$IMAGES"/*.tar; do
  name=$(basename "$archive" .tar)
  want=$(tar -xOf "$archive" index.json | python3 -c 'import json, sys; print(json.load(sys.stdin)["manifests"][0]["digest"])')
  manifest=$("$BIN/crane" manifest "127.0.0.1:$port/vsecm/$name:test")
  found=sha256:$(printf %s "$manifest" | sha256sum | cut -d' ' -f1)
  [ "$want" = "$found" ] || { echo "push-test: $name is $found in the registry, $want in $archive" >&2; exit 1; }
  # config and layer too, each held against its digest
  "$BIN/crane" validate --remote "127.0.0.1:$port/vsecm/$name:test" > /dev/null
  echo "$name $want"
done
echo "push-test: all good"
