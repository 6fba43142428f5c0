"""What is written from the chart's values: values.yaml, values.schema.json and a table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from tools.chart.value_types import Part
from tools.chart.values import Values

WIDTH = 108
"""Of a comment in values.yaml."""
END_OF_SCALAR = "...\n"
"""What PyYAML writes after a scalar that is a whole document."""
HEAD = "# Written by `make docs` from tools/chart/values.py, as is values.schema.json, which refuses what is not here.\n"


def sentence(field: FieldInfo) -> str:
    """Return what a value is for, on one line."""
    return " ".join((field.description or "").split())


def values_yaml() -> str:
    """Render every value with its default, under its sentence."""
    return HEAD + "\n" + "\n".join(_lines(Values(), 0)) + "\n"


def _lines(part: Part, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(part).model_fields.items():
        yield from textwrap.wrap(
            sentence(field), WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# "
        )
        key, value = field.alias or name, getattr(part, name)
        if isinstance(value, Part):
            yield f"{pad}{key}:"
            yield from _lines(value, depth + 1)
        else:
            yield from textwrap.indent(_shown(key, value), pad).splitlines()


def _shown(key: str, value: object) -> str:
    """Write small collections in one line; the outermost is always a block."""
    block = isinstance(value, dict) and any(isinstance(each, dict) for each in value.values())
    if block:
        return yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=None, width=WIDTH).rstrip()
    inline = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=WIDTH)
    return f"{key}: {inline.removesuffix(END_OF_SCALAR).rstrip()}".replace(": ''", ': ""')


def values_schema() -> str:
    """Render the JSON Schema, in the draft that Helm 3 and 4 both read, without references."""
    schema = Values.model_json_schema(by_alias=True)
    whole = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart vllm-engine",
        **_plain(schema, schema.pop("$defs")),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _plain(schema: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions where they are referred to; drop titles, which only repeat the key, and the classes' docstrings."""
    if isinstance(schema, list):
        return [_plain(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _plain(definitions[schema["$ref"].rpartition("/")[2]] | beside, definitions)
    if "patternProperties" in schema:
        schema = schema | {"additionalProperties": False}
    return {
        key: {name: _plain(each, definitions) for name, each in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and key != "default"
    }


def values_table() -> str:
    """Render every value as a row: its path, default and sentence."""
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    return "\n".join([*lines, *_rows(Values(), "")])


def _rows(part: Part, prefix: str) -> Iterator[str]:
    for name, field in type(part).model_fields.items():
        key, value = prefix + (field.alias or name), getattr(part, name)
        if isinstance(value, Part):
            yield from _rows(value, f"{key}.")
            continue
        text = json.dumps(value, ensure_ascii=False)
        default = f"`{text}`" if len(text) < 60 else "see values.yaml"
        yield f"| `{key}` | {default} | {sentence(field)} |".replace("`null` |", "|")
