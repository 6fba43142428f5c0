#!/usr/bin/env bash
# Install the Debian packages that some tests need and that neither PyPI nor npm has:
#
#   tools/debian.sh COMMAND:PACKAGE...     for example chromium:chromium promtool:prometheus
#
# A command that is there already needs nothing. Elsewhere than as root on a Debian-like system nothing is installed,
# and the tests that need it say so and are skipped; so this never fails a set-up that has no need of it.
set -euo pipefail

missing=()
for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [[ ${#missing[@]} -eq 0 ]]; then exit 0; fi

if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    printf 'NOT INSTALLED (needs root and apt-get): %s; tests that need them are skipped\n' "${missing[*]}" >&2
    exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
printf '%4d s  Debian packages: %s\n' "$SECONDS" "${missing[*]}"
# RUNLEVEL=1: no service of a package starts on the machine of whoever runs the tests.
if ! {
    apt-get update &&
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends "${missing[@]}"
} >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    printf 'NOT INSTALLED: %s; tests that need them are skipped\n' "${missing[*]}" >&2
    exit 0
fi
printf '%4d s  Debian packages: ready\n' "$SECONDS"
