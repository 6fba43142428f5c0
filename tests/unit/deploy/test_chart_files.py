"""deploy/helm: what is written from the model of the values is current, and the settings that it names are the program's."""

from __future__ import annotations

import yaml

from tools.chart.__main__ import CHART, ROOT, contents
from tools.chart.program_settings import FIXED, SET_BY
from vllm_engine import __version__
from vllm_engine.config.settings import Settings


def test_written_files_are_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in contents().items() if path.read_text() != text]
    assert stale == [], "run make docs"


def test_versions_are_the_programs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_settings_with_a_value_of_their_own_exist() -> None:
    names = {name.upper() for name in Settings.model_fields}
    assert names >= FIXED | SET_BY.keys()
    template = (CHART / "templates/_validate.tpl").read_text()
    own = template.partition('define "vllm-engine.ownSettings"')[2].splitlines()[1]
    assert own.split() == sorted(FIXED | SET_BY.keys())
