#!/usr/bin/env bash
# Unpack what pack.sh packed into an environment of its own, and run python -m perf.gpu in it.
#
#   perf/gpu/run.sh FOLDER ENGINE_PYTHON RESULTS [OPTION...]
#
# FOLDER: what pack.sh wrote. ENGINE_PYTHON: a Python with vLLM. RESULTS: where the results go. OPTION: see
# python -m perf.gpu --help. PYTHON: the Python 3.12 to use (python3). GATEWAY: where the environment is made.
set -euo pipefail

refuse() {
    echo "run.sh: $1" >&2
    exit 2
}

if [[ $# -lt 3 ]]; then
    sed -n '2,7s/^# \?//p' "$0"
    exit 2
fi
[[ -f $1/gateway.tar.xz ]] || refuse "FOLDER=$1: expected a folder with gateway.tar.xz, which perf/gpu/pack.sh writes"
packed=$(realpath "$1/gateway.tar.xz")
gateway=${GATEWAY:-/tmp/vllm-engine-gateway} python=${PYTHON:-python3}
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found="no Python"
[[ $found == 3.12 ]] || refuse "PYTHON=$python: expected Python 3.12, for which the gateway was packed; it is $found"
[[ ! -e $gateway || -f $gateway/pyvenv.cfg ]] || refuse "GATEWAY=$gateway: expected an environment, or nothing yet"

sum=$(sha256sum "$packed") # its path too
if [[ $(cat "$gateway/complete" 2>/dev/null) != "$sum" ]]; then
    "$python" -m venv --clear --without-pip "$gateway"
    tar -xJf "$packed" -C "$gateway/lib/python3.12/site-packages"
    "$gateway/bin/python" -m compileall -q -j 0 "$gateway/lib/python3.12/site-packages" || true
    echo "$sum" >"$gateway/complete"
fi
# Not by cd: paths are the caller's.
PYTHONPATH=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
export PYTHONPATH
exec "$gateway/bin/python" -m perf.gpu --engine-python "$2" --results "$3" "${@:4}"
