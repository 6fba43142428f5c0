"""Counters of the engine's work, shared by the gateway and the supervisor; cheap enough for every chunk."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class OwnQuestions:
    """The supervisor's own requests for one token, which are no client's.

    Each is counted before it is sent, so that these counts are never behind vLLM's.
    """

    running: int = 0
    """Those that are at the engine now."""
    asked: int = 0
    """So many tokens were generated for them, too."""
    prompt_tokens: int = 0
    """Of all of them together."""
    usual_prompt: int = 1
    """Tokens of the last one's prompt; assumed of the next until its answer says otherwise."""

    def begin(self) -> None:
        """Count one that is about to be sent."""
        self.running += 1
        self.asked += 1
        self.prompt_tokens += self.usual_prompt

    def end(self, prompt_tokens: int | None, *, has_run: bool = True) -> None:
        """Record the end of one, whose answer told its prompt's length, or did not.

        It does not count if it has not run, since it could not be sent or there is no such route.
        """
        self.running -= 1
        if not has_run:
            self.asked -= 1
            self.prompt_tokens -= self.usual_prompt
        elif isinstance(prompt_tokens, int):  # an engine may answer anything
            self.prompt_tokens += prompt_tokens - self.usual_prompt
            self.usual_prompt = prompt_tokens


@dataclass(slots=True)
class EngineActivity:
    """What the gateway sees of the engine's work, by which the watchdog recognises a hang."""

    running: int = 0
    """Requests that the engine core is working on; without those whose clients do not read their streams."""
    progress: int = 0
    """Grows with every piece of an answer that only the engine core can have made."""
    own: OwnQuestions = field(default_factory=OwnQuestions)
    """Counted by the supervisor alone."""
