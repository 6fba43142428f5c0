"""The types of chart values: what JSON Schema can say of them, and Kubernetes' own objects, passed on as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Object = dict[str, Any]
"""An object of Kubernetes' API, passed on as it is."""
Objects = list[Object]

Texts = dict[str, str]
"""Labels or annotations: their values are texts, so numbers and true have to be quoted."""

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?$")]
"""An amount with a unit: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/."""
Amount = Quantity | Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)]

Name = Annotated[str, StringConstraints(pattern=r"^$|^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""The name of an object, or nothing: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/."""

Seconds = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Part(BaseModel):
    """A group of values; each field's docstring is the sentence that users read.

    What it does not have is refused: a typo in a values file is an error that names the key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
