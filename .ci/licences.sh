#!/usr/bin/env bash
# Where cargo-deny is not at hand: every package that is linked has a licence from the list in deny.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
allowed=$(sed -n '/^allow = \[/,/^\]/p' deny.toml | grep -oE '"[^"]+"' | tr -d '"')
[ -n "$allowed" ] || { echo "licences: deny.toml has no list" >&2; exit 1; }
failed=0
allowed_all() { # LICENCES, one a line: are all of them allowed?
  while read -r one; do grep -qxF "$one" <<<"$allowed" || return 1; done
}
while IFS='|' read -r licence package; do
  ok=no
  if [[ $licence == *"("* ]]; then # nested: no evaluation, every licence in it must be allowed
    if tr -d '()' <<<"$licence" | sed 's/ \(AND\|OR\) /\n/g' | allowed_all; then ok=yes; fi
  else # one alternative must be allowed with all of its parts
    while read -r alternative; do
      if allowed_all <<<"${alternative// AND /$'\n'}"; then ok=yes; fi
    done < <(sed 's/ OR /\n/g; s, */ *,\n,g' <<<"$licence")
  fi
  if [ $ok = no ]; then echo "licences: $package has '$licence'" >&2; failed=1; fi
done < <(cargo tree --locked --workspace -e normal,build --prefix none --format '{l}|{p}' | sed 's/ (\*)$//' | grep -v '^$' | sort -u)
exit $failed
