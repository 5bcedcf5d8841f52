#!/usr/bin/env bash
# make chaos: in a mount namespace of its own, so that a run that is killed leaves nothing; an ordinary user gets a user
# namespace by the program itself.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" = 0 ]; then exec unshare --mount --propagation private target/debug/vsecm-chaos "$@"; fi
exec target/debug/vsecm-chaos "$@"
