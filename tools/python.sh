#!/usr/bin/env bash
# Prints the first Python of at least 3.11 that can make a virtual environment.
# Usage: python.sh [COMMAND...]   (default: python3.13 python3.12 python3.11 python3)
set -euo pipefail

if [ "$#" -eq 0 ]; then
  set -- python3.13 python3.12 python3.11 python3
fi
without_venv=""
for candidate in "$@"; do
  # Run it: a shim of pyenv exists for versions that are not active, and only fails when run.
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v "$candidate"
      exit 0
    fi
    without_venv=${without_venv:-$candidate}
  fi
done

if [ -z "$without_venv" ]; then
  echo "No Python of at least 3.11 among: $*. Name one: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  version=$("$without_venv" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  echo "Installing $version-venv (Debian ships Python without it)" >&2
  install_venv() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "$version-venv" </dev/null >/dev/null 2>&1
  }
  if install_venv || { apt-get update -qq </dev/null >&2 && install_venv; }; then
    command -v "$without_venv"
    exit 0
  fi
fi
echo "$without_venv has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2
exit 1
