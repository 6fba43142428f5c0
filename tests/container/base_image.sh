#!/bin/sh
# Print the name of a base image that is here: the Dockerfile's own, pulled from its registry, or where none can be
# reached a stand-in, Debian 12 with Python 3.11, made by debootstrap (a minute, once) from this machine's own mirror.
set -eu

docker=${DOCKER:-docker}
wanted=python:3.12-slim-bookworm
stand_in=vllm-engine-base:bookworm-python3.11

"$docker" image inspect "$wanted" >/dev/null 2>&1 && echo "$wanted" && exit
"$docker" image inspect "$stand_in" >/dev/null 2>&1 && echo "$stand_in" && exit
timeout 300 "$docker" pull --quiet "$wanted" >/dev/null 2>&1 && echo "$wanted" && exit

PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null 2>&1; then
    echo "$wanted cannot be pulled, and a stand-in takes root and debootstrap" >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)*\([^ ]*\) .*/\2/p' | grep -m 1 '/debian/*$' || true)
if ! debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm \
    "$root" "${mirror:-http://deb.debian.org/debian}" >"$folder/log" 2>&1; then
    tail -n 5 "$folder/log" >&2
    exit 1
fi
# What this machine needs to reach its mirrors, the image needs too: certificates, proxies, pip's index.
cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
chroot "$root" update-ca-certificates >/dev/null 2>&1
grep -l -s -i 'acquire::' /etc/apt/apt.conf.d/* | xargs -r -I '{}' cp '{}' "$root/etc/apt/apt.conf.d/"
index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
if [ -n "$index" ]; then printf '[global]\nindex-url = %s\n' "$index" >"$root/etc/pip.conf"; fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
    "$root"/usr/share/locale/* "$root"/var/log/* "$root"/etc/resolv.conf "$root"/etc/hostname
tar -C "$root" --numeric-owner -c . | "$docker" import --change 'CMD ["bash"]' - "$stand_in" >/dev/null
echo "$stand_in"
