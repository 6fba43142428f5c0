#!/bin/sh
# Sourced by the other scripts.
#
#   . "$root/scripts/gpu.sh" && docker_has_gpu CLIENT
#   . "$root/scripts/gpu.sh" && why_no_docker CLIENT

# Whether Docker seems to have an NVIDIA GPU for a container. NVIDIA's Container Toolkit shows in `docker info` as a runtime
# or as a device once it is set up there; one that is only installed does not, so a GPU of this machine counts too.
docker_has_gpu() { # client
    "$1" info --format '{{json .}}' 2>/dev/null | grep -Eq '"nvidia":|nvidia\.com/gpu=' && return
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# What keeps Docker from being used, in one line; nothing if it answers.
why_no_docker() { # client
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "there is no $1 here: install Docker, or run without it: make run"
    elif ! "$1" info >/dev/null 2>&1; then
        echo "no answer from Docker's engine; is it running, and may $(id -un) use it? Try: $1 info. Without Docker: make run"
    fi
}
