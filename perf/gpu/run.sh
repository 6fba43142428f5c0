#!/usr/bin/env bash
# Unpack what pack.sh packed into an environment of its own, and run python -m perf.gpu in it.
#
#   perf/gpu/run.sh FOLDER ENGINE_PYTHON RESULTS [OPTION...]
#
# FOLDER: what pack.sh wrote. ENGINE_PYTHON: a Python with vLLM. RESULTS: where the results go. OPTION: see
# python -m perf.gpu --help. PYTHON: the Python 3.12 to use (python3). GATEWAY: where the environment is made.
set -euo pipefail

if [[ $# -lt 3 ]]; then
    sed -n '2,7s/^# \?//p' "$0"
    exit 2
fi
packed=$(realpath "$1")
gateway=${GATEWAY:-/tmp/vllm-engine-gateway}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ ! -e $gateway/complete ]]; then
    "${PYTHON:-python3}" -m venv --clear --without-pip "$gateway"
    tar -xJf "$packed/gateway.tar.xz" -C "$gateway/lib/python3.12/site-packages"
    "$gateway/bin/python" -m compileall -q -j 0 "$gateway/lib/python3.12/site-packages" || true
    touch "$gateway/complete"
fi
exec "$gateway/bin/python" -m perf.gpu --engine-python "$2" --results "$3" "${@:4}"
