"""Errors: exit codes of the whole tree, and what is said of an invalid setting."""

from __future__ import annotations

from vllm_engine import errors
from vllm_engine.errors import Problem, SettingsError, VllmEngineError

CODES = {
    "VllmEngineError": 1,
    "SettingsError": 2,
    "EngineError": 1,
    "StartupError": 3,
    "ModelError": 3,
    "RefusedError": 2,
    "StartupTimeoutError": 3,
}


def test_every_error_has_its_exit_code() -> None:
    """The tree is complete here and in the module's docstring, and each ends the program as documented."""
    tree: list[type[VllmEngineError]] = [VllmEngineError]
    for each in tree:
        tree += each.__subclasses__()
    ours = {each.__name__: int(each.exit_code) for each in tree if each.__module__ == errors.__name__}
    assert ours == CODES
    assert all(name in (errors.__doc__ or "") for name in CODES)


def test_an_invalid_setting_has_a_remedy_of_its_own() -> None:
    """`/healthz` shows what to do apart from what is wrong; the line on standard error has both."""
    problems = [("A", "1", "too large; set A=0"), ("B", "x", "expected 1 or 0"), ("C", "", "is bad")]
    error = SettingsError([Problem(*each) for each in problems])
    assert str(error).splitlines()[0] == 'A="1": too large; set A=0'
    assert error.diagnosis.message == 'A="1": too large; B="x": expected 1 or 0; C="": is bad'
    assert error.diagnosis.remedy == "set A=0; set B to 1 or 0; correct C"
