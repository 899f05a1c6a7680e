#!/usr/bin/env bash
# Renew the pinned requirements: versions and hashes only, no index lines.
set -euo pipefail
cd "$(dirname "$0")"
for name in run dev; do
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --custom-compile-command "requirements/compile.sh" "$@" "$name.in" -o "$name.txt"
done
