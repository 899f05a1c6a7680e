#!/usr/bin/env bash
# Write .env: .env.example with every secret of the container stack filled in at random.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -e .env ]]; then
  echo ".env is there already and stays as it is; move it away to get a new one" >&2
  exit 1
fi

random() {
  head -c 24 /dev/urandom | od -An -v -t x1 | tr -d ' \n'
}

umask 077
trap "rm -f .env.unfinished" EXIT
while IFS= read -r line; do
  case "$line" in
    SECRET_KEY= | METRICS_TOKEN= | *_PASSWORD=) line+="$(random)" ;;
  esac
  printf '%s\n' "$line"
done <.env.example >.env.unfinished
mv .env.unfinished .env
echo "wrote .env with random secrets, readable by you alone"
