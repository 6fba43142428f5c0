"""A traceback that vLLM prints twice is shown once; what is remembered for that is bounded."""

from __future__ import annotations

from vllm_engine.engine.output.tracebacks import without_repeats

ERRORS = 2000


def test_what_was_logged_is_remembered_for_a_while() -> None:
    """An engine may log errors for months: a traceback of an old one is shown again."""
    logged = [f"(EngineCore pid=1) ERROR 11-26 20:00:00 [core.py:1] ValueError: {n}" for n in range(ERRORS)]

    def shown(number: int) -> bool:
        plain = [
            "(EngineCore pid=1) Traceback (most recent call last):",
            f"(EngineCore pid=1) ValueError: {number}",
        ]
        return len(without_repeats([*logged, *plain])) > ERRORS

    assert (shown(ERRORS - 1), shown(0)) == (False, True)
