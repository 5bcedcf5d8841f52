#!/usr/bin/env bash
# make e2e, make e2e-all: the stories of tests/kubernetes on a real cluster, which comes and goes with this script.
#   .ci/e2e.sh core|all [FILTER...]      FILTER: words that are part of the stories' names
#   E2E_KUBECONFIG=... E2E_REGISTRY=...  on a cluster that is there instead, which pulls from that registry
#   PROFILE=dev                          images that are quick to build
# A story that fails leaves its artefacts in target/e2e; so do the logs of the nodes.
set -euo pipefail
cd "$(dirname "$0")/.."
export CLUSTER_ID=${CLUSTER_ID:-0}
BIN=${CLUSTER_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/vsecm-cluster/bin}
PROFILE=${PROFILE:-release}
images=target/images
[ "$PROFILE" = release ] || images=target/images-$PROFILE
started=$SECONDS

die() { echo "e2e: $*" >&2; exit 1; }
step() { echo "== e2e: $* (after $((SECONDS - started)) s)"; }

case ${1:-} in
  core) flags=() ;;
  all) flags=(--include-ignored) ;;
  *) sed -n '2,/^set -/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
shift
filters=("$@")
[ -z "${E2E_KUBECONFIG:-}" ] || [ -n "${E2E_REGISTRY:-}" ] || die "E2E_KUBECONFIG needs E2E_REGISTRY, where that cluster pulls from"
[ -n "${E2E_KUBECONFIG:-}" ] || [ "$(id -u)" = 0 ] || die "a cluster of its own needs root; or E2E_KUBECONFIG and E2E_REGISTRY"

# A cluster that is up is somebody's, and the end of this script would take it down. Whoever holds the lock uses it; the
# processes of the cluster must not inherit it (9>&-).
if [ -z "${E2E_KUBECONFIG:-}" ]; then
  mkdir -p /var/lib/vsecm-cluster
  exec 9>"/var/lib/vsecm-cluster/$CLUSTER_ID.lock"
  flock --nonblock 9 || die "another run of the stories uses cluster $CLUSTER_ID; CLUSTER_ID=1 (0 to 9) chooses another one"
  ! tests/cluster/cluster running || die "cluster $CLUSTER_ID is up: end it (CLUSTER_ID=$CLUSTER_ID make cluster-down), or choose another by CLUSTER_ID"
fi

packages() { # what is missing, as Debian calls it
  local want=(gcc:gcc python3:python3 busybox:busybox-static) one
  [ -n "${E2E_KUBECONFIG:-}" ] || want+=(containerd:containerd runc:runc iptables:iptables conntrack:conntrack openssl:openssl
    ip:iproute2 nsenter:util-linux /usr/lib/cni/bridge:containernetworking-plugins)
  for one in "${want[@]}"; do command -v "${one%%:*}" >/dev/null || echo "${one##*:}"; done
}
mapfile -t missing < <(packages)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    step "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    die "missing, by the names of Debian's packages: ${missing[*]}"
  fi
fi

step "programs of the cluster"
if [ -n "${E2E_KUBECONFIG:-}" ]; then tests/cluster/build kubectl helm registry crane spire-server spire-agent spire-controller-manager test-images
else tests/cluster/build; fi
export PATH=$BIN:$PATH
step "csi-sanity"
[ -n "${E2E_KUBECONFIG:-}" ] || .ci/sanity.sh
step "images"
PROFILE=$PROFILE TAG=e2e .ci/images.sh
step "the images in a registry"
IMAGES=$images .ci/push-test.sh
step "chart"
.ci/chart.sh
step "stories are built"
# the whole workspace, as in make test: else dependencies are built again with other features
stories=(cargo test --locked --workspace --features vsecm-tests/kubernetes --test kubernetes)
"${stories[@]}" --no-run

rm -rf target/e2e
mkdir -p target/e2e
export VSECM_E2E_TAG=e2e
finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM # make hands on what its group has got already: twice must not end the clean-up
  if [ -z "${E2E_KUBECONFIG:-}" ]; then
    if [ $status != 0 ]; then tests/cluster/cluster logs target/e2e/cluster || true; fi
    tests/cluster/cluster down || status=1
  fi
  [ $status = 0 ] || echo "e2e: failed; what is left of it is in target/e2e" >&2
  step "end"
  exit $status
}

# a signal without a trap of its own would leave the status of a success
trap 'exit 130' INT
trap 'exit 143' TERM
if [ -n "${E2E_KUBECONFIG:-}" ]; then
  trap finish EXIT
  export KUBECONFIG=$E2E_KUBECONFIG VSECM_E2E_REGISTRY=$E2E_REGISTRY
  step "pushing to $E2E_REGISTRY"
  push() { REGISTRY=$E2E_REGISTRY TAG=$1 .ci/push.sh "${@:2}"; }
  tests/cluster/spire archives >/dev/null
  push e2e "$images"/*.tar
  push 1.13.3 "$BIN/spire-server.tar" "$BIN/spire-agent.tar"
  push 0.6.3 "$BIN/spire-controller-manager.tar"
  push 1.35 "$BIN/busybox.tar"
  # that cluster pulls; Always, as the tag is the same each time. Its kubelets may have signed their certificates themselves,
  # as kubeadm's do
  sed "s#registry\.local#$E2E_REGISTRY#g; s#pullPolicy: Never#pullPolicy: Always#; s#verification: clusterCA#verification: skip#" \
    tests/cluster/values-e2e.yaml > target/e2e/values.yaml
  export VSECM_E2E_VALUES=$PWD/target/e2e/values.yaml VSECM_E2E_BUSYBOX=$E2E_REGISTRY/busybox:1.35
  unset VSECM_CLUSTER
  if helm status vsecm --namespace vsecm-system >/dev/null 2>&1; then
    step "uninstalling what an earlier run has left: its pods have the images of then"
    helm uninstall vsecm --namespace vsecm-system --no-hooks --wait --timeout 3m
  fi
else
  step "cluster $CLUSTER_ID"
  trap finish EXIT
  tests/cluster/cluster up 2 9>&-
  tests/cluster/cluster load "$images"/*.tar
  tests/cluster/spire images
  eval "$(tests/cluster/cluster env)"
  export VSECM_E2E_REGISTRY=registry.local VSECM_CLUSTER=$PWD/tests/cluster/cluster
fi
step "stories"
"${stories[@]}" -- --test-threads=1 "${flags[@]}" "${filters[@]}" 9>&-
