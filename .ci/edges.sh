#!/usr/bin/env bash
# The architecture, held by a machine: who may link what, which modules are pure, what lies at the top.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
fail() { echo "edges: $*" >&2; failed=1; }

# links CRATE PACKAGE: does CRATE, as it is shipped, contain PACKAGE?
links() { cargo tree --locked -p "$1" -e normal --prefix none --format '{p}' | grep -qE "^$2 v"; }
bans() { local crate=$1 package; shift; for package in "$@"; do
  if links "$crate" "$package"; then fail "$crate must not link $package"; fi; done; }

bans vsecm-csi            vsecm-safe vsecm-safe-api vsecm-node-agent age aes-gcm spiffe spiffe-rustls spire-api fuser kube
bans vsecm-node-agent-api vsecm-safe vsecm-safe-api age aes-gcm spiffe fuser kube
bans vsecm-node-agent     vsecm-safe vsecm-csi age aes-gcm
bans vsecm-safe-api       vsecm-safe vsecm-node-agent-api age aes-gcm fuser kube
bans vsecm-safe           vsecm-node-agent vsecm-node-agent-api vsecm-csi fuser spire-api
bans vsecm-sentinel       vsecm-safe vsecm-node-agent vsecm-node-agent-api vsecm-csi age aes-gcm fuser kube spire-api
bans vsecm-tests          vsecm-safe vsecm-node-agent age aes-gcm fuser kube

# state machines and parsers do no I/O
pure=(safe/src/entry.rs safe/src/vault.rs safe/src/policy.rs
      safe/src/deliveries/registry/mod.rs safe/src/deliveries/watches.rs safe/src/deliveries/report.rs safe/src/deliveries/token.rs
      safe/api/src/name.rs safe/api/src/position.rs safe/api/src/role/mod.rs safe/api/src/role/account.rs safe/api/src/state.rs safe/api/src/value.rs
      node-agent/src/json.rs node-agent/src/yaml.rs node-agent/src/tree/mod.rs node-agent/src/tree/plan.rs node-agent/api/src/items.rs csi/src/publish/mod.rs csi/src/mount/mountinfo.rs)
for module in "${pure[@]}"; do
  [ -f "$module" ] || { fail "$module is gone: update .ci/edges.sh"; continue; }
  # tests, which stand last, may do what they like
  if sed '/#\[cfg(test)\]/,$d' "$module" | grep -nE '\b(tokio|tonic|fuser|hyper|std::fs|std::net)(::|;)'; then
    fail "$module must stay pure"
  fi
done

top="Cargo.lock Cargo.toml CHANGELOG.md Dockerfile LICENSE Makefile README.md charts clippy.toml csi deny.toml docs node-agent rust-toolchain.toml rustfmt.toml safe sentinel tests"
found=$(printf '%s\n' * | grep -vx target | LC_ALL=C sort | tr '\n' ' ')
want=$(tr ' ' '\n' <<<"$top" | LC_ALL=C sort | tr '\n' ' ')
[ "$found" = "$want" ] || fail "the top level holds: $found, wanted: $want"

exit $failed
