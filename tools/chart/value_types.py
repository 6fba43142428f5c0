"""The types of chart values: what JSON Schema can say of them, and Kubernetes' own objects, passed on as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

Object = dict[str, Any]
"""An object of Kubernetes' API, passed on as it is."""
Objects = list[Object]

Texts = dict[str, str]
"""Annotations or a selection of labels: their values are texts, so numbers and true have to be quoted."""
_OWN_LABELS = r"^(app\.kubernetes\.io/(name|instance|component|version|part-of|managed-by)|helm\.sh/chart)$"
Labels = Annotated[
    dict[str, str],
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"not": {"pattern": _OWN_LABELS}},
            "additionalProperties": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
            },
        }
    ),
]
"""Labels, but for those that the chart sets: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/."""
Variables = Annotated[
    list[Object],
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
            },
        }
    ),
]
"""A container's `env`: a value is a text, so a number has to be quoted."""

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?$")]
"""An amount with a unit: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/."""
Amount = Quantity | Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)]

Name = Annotated[str, StringConstraints(pattern=r"^$|^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""The name of an object, or nothing: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/."""

ServiceName = Annotated[str, StringConstraints(pattern="^$|^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""What can be the name of a Service, or nothing: it begins with a letter."""

Seconds = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Part(BaseModel):
    """A group of values; each field's docstring is the sentence that users read.

    What it does not have is refused: a typo in a values file is an error that names the key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
