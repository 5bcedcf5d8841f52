#!/usr/bin/env bash
# make test: units and stories. Stories mount FUSE volumes: as root in a mount namespace of their
# own, so that a run that is killed leaves nothing; as an ordinary user in a user namespace.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --workspace --bins
cargo test --locked --workspace --no-run

if [ "$(id -u)" = 0 ]; then
  enter=(unshare --mount --propagation private)
else
  enter=(unshare --user --map-root-user --mount --propagation private)
fi
if ! "${enter[@]}" true; then
  echo "make test: cannot enter a namespace for the mounts of the tests (${enter[*]});" >&2
  echo "run it as root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)" >&2
  exit 1
fi
"${enter[@]}" cargo test --locked --workspace
