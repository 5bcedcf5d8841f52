#!/usr/bin/env bash
# make check: needs Rust alone.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
# the stories on a cluster and of the chart are compiled too: to run them takes more than Rust
cargo clippy --locked --workspace --all-targets --features vsecm-tests/kubernetes,vsecm-tests/chart -- -D warnings
.ci/edges.sh
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --locked --offline check bans licenses sources
else
  .ci/licences.sh
fi
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
echo "check: all good"
