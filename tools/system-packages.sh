#!/usr/bin/env bash
# Installs the system packages of the tests (Slurm, shellcheck, chromium) on Debian and Ubuntu as
# root; elsewhere says what is missing and succeeds, because the tests that need it are skipped.
set -euo pipefail

slurm=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core)
# PATH of an ordinary user lacks the folders of the daemons.
PATH="$PATH:/usr/sbin:/sbin"

missing=()
for command in slurmctld slurmd sbatch munged slurmdbd mariadbd mariadb; do
  if ! command -v "$command" >/dev/null; then
    missing+=("${slurm[@]}")
    break
  fi
done
command -v shellcheck >/dev/null || missing+=(shellcheck)
if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
  missing+=(chromium)
fi

if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "MISSING: ${missing[*]}. Their tests are skipped; on Debian or Ubuntu run this as root." >&2
  exit 0
fi

install_packages() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >"$log" 2>&1
}

# Installing must start no daemon of the machine: the tests start their own. A policy that is
# there already is the machine owner's and stays.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
cleanup() {
  rm -f "$log"
  if [ -n "${own_policy:-}" ]; then rm -f "$policy"; fi
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
  own_policy=1
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

echo "Installing system packages for the tests: ${missing[*]}"
# The lists are fetched only where the packages cannot be had with those at hand.
if ! install_packages; then
  apt-get update -qq </dev/null
  if ! install_packages; then
    cat "$log" >&2
    echo "apt-get could not install: ${missing[*]}" >&2
    exit 1
  fi
fi
