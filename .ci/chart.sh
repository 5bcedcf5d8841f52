#!/usr/bin/env bash
# make chart: lint, and the tests of what the chart renders. Needs Helm 3: on the path, or built by tests/cluster/build.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:${CLUSTER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/vsecm-cluster/bin}
command -v helm >/dev/null || { echo "make chart: there is no helm: install Helm 3, or run tests/cluster/build" >&2; exit 1; }

# a Helm that is built from its module claims an ancient Kubernetes
helm lint --strict --quiet charts/vsecm --kube-version v1.34.0 --set image.registry=registry.example.com/vsecm
helm lint --strict --quiet charts/vsecm --kube-version v1.34.0 --values tests/cluster/values-e2e.yaml
cargo test --locked --workspace --features vsecm-tests/chart --test chart
