#!/bin/sh
# Sourced by the other scripts.
#
#   . "$root/scripts/gpu.sh" && docker_has_gpu CLIENT

# Whether Docker seems to have an NVIDIA GPU for a container. NVIDIA's Container Toolkit shows in `docker info` as a runtime
# or as a device once it is set up there; one that is only installed does not, so a GPU of this machine counts too.
docker_has_gpu() { # client
    "$1" info --format '{{json .}}' 2>/dev/null | grep -Eq '"nvidia":|nvidia\.com/gpu=' && return
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}
