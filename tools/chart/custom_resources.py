"""Check manifests of other projects' resources (KServe, LeaderWorkerSet, KEDA, ...) against the fields that these define.

The definitions are large and not ours, so what we keep is tests/data/crds/fields.yaml: the fields that we use, by hand. Tests check
manifests against that file alone. This command reads the real definitions in FOLDER (checkouts of the projects; the file names their
versions) and says where the file and they differ, and what is wrong with the manifests by the real ones:

.venv/bin/python tools/chart/custom_resources.py FOLDER MANIFEST...

Unknown fields are errors in both. Rules written in CEL (`x-kubernetes-validations`) are not evaluated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FIELDS = Path(__file__).resolve().parents[2] / "tests/data/crds/fields.yaml"
Schema = dict[str, Any]
_TYPES = ("string", "integer", "boolean")
_ENVELOPE = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


class Kubernetes:
    """The types of Kubernetes' own API, from the folder of one version in the package kubernetes-validate."""

    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
        self._id: str = document["$id"]
        self._full = {name.rpartition(".")[2]: name for name in document["$defs"] if ".core.v1." in name}
        self._full["LabelSelector"] = "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"
        self.registry: Registry[Any] = Resource.from_contents(document) @ Registry()

    def reference(self, name: str) -> Schema:
        """Return a reference to a type; KeyError where core/v1 has none of that name."""
        return {"$ref": f"{self._id}#/$defs/{self._full[name]}"}


def kinds() -> dict[str, Any]:
    """Return the fields by `apiVersion kind`."""
    return {name: one["spec"] for name, one in _document()["kinds"].items()}


def files() -> dict[str, str]:
    """Return where each kind is defined, below a folder of checkouts as `git clone` names them."""
    document = _document()
    clones = {name: one["url"].rpartition("/")[2] for name, one in document["sources"].items()}
    return {name: f"{clones[one['source']]}/{one['file']}" for name, one in document["kinds"].items()}


def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FIELDS.read_text(encoding="utf-8"))
    return document


def as_schema(field: Any, kubernetes: Kubernetes) -> Schema:
    """Translate one entry of fields.yaml into JSON Schema."""
    if isinstance(field, list):
        return {"type": "array", "items": as_schema(field[0], kubernetes)}
    if isinstance(field, dict):
        return _closed({name: as_schema(one, kubernetes) for name, one in field.items()})
    if field in _TYPES:
        return {"type": field}
    if field == "map":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if field == "any":
        return {"type": "object"}
    if field == "int-or-string":
        return {"type": ["integer", "string"]}
    if "|" in field:
        return {"enum": field.split("|")}
    return kubernetes.reference(field)


def errors(manifest: dict[str, Any], kubernetes: Kubernetes) -> list[str]:
    """Say what is wrong with a manifest by fields.yaml; KeyError for a kind that is not in it."""
    spec = as_schema(kinds()[_name(manifest)], kubernetes)
    return list(_said(manifest, spec, kubernetes.registry))


def definition(file: Path, version: str) -> Schema:
    """Read the schema of the spec in one version of a CustomResourceDefinition; unknown fields are refused in it.

    Raises:
        StopIteration: it has no such version.
    """
    spec = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]
    found = next(one for one in spec["versions"] if one["name"] == version)
    schema: Schema = _strict(found["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return schema


def differences(field: Any, real: Schema, path: str) -> Iterator[str]:
    """Compare one entry of fields.yaml with the real definition of the field."""
    if isinstance(field, dict):
        yield from _object_differences(field, real, path)
    elif isinstance(field, list):
        if real.get("type") == "array":
            yield from differences(field[0], real["items"], f"{path}[]")
        else:
            yield f"{path}: a list here, {real.get('type')} there"
    elif "|" in field:
        if strange := set(field.split("|")) - set(real.get("enum", ())):
            yield f"{path}: {', '.join(sorted(strange))} not among {real.get('enum')}"
    elif field != "int-or-string" and real.get("type") != (wanted := field if field in _TYPES else "object"):
        yield f"{path}: {wanted} here, {real.get('type')} there"


def _object_differences(field: Schema, real: Schema, path: str) -> Iterator[str]:
    properties = real.get("properties", {})
    ours = {name.rstrip("!"): one for name, one in field.items()}
    required = {name.rstrip("!") for name in field if name.endswith("!")}
    yield from (f"{path}.{name}: not there" for name in ours.keys() - properties.keys())
    for name in ours.keys() & properties.keys():
        if name in real.get("required", ()) and name not in required:
            yield f"{path}.{name}: required there"
        yield from differences(ours[name], properties[name], f"{path}.{name}")


def main(folder: Path, manifests: list[Path]) -> int:
    """Compare, print one line a kind and a manifest, and return an exit status."""
    real, wrong = dict[str, Schema](), 0
    for name, place in files().items():
        if (folder / place).exists():
            real[name] = definition(folder / place, name.partition(" ")[0].rpartition("/")[2])
    for name, field in kinds().items():
        found = (
            ["no definition in the folder"]
            if name not in real
            else sorted(differences(field, real[name], "spec"))
        )
        print(f"{'differs' if found else 'same'}: {name}", *found, sep="\n    ")
        wrong += len(found)
    for file in manifests:
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if manifest and _name(manifest) in real:
                found = list(_said(manifest, real[_name(manifest)], Registry()))
                title = f"{file.name}: {_name(manifest)} {manifest['metadata']['name']}"
                print(f"{'wrong' if found else 'valid'}: {title}", *found, sep="\n    ")
                wrong += len(found)
    return 1 if wrong else 0


def _name(manifest: dict[str, Any]) -> str:
    return f"{manifest['apiVersion']} {manifest['kind']}"


def _said(manifest: dict[str, Any], spec: Schema, registry: Registry[Any]) -> Iterator[str]:
    schema = {"type": "object", "required": ["metadata", "spec"], "additionalProperties": False}
    schema["properties"] = _ENVELOPE | {"spec": spec}
    for error in Draft202012Validator(schema, registry=registry).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def _closed(properties: Schema) -> Schema:
    required = [name.rstrip("!") for name in properties if name.endswith("!")]
    inner = {name.rstrip("!"): one for name, one in properties.items()}
    return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def _strict(schema: Any) -> Any:
    """Make a structural schema plain JSON Schema: unknown fields are errors, null is allowed where it says so."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: one if key in ("enum", "default", "required") else _strict(one) for key, one in schema.items()
    }
    if schema.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        plain.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]]))
