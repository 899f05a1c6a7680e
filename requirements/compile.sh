#!/usr/bin/env bash
# Renew the pinned requirements: versions and hashes only, no index lines.
set -euo pipefail
cd "$(dirname "$0")"
compile() { # name, further options
  local name="$1"
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --custom-compile-command "requirements/compile.sh" "$@" "$name.in" -o "$name.txt"
}
compile run "$@"
compile dev "$@"
# The image's part of the lock: the same versions, less the embedded servers.
compile service --constraint run.txt --no-annotate
