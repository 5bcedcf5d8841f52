#!/usr/bin/env bash
# make push: pushes the archives of `make images` to REGISTRY, under TAG (default: the version of the workspace).
# `crane` does it: from PATH, else built once from tests/cluster/tools (needs Go); `crane auth login` is for its user.
#   REGISTRY=registry.example.com/vsecm [TAG=...] [INSECURE=1 for plain http] .ci/push.sh [ARCHIVE...]
set -euo pipefail
cd "$(dirname "$0")/.."

[ -n "${REGISTRY:-}" ] || { echo "push: REGISTRY is missing, such as REGISTRY=registry.example.com/vsecm" >&2; exit 2; }
TAG=${TAG:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
archives=("$@")
[ $# -gt 0 ] || archives=(target/images/*.tar)
[ -r "${archives[0]}" ] || { echo "push: no archives in target/images: make images" >&2; exit 1; }

crane=$(command -v crane) || {
  tests/cluster/build crane
  crane=${CLUSTER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/vsecm-cluster/bin}/crane
}
layout=$(mktemp -d)
trap 'rm -rf "$layout"' EXIT

for archive in "${archives[@]}"; do
  # crane reads layouts as folders, not as archives
  rm -rf "${layout:?}"/*
  tar -xf "$archive" -C "$layout"
  "$crane" push ${INSECURE:+--insecure} "$layout" "$REGISTRY/$(basename "$archive" .tar):$TAG"
done
