#!/usr/bin/env bash
# Pack the gateway for a machine without network: its locked packages and this checkout's wheel, for CPython 3.12 on x86-64.
#
#   perf/gpu/pack.sh FOLDER
#
# Carry this checkout and FOLDER to the machine, and run there: perf/gpu/run.sh FOLDER ENGINE_PYTHON RESULTS [OPTION...]
set -euo pipefail

if [[ $# != 1 || $1 == -* ]]; then
    sed -n '2,6s/^# \?//p' "$0"
    exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scripts/setup.sh gateway
mkdir -p "$1"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for_the_machine=(--quiet --no-deps --python-version 3.12 --python-platform x86_64-manylinux_2_28 --target "$site")
export UV_COMPILE_BYTECODE=0
scripts/uv.sh pip install "${for_the_machine[@]}" --require-hashes --only-binary :all: -r requirements/gateway.txt
# uv would take a wheel of this checkout as it was.
scripts/uv.sh pip install "${for_the_machine[@]}" --refresh-package vllm-engine .
# Its entry says which folder it was built in.
find "$site" \( -name direct_url.json -o -name "*.pyi" \) -delete
# What is carried should be small: no debugging symbols, no sources of what was compiled.
find "$site" -name '*.so' -exec strip --strip-debug {} +
find "$site" \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete
tar -cJf "$1/gateway.tar.xz" --sort=name --owner=0 --group=0 -C "$site" .
echo "packed $1/gateway.tar.xz: $(($(stat -c %s "$1/gateway.tar.xz") >> 10)) KiB"
