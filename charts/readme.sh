#!/usr/bin/env bash
# Makes the table of values in vsecm/README.md from the comments of vsecm/values.yaml.
#   charts/readme.sh           writes the README
#   charts/readme.sh --print   prints what it would be
set -euo pipefail
cd "$(dirname "$0")/vsecm"

table() { # a value's comment stands above it; a key without a value is a path to others
  awk '
    BEGIN { print "| value | default | |"; print "|---|---|---|" }
    /^ *#/ { sub(/^ *# ?/, ""); about = about == "" ? $0 : about " " $0; next }
    match($0, /^ *[A-Za-z]+:/) {
      key = substr($0, 1, RLENGTH - 1); value = substr($0, RLENGTH + 2)
      depth = 0; while (substr(key, depth + 1, 1) == " ") depth++
      sub(/^ +/, "", key); depth /= 2; path[depth] = key
      if (value != "") {
        name = path[0]; for (i = 1; i <= depth; i++) name = name "." path[i]
        gsub(/\|/, "\\|", value)
        if (about == "") { print "no comment above " name > "/dev/stderr"; bad = 1 }
        print "| `" name "` | `" value "` | " about " |"
      }
      about = ""; next
    }
    { about = "" }
    END { exit bad }
  ' values.yaml
}

whole() {
  sed '/^<!-- values -->$/q' README.md
  echo
  table
  echo
  sed -n '/^<!-- end of values -->$/,$p' README.md
}

made=$(whole; echo .)
made=${made%.}
if [ "${1:-}" = --print ]; then printf %s "$made"; else printf %s "$made" > README.md; fi
