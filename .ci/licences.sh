#!/usr/bin/env bash
# Where cargo-deny is not at hand: every package that is linked has a licence from the list in deny.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
allowed=$(sed -n '/^allow = \[/,/^\]/p' deny.toml | grep -oE '"[^"]+"' | tr -d '"')
[ -n "$allowed" ] || { echo "licences: deny.toml has no list" >&2; exit 1; }
failed=0
while IFS='|' read -r licence package; do
  # one alternative of an OR must be allowed; what stands with AND must be allowed as a whole
  ok=no
  while read -r alternative; do
    rest=yes
    while read -r one; do
      grep -qxF "$one" <<<"$allowed" || rest=no
    done < <(sed 's/ AND /\n/g' <<<"$alternative" | tr -d '()' | sed 's/^ *//;s/ *$//')
    [ $rest = yes ] && ok=yes
  done < <(sed 's/ OR /\n/g; s,/,\n,g' <<<"$licence")
  if [ $ok = no ]; then echo "licences: $package has '$licence'" >&2; failed=1; fi
done < <(cargo tree --locked --workspace -e normal,build --prefix none --format '{l}|{p}' | sed 's/ (\*)$//' | sort -u)
exit $failed
