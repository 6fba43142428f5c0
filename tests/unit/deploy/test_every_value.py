"""Every value changes what is rendered, and every result is valid; test_workload.py compares both Helm versions."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

from tests.unit.deploy.charts import MINORS, Helm, Refused, faults, objects
from tests.unit.deploy.optional_changes import LIFTED
from tests.unit.deploy.value_changes import CHANGES, CHANGES_NOTHING, beside, paths


def test_every_value_is_in_the_table_or_has_a_reason() -> None:
    assert sorted(paths()) == sorted(CHANGES.keys() | CHANGES_NOTHING.keys() | LIFTED.keys())


def test_every_value_counts(newest_helm: Helm) -> None:
    """Beside what it needs; a value that can be set and changes nothing would be a lie."""

    without = cache(lambda company: newest_helm.text(json.loads(company)))

    def wrong(path: str) -> list[str]:
        value, company = CHANGES[path]
        before, after = without(json.dumps(company)), newest_helm.text(beside(company, path, value))
        found = [fault for minor in MINORS for fault in faults(objects(after), minor)]
        return [f"{path}: {fault}" for fault in found + ["changes nothing"] * (before == after)]

    with ThreadPoolExecutor(2) as pool:
        assert [each for found in pool.map(wrong, CHANGES) for each in found] == []


def test_values_without_effect_have_none(newest_helm: Helm) -> None:
    given: dict[str, Any] = {path: {"a": "b"} for path in CHANGES_NOTHING}
    assert newest_helm.text({}) == newest_helm.text(given)


def test_values_that_lift_a_refusal(newest_helm: Helm) -> None:
    for path, company in LIFTED.items():
        with pytest.raises(Refused, match="it would open the model to everybody"):
            newest_helm.text(company)
        assert faults(objects(newest_helm.text(beside(company, path, True))), MINORS[-1]) == []
