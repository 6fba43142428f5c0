#!/bin/sh
# Start the image in the background: on NVIDIA GPUs with Qwen/Qwen2.5-3B-Instruct, unless TARGET=cpu.
#
#   scripts/run_image.sh [--help]
#
#   TARGET=cuda|cpu          which image (cuda): cuda is refused where Docker shows no GPU; cpu serves the bundled model
#   IMAGE_REPO, IMAGE_TAG    its name (vllm-engine or else ghcr.io/vllm-engine/vllm-engine, and the target's name)
#   NAME                     the container's name (vllm-engine)
#   HOST                     address to publish the ports on: 127.0.0.1, or 0.0.0.0 once API_KEYS or API_KEYS_FILE is set
#   PORT                     8000
#   CACHE_VOLUME             volume or absolute folder for /cache (model_cache, as in Compose)
#   SHM_SIZE                 shared memory (8g, or 1g on CPU)
#   MEMORY                   memory limit, such as 6g (none)
#   GPUS                     which GPUs: all, or what docker run --gpus takes (all); set, no GPU is looked for before
#   SSH_HOST_PORT            where SSH is published, if PUBLIC_KEY or ENABLE_SSHD=1 is set (2222)
#   DOCKER                   the client to use (docker)
#
# Every setting of the server (docs/use/configuration.md) and every vLLM flag by its upper-case name goes into the container,
# from the environment or else from .env here. Keys, certificates and a model that are files here are mounted.
set -eu

die() {
    printf 'run_image: error: %s\n' "$*" >&2
    exit 2
}
say() { printf 'run_image: %s\n' "$*"; }

case ${1:-} in
    '') ;;
    -h | --help) sed -n '2,/^set -eu$/s/^# \{0,1\}//p' "$0" && exit ;;
    *) die "unknown argument $1; everything is set by variables, see --help" ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd -P)
docker=${DOCKER:-docker}

. "$root/scripts/dotenv.sh"
. "$root/scripts/gpu.sh"
published=ghcr.io/vllm-engine/vllm-engine
repo=${IMAGE_REPO:-vllm-engine}
load_dotenv "$repo:${IMAGE_TAG:-${TARGET:-cuda}}" "$repo:cuda" "$repo:cpu" "$published:cuda" "$published:cpu" ||
    die '.env is here, and nothing to read it with: neither .venv of this checkout (make setup) nor an image; what names' \
        'the image (IMAGE_REPO, IMAGE_TAG) must be in the environment then'

TARGET=${TARGET:-cuda}
case $TARGET in
    cuda) other=cpu ;;
    cpu) other=cuda ;;
    *) die "TARGET=$TARGET: it is cuda or cpu" ;;
esac
repo=${IMAGE_REPO:-vllm-engine}
tag=${IMAGE_TAG:-$TARGET}
image=$repo:$tag
name=${NAME:-vllm-engine}
port=${PORT:-8000}
why=$(why_no_docker "$docker")
[ -z "$why" ] || die "$why"

is_here() { "$docker" image inspect "$1" >/dev/null 2>&1; }
hint=
if [ -z "${IMAGE_TAG:-}" ] && is_here "$repo:$other"; then hint=" ($repo:$other is here)"; fi
if [ "$TARGET" = cuda ] && [ -z "${GPUS:-}" ] && ! docker_has_gpu "$docker"; then
    die "Docker has no NVIDIA GPU here, which the default image needs: set TARGET=cpu${hint:- (for build_image.sh too)}, or GPUS=all to try anyway"
fi
# One that was not built here under our own name was built or is pulled under the published one.
nor=
if [ -z "${IMAGE_REPO:-}" ] && ! is_here "$image"; then image=$published:$tag nor=" nor $published:$tag"; fi
is_here "$image" || "$docker" pull --quiet "$image" >/dev/null 2>&1 ||
    die "there is no image $repo:$tag$nor; build it: TARGET=$TARGET scripts/build_image.sh${hint:+, or set TARGET=$other$hint}"
case $("$docker" container inspect --format '{{.State.Status}}' "$name" 2>/dev/null || true) in
    '') ;;
    running | restarting | paused) die "$name runs already; stop it (docker stop $name) or choose another NAME" ;;
    *) "$docker" rm "$name" >/dev/null ;;
esac

# Whoever reaches a port without keys may use the engine: the others of the network only when that is asked for.
reach='reached from this machine alone until API_KEYS or HOST is set'
if [ -n "${HOST:-}" ]; then
    reach="published on HOST=$HOST"
elif [ -n "${API_KEYS:-}${API_KEYS_FILE:-}" ]; then
    HOST=0.0.0.0
    reach='published on all addresses, as keys are set'
fi
HOST=${HOST:-127.0.0.1}
case $HOST in \[*) ;; *:*) HOST="[$HOST]" ;; esac
if [ "$TARGET" = cpu ] && [ -z "${MODEL_ID:-}" ]; then
    export MODEL_ID=bundled:smollm2-135m-instruct
fi

# What must pass before the engine is stopped, and 5 s more: docs/operate/lifecycle.md.
seconds=$(awk -v a="${LAME_DUCK_SECONDS:-0}" -v b="${DRAIN_TIMEOUT_SECONDS:-25}" 'BEGIN { print int(a + b + 20.999) }')
set -- --detach --name "$name" --stop-timeout "$seconds"
set -- "$@" --security-opt no-new-privileges --publish "$HOST:$port:$port" --volume "${CACHE_VOLUME:-model_cache}:/cache"
if [ "$TARGET" = cuda ]; then
    set -- "$@" --gpus "${GPUS:-all}" --shm-size "${SHM_SIZE:-8g}"
else
    set -- "$@" --shm-size "${SHM_SIZE:-1g}"
fi
if [ -n "${MEMORY:-}" ]; then set -- "$@" --memory "$MEMORY"; fi
if [ -n "${HEALTH_PORT:-}" ]; then set -- "$@" --publish "$HOST:$HEALTH_PORT:$HEALTH_PORT"; fi

ssh=
if [ -n "${PUBLIC_KEY:-}" ] || [ "${ENABLE_SSHD:-0}" = 1 ]; then ssh=1; fi
set -- "$@" --cap-drop ALL
if [ -n "$ssh" ]; then
    set -- "$@" --publish "$HOST:${SSH_HOST_PORT:-2222}:${SSH_PORT:-22}"
    for cap in AUDIT_WRITE SYS_CHROOT; do set -- "$@" --cap-add "$cap"; done
fi
# Started as root it takes over a cache that root owns, starts sshd, and goes on as appuser; these are what that needs.
for cap in CHOWN DAC_OVERRIDE FOWNER SETGID SETUID; do set -- "$@" --cap-add "$cap"; done

# A file or folder here becomes one there; its variable then names that.
mounted=' '
mount_here() { # variable target
    value=$(printenv "$1" || true)
    case $value in
        '' | *://*) return 1 ;;
        # What is not here may be in the image.
        /*) [ -e "$value" ] || return 1 ;;
        ./* | ../*) [ -e "$value" ] || die "$1=$value: there is no such file or folder" ;;
        *) [ -e "$value" ] && [ "$1" != MODEL_ID ] || return 1 ;;
    esac
    from=$(cd "$(dirname "$value")" && pwd -P)/$(basename "$value")
    mounted="$mounted$1 "
}
for file in API_KEYS_FILE TLS_CERT_FILE TLS_KEY_FILE CHAT_TEMPLATE; do
    if mount_here "$file"; then
        # The folder, not the file: a file that is replaced, as certificates are, stays the old one in a file's mount.
        set -- "$@" --volume "$(dirname "$from"):/run/host/$file:ro" --env "$file=/run/host/$file/$(basename "$from")"
    fi
done
if mount_here MODEL_ID; then
    set -- "$@" --volume "$from:/model:ro" --env MODEL_ID=/model
    if [ -z "${SERVED_MODEL_NAME:-}" ]; then set -- "$@" --env "SERVED_MODEL_NAME=$(basename "$from")"; fi
fi

# Names only: values, the secret ones among them, stay off the command line.
flags=$(cat "$root"/src/vllm_engine/config/flags/*.json)
is_ours() {
    case $1 in
        API_KEY | HOST | CACHE_DIR | ENGINE_PYTHON | BUILD_SHA | BUILD_TIME | CONFIG | SEED | TOKENIZER) return 1 ;;
        LLAMA_ARG_HOST | NIM_CACHE_PATH) return 1 ;; # HOST and CACHE_DIR, which are this machine's
        VLLM_* | HF_* | NCCL_* | OTEL_* | TORCH_* | CUDA_VISIBLE_DEVICES) return 0 ;;
    esac
    case $mounted in *" $1 "*) return 1 ;; esac
    grep -Eq "^#? ?$1=" "$root/.env.example" && return 0
    grep -q "^    \"$1\": \"" "$root/src/vllm_engine/config/other_engines.py" && return 0 # others' names: the program reads them
    case $flags in *"\"name\": \"$(printf '%s' "$1" | tr 'A-Z_' 'a-z-')\""*) return 0 ;; esac
    return 1
}
for variable in $(env | sed -n 's/^\([A-Z][A-Z0-9_]*\)=..*/\1/p'); do
    if is_ours "$variable"; then set -- "$@" --env "$variable"; fi
done

if ! "$docker" run "$@" "$image" >/dev/null; then
    "$docker" rm "$name" >/dev/null 2>&1 || true # what was created and cannot be started
    advice=
    if [ "$TARGET" = cuda ]; then
        advice="; if it is about GPUs: install NVIDIA's Container Toolkit and restart Docker, or set TARGET=cpu"
    fi
    die "docker could not start $image; its message is above$advice"
fi
scheme=http
if [ -n "${TLS_CERT_FILE:-}" ]; then scheme=https; fi
case $HOST in 0.0.0.0) address=127.0.0.1 ;; '[::]') address='[::1]' ;; *) address=$HOST ;; esac
say "$name runs $image${MODEL_ID:+ with $MODEL_ID}: $scheme://$address:$port, $reach"
if [ -n "$ssh" ]; then say "SSH: ssh -p ${SSH_HOST_PORT:-2222} appuser@$address"; fi
say "log: docker logs -f $name; end: docker stop $name; when is it ready, and does it answer: scripts/smoke_test.sh"
