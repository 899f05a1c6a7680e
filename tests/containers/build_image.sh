#!/usr/bin/env bash
# Build the image and run commands in it on a machine without a container engine and without an image registry:
# Debian's buildah does the work, and debootstrap makes a stand-in for the base image, under the base's name.
#
#   build_image.sh build                   build the image, and make one container of it
#   build_image.sh inspect                 print the image's configuration
#   build_image.sh run [NAME=VALUE...] -- COMMAND...
#                                          run a command in it as the image's user, with these variables
#
# The stand-in is kept in the cache folder; making it takes a minute or more. Needs root.
set -euo pipefail

root="$(cd "$(dirname "$0")/../.." && pwd)"
cache="${CONTAINER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/experimentation-platform/containers}"
image="localhost/experimentation-platform:test"
container="experimentation-platform-test"
# What the real base has and a minimal Debian has not. A change here makes a new stand-in.
base_packages="ca-certificates,python3,python3-pip,python3-venv"
export BUILDAH_ISOLATION=chroot

run_buildah() {
  buildah --root "$cache/storage" --runroot "$cache/run" --storage-driver vfs "$@"
}

say() {
  echo "build_image: $*" >&2
}

base_name() {
  sed -n 's/^FROM \([^ ]*\) AS base$/\1/p' "$root/Dockerfile"
}

# Where this machine's own apt gets its packages; nothing if it is no Debian of this release.
mirror_of() { # release
  # shellcheck disable=SC2016 # It is apt that fills this in.
  apt-get indextargets --format '$(REPO_URI)' "Release: $1" "Component: main" 2>/dev/null | head -n 1 || true
}

make_base() {
  local name release stand_in scratch folder
  name="docker.io/library/$(base_name)"
  release="${name##*-}"
  stand_in="localhost/stand-in:$(echo "$release,$base_packages" | sha256sum | cut -c 1-16)"
  if ! run_buildah inspect --type image "$stand_in" >/dev/null 2>&1; then
    say "making a stand-in for $name"
    scratch="$(run_buildah from scratch)"
    folder="$(run_buildah mount "$scratch")"
    # shellcheck disable=SC2046 # No mirror, no argument: debootstrap then takes its own.
    debootstrap --variant=minbase --include="$base_packages" "$release" "$folder" $(mirror_of "$release") \
      >"$cache/debootstrap.log" 2>&1 || { tail -n 20 "$cache/debootstrap.log" >&2; exit 1; }
    ln -s /usr/bin/python3 "$folder/usr/local/bin/python"
    rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
    run_buildah umount "$scratch" >/dev/null
    run_buildah commit --quiet --rm "$scratch" "$stand_in" >/dev/null
  fi
  run_buildah tag "$stand_in" "$name"
}

# pip inside the build reaches packages the way pip on this machine does. Nothing of it stays in the image.
write_pip_options() { # folder
  python3 - "$1" <<'PYTHON'
import ast, pathlib, subprocess, sys

folder = pathlib.Path(sys.argv[1])
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
options = dict(line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
values = {name.rpartition(".")[2]: ast.literal_eval(value) for name, value in options.items()}
lines = ["[global]"]
mounts = [f"{folder}/pip.conf:/etc/pip.conf:ro"]
for name, value in values.items():
    lines.append(f"{name} = " + value.replace("\n", "\n    "))
    mounts += [f"{path}:{path}:ro" for path in value.split() if path.startswith("/") and pathlib.Path(path).exists()]
(folder / "pip.conf").write_text("\n".join(lines) + "\n")
(folder / "volumes").write_text("".join(f"--volume={mount}\n" for mount in mounts))
PYTHON
}

build() {
  local options volumes
  make_base
  options="$(mktemp -d)"
  # shellcheck disable=SC2064 # The variable is gone by then.
  trap "rm -rf '$options'" EXIT
  write_pip_options "$options"
  mapfile -t volumes <"$options/volumes"
  # The format is Docker's, because the other one has no HEALTHCHECK.
  TMPDIR="$cache/tmp" run_buildah build --pull-never --network host --format docker "${volumes[@]}" --quiet \
    --tag "$image" "$root" >&2
  # What the tag named before.
  run_buildah rmi --prune >/dev/null
  run_buildah from --pull-never --name "$container" "$image" >/dev/null
}

run() {
  local variables=()
  while [[ $# -gt 0 && "$1" != -- ]]; do
    variables+=(--env "$1")
    shift
  done
  shift
  run_buildah run --network host "${variables[@]}" "$container" -- "$@"
}

mkdir -p "$cache/tmp"
case "${1:-}" in
  build)
    # Of the last build, or left over from one that was killed.
    run_buildah rm --all >/dev/null
    build
    ;;
  inspect) run_buildah inspect --type image "$image" ;;
  run) shift && run "$@" ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
