#!/bin/sh
# Build the image, for NVIDIA GPUs unless TARGET says otherwise.
#
#   scripts/build_image.sh [--help]
#
#   TARGET=cuda|cpu          which vLLM (cuda). Where Docker has no GPU, unset is refused: cpu runs there, and cuda builds
#                            for another machine; with PUSH=1 unset is cuda anywhere
#   IMAGE_REPO, IMAGE_TAG    the image's name (vllm-engine, and the target's name)
#   PUSH=1                   push it, when it is built
#   TARGET_PLATFORM          linux/amd64 by default; linux/arm64 for TARGET=cpu alone
#   BASE_IMAGE               a Debian image with Python 3.11 to 3.14 (python:3.12-slim-bookworm); by digest for releases
#   TORCH_INDEX              where PyTorch's CPU build comes from, unless its wheel lies in wheels/
#   FRONTEND=auto|rust|python  whether TARGET=cpu gets vLLM's Rust frontend: if an index has it, or fail, or not
#   EXTRA_PACKAGES           further Debian packages, such as g++ in a cpu image that shall compile
#   BAKE_MODEL=1             put MODEL_ID (and MODEL_REVISION) into the image; HF_TOKEN goes along as a build secret
#   PIP_CONF                 a pip configuration file for the build, if packages come from a mirror; not in the image
#   BUILD_SHA, BUILD_TIME    what /version tells (this checkout's commit, and now; SOURCE_DATE_EPOCH counts)
#   SOURCE_URL               where the sources are, for the label (this project's address)
#   DOCKER                   the client to use (docker)
#
# They come from the environment or else from .env here, which run_image.sh and smoke_test.sh read too: TARGET=cpu there
# holds for all three. Uses buildx where it is installed and plain BuildKit (Docker 20.10 to 22) else.
set -eu

die() {
    printf 'build_image: error: %s\n' "$*" >&2
    exit 2
}

case ${1:-} in
    '') ;;
    -h | --help) sed -n '2,/^set -eu$/s/^# \{0,1\}//p' "$0" && exit ;;
    *) die "unknown argument $1; everything is set by variables, see --help" ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd -P)
docker=${DOCKER:-docker}
. "$root/scripts/dotenv.sh"
. "$root/scripts/gpu.sh"
load_dotenv "${IMAGE_REPO:-vllm-engine}:${IMAGE_TAG:-${TARGET:-cuda}}" vllm-engine:cpu vllm-engine:cuda ||
    printf 'build_image: .env is NOT READ: neither .venv of this checkout (make setup) nor an image is there for it\n' >&2
is_chosen=${TARGET:+1}
TARGET=${TARGET:-cuda}
IMAGE_REPO=${IMAGE_REPO:-vllm-engine}
IMAGE_TAG=${IMAGE_TAG:-$TARGET}
TARGET_PLATFORM=${TARGET_PLATFORM:-linux/amd64}
image=$IMAGE_REPO:$IMAGE_TAG

case $TARGET in
    cuda | cpu | fake) ;;
    *) die "TARGET=$TARGET: it is cuda or cpu" ;;
esac
case ${FRONTEND:-auto} in
    auto | rust | python) ;;
    *) die "FRONTEND=$FRONTEND: it is auto, rust or python" ;;
esac
case $TARGET:$TARGET_PLATFORM in
    cuda:linux/amd64) ;;
    cuda:*) die "TARGET_PLATFORM=$TARGET_PLATFORM: the cuda image is built for linux/amd64 alone; build with" \
        "TARGET_PLATFORM=linux/amd64 (Docker emulates it on arm64, slowly), or with TARGET=cpu" ;;
    *:linux/amd64 | *:linux/arm64) ;;
    *) die "TARGET_PLATFORM=$TARGET_PLATFORM: it is linux/amd64 or linux/arm64" ;;
esac

# The first client that can build with BuildKit. Docker 23 and later need the buildx plugin for that.
find_client() {
    for client in ${DOCKER:-docker /usr/bin/docker}; do
        command -v "$client" >/dev/null 2>&1 || continue
        if "$client" buildx version >/dev/null 2>&1; then
            build='buildx build --load'
            return
        fi
        case $("$client" --version) in
            *' version 20.'* | *' version 2[0-2].'*)
                build=build
                return
                ;;
        esac
    done
    command -v "$docker" >/dev/null 2>&1 || die "$(why_no_docker "$docker")"
    die 'no Docker client that can build with BuildKit; install Docker and its plugin buildx (package docker-buildx' \
        'or docker-buildx-plugin)'
}
find_client
why=$(why_no_docker "$client")
[ -z "$why" ] || die "$why"
if [ -z "$is_chosen" ] && [ "${PUSH:-0}" != 1 ] && ! docker_has_gpu "$client"; then
    die 'Docker has no NVIDIA GPU here, which the default image needs: set TARGET=cpu to build the one that runs here, or' \
        'TARGET=cuda to build for another machine (10 GB, and some 30 GB of disk for the build)'
fi

# Values that must not show in a list of processes travel by name.
export DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS="${BUILDKIT_PROGRESS:-plain}"
export MODEL_ID="${MODEL_ID:-}" MODEL_REVISION="${MODEL_REVISION:-}" BAKE_MODEL="${BAKE_MODEL:-0}"
export EXTRA_PACKAGES="${EXTRA_PACKAGES:-}" HF_ENDPOINT="${HF_ENDPOINT:-}"
if [ -z "${BUILD_SHA:-}" ]; then
    BUILD_SHA=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo dev)
    [ -z "$(git -C "$root" status --porcelain 2>/dev/null)" ] || BUILD_SHA=$BUILD_SHA-dirty
fi
if [ -z "${BUILD_TIME:-}" ]; then
    BUILD_TIME=$(date -u ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"} +%Y-%m-%dT%H:%M:%SZ)
fi
export BUILD_SHA BUILD_TIME

set -- --file "$root/docker/Dockerfile" --target "$TARGET" --platform "$TARGET_PLATFORM" --tag "$image"
for name in BUILD_SHA BUILD_TIME; do set -- "$@" --build-arg "$name"; done
case $TARGET in
    cpu | cuda)
        set -- "$@" --build-arg EXTRA_PACKAGES
        if [ -n "${SOURCE_URL:-}" ]; then set -- "$@" --build-arg SOURCE_URL; fi
        if [ "$BAKE_MODEL" = 1 ]; then
            for name in BAKE_MODEL MODEL_ID MODEL_REVISION HF_ENDPOINT; do set -- "$@" --build-arg "$name"; done
            if [ -n "${HF_TOKEN:-}" ]; then set -- "$@" --secret id=hf_token,env=HF_TOKEN; fi
        fi
        ;;
esac
if [ "$TARGET" = cpu ]; then
    for name in ${TORCH_INDEX:+TORCH_INDEX} ${FRONTEND:+FRONTEND}; do set -- "$@" --build-arg "$name"; done
fi
if [ -n "${BASE_IMAGE:-}" ]; then set -- "$@" --build-arg BASE_IMAGE; fi
if [ -n "${PIP_CONF:-}" ]; then
    [ -r "$PIP_CONF" ] || die "PIP_CONF=$PIP_CONF cannot be read"
    set -- "$@" --secret "id=pip_conf,src=$PIP_CONF"
fi

printf 'build_image: %s for %s (target %s, %s)\n' "$image" "$TARGET_PLATFORM" "$TARGET" "$BUILD_SHA"
began=$(date +%s)
# shellcheck disable=SC2086  # a word is an argument
"$client" $build "$@" "$root"
size=$("$client" image inspect --format '{{.Size}}' "$image")
printf 'build_image: %s is ready: %s MB, %s s\n' "$image" "$((size / 1000000))" "$(($(date +%s) - began))"
if [ "${PUSH:-0}" = 1 ]; then
    "$client" push "$image"
    "$client" image inspect --format '{{range .RepoDigests}}build_image: pushed {{.}}{{"\n"}}{{end}}' "$image"
fi
