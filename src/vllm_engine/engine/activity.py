"""Counters of the engine's work, shared by the gateway and the supervisor; cheap enough for every chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_engine.engine.engine_state import Frontend


@dataclass(slots=True)
class OneTokenChecks:
    """Counts the one-token checks that the supervisor sends, so that plots can leave them out.

    Each is counted before it is sent, so that these counts are never behind vLLM's.
    """

    running: int = 0
    """Checks that the engine is working on now."""
    asked: int = 0
    """Checks sent so far; each generates one token, so this counts generated tokens as well."""
    prompt_tokens: int = 0
    """Prompt tokens of all checks sent so far."""
    usual_prompt: int = 1
    """Prompt tokens of the latest check; the estimate for the next until its response reports them."""

    def begin(self) -> None:
        """Count a check that is about to be sent."""
        self.running += 1
        self.asked += 1
        self.prompt_tokens += self.usual_prompt

    def end(self, prompt_tokens: int | None, *, has_run: bool = True) -> None:
        """Record the end of a check.

        `prompt_tokens` is what its response reported, None if it did not. Without `has_run` it is taken back:
        it could not be sent, or vLLM has no such route.
        """
        self.running -= 1
        if not has_run:
            self.asked -= 1
            self.prompt_tokens -= self.usual_prompt
        elif isinstance(prompt_tokens, int):  # an engine may answer anything
            self.prompt_tokens += prompt_tokens - self.usual_prompt
            self.usual_prompt = prompt_tokens


@dataclass(slots=True)
class FrontendActivity:
    """What the gateway sees of the engine's work through one of its frontends."""

    running: int = 0
    """Requests that the engine core is working on; without those whose clients do not read their streams."""
    progress: int = 0
    """Grows with every piece of an answer that only the engine core can have made."""


class EngineActivity:
    """What the gateway sees of the engine's work, by which the watchdog recognises a hang."""

    __slots__ = ("_at_engine", "of", "own")

    def __init__(self) -> None:
        self.of: Mapping[Frontend, FrontendActivity] = {one: FrontendActivity() for one in Frontend}
        self.own = OneTokenChecks()
        """Counted by the supervisor alone."""
        self._at_engine: dict[object, Frontend] = {}

    @property
    def running(self) -> int:
        """How many requests the engine core is working on, through all frontends."""
        return sum(one.running for one in self.of.values())

    @property
    def progress(self) -> int:
        """A number that grows with every piece of an answer, from whichever frontend."""
        return sum(one.progress for one in self.of.values())

    @property
    def at_engine(self) -> tuple[Frontend, ...]:
        """The frontends of the requests that are at the engine, our own included, oldest first."""
        return tuple(self._at_engine.values())

    def enter(self, request: object, frontend: Frontend) -> None:
        """A request is given to a frontend, as the newest; a request is told by its identity or equality."""
        self._at_engine.pop(request, None)
        self._at_engine[request] = frontend

    def leave(self, request: object) -> None:
        """The engine has it no more; may be called more than once."""
        self._at_engine.pop(request, None)
