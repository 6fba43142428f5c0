"""Every value changes what is rendered, and every result is valid and the same with both versions of Helm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.charts import EXAMPLES, MINORS, Helm, Refused, faults, objects
from tests.unit.deploy.conftest import version
from tests.unit.deploy.optional_changes import LIFTED
from tests.unit.deploy.value_changes import CHANGES, CHANGES_NOTHING, beside, paths


def test_every_value_is_in_the_table_or_has_a_reason() -> None:
    assert sorted(paths()) == sorted(CHANGES.keys() | CHANGES_NOTHING.keys() | LIFTED.keys())


def test_every_value_counts(newest_helm: Helm, tmp_path: Path) -> None:
    """Beside what it needs, a value changes something, to what is valid; and so say both versions of Helm."""
    companies = [company for _, company in CHANGES.values()]
    alone = [company for at, company in enumerate(companies) if company not in companies[:at]]
    changed = [beside(company, path, value) for path, (value, company) in CHANGES.items()]
    examples = [yaml.safe_load(example.read_text()) for example in EXAMPLES]
    texts = newest_helm.texts([*changed, *alone, *examples], tmp_path / "newest")

    before = texts[len(changed) :]
    pairs = zip(CHANGES, companies, texts, strict=False)
    assert [path for path, company, text in pairs if before[alone.index(company)] == text] == []
    found = dict(zip(CHANGES, map(objects, texts), strict=False))
    wrong = [f"{path}: {fault}" for path in found for minor in MINORS for fault in faults(found[path], minor)]
    assert wrong == []
    assert version("3").texts([*changed, *alone, *examples], tmp_path / "oldest") == texts


def test_values_without_effect_have_none(newest_helm: Helm) -> None:
    given: dict[str, Any] = {path: {"a": "b"} for path in CHANGES_NOTHING}
    assert newest_helm.text({}) == newest_helm.text(given)


def test_values_that_lift_a_refusal(newest_helm: Helm) -> None:
    for path, company in LIFTED.items():
        with pytest.raises(Refused, match=f"; set .* or {path}=true"):
            newest_helm.text(company)
        assert faults(objects(newest_helm.text(beside(company, path, True))), MINORS[-1]) == []
