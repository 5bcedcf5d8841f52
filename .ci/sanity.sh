#!/usr/bin/env bash
# csi-sanity, the suite of Kubernetes for CSI drivers, against the real processes without a cluster: all its specs of the
# Identity and the Node service. make e2e begins with it; it needs Go, or a csi-sanity that tests/cluster/build has built.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/cluster/build csi-sanity
cargo build --locked --workspace --bins
cargo test --locked --workspace --test stories --no-run
enter=(unshare --mount --propagation private)
[ "$(id -u)" = 0 ] || enter=(unshare --user --map-root-user --mount --propagation private)
"${enter[@]}" cargo test --locked --workspace --test stories csi_sanity -- --include-ignored
