"""The last error: the cause in a dead engine's output, not its echoes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.diagnosis.last_error import last_error

LOGS = Path(__file__).parents[2] / "data/logs"

KV_CACHE = """\
(EngineCore pid=2) ERROR 11-23 09:35:51 [core.py:906] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-23 09:35:51 [core.py:906]   File "core.py", line 1, in run
(EngineCore pid=2) ERROR 11-23 09:35:51 [core.py:906] ValueError: To serve at least one request, 3 GiB is needed.
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
PYDANTIC = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, The checkpoint is of type `x` [type=value_error, input_value=ArgsKwargs((), {'a'}), input_type=Args]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (KV_CACHE, "ValueError: To serve at least one request, 3 GiB is needed."),
        (PYDANTIC, "The checkpoint is of type `x`"),
        ("vllm serve: error: unrecognized arguments: --x", "unrecognized arguments: --x"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        ("all is well\nnothing to see", None),
        ("", None),
    ],
)
def test_cause(text: str, cause: str | None) -> None:
    """The newest error that is not an echo of another is the cause."""
    assert last_error(text.splitlines()) == cause


@pytest.mark.parametrize("log", sorted(LOGS.glob("*-cold.log")), ids=lambda path: path.stem)
def test_healthy_start_has_no_error(log: Path) -> None:
    """No line of a real start, up to its readiness, is taken for an error."""
    lines = log.read_text().split("Application startup complete")[0].splitlines()
    assert last_error(lines) is None
