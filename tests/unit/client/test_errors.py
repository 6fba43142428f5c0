"""Errors: exit codes of the whole tree, and the one body."""

from __future__ import annotations

import pytest

from vllm_engine import errors
from vllm_engine.errors import Problem, SettingsError, VllmEngineError, error_body

CODES = {
    "VllmEngineError": 1,
    "SettingsError": 2,
    "EngineError": 1,
    "StartupError": 3,
    "ModelError": 3,
    "StartupTimeoutError": 3,
}


def tree(root: type[VllmEngineError]) -> list[type[VllmEngineError]]:
    """Return a class and all below it."""
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def test_every_error_has_its_exit_code() -> None:
    """The tree is complete, and each member ends the program as documented."""
    ours = [cls for cls in tree(VllmEngineError) if cls.__module__ == errors.__name__]
    assert {cls.__name__: int(cls.exit_code) for cls in ours} == CODES


@pytest.mark.parametrize("name", CODES)
def test_the_docstring_draws_the_tree(name: str) -> None:
    """Whoever reads the module sees every error."""
    assert name in (errors.__doc__ or "")


def test_body() -> None:
    """The shape is OpenAI's."""
    body = error_body("m", type="t", code=503)
    assert body == {"error": {"message": "m", "type": "t", "param": None, "code": 503}}


def test_a_wrong_setting_has_a_remedy_of_its_own() -> None:
    """`/healthz` shows what to do apart from what is wrong; the line on standard error has both."""
    error = SettingsError(
        [
            Problem("A", "1", "too large; set A=0"),
            Problem("B", "x", "expected 1 or 0"),
            Problem("C", "", "is bad"),
        ]
    )
    assert str(error).splitlines()[0] == 'A="1": too large; set A=0'
    assert error.diagnosis.message == 'A="1": too large; B="x": expected 1 or 0; C="": is bad'
    assert error.diagnosis.remedy == "set A=0; set B to 1 or 0; correct C"
