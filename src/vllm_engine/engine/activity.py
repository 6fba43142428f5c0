"""What the gateway and the supervisor tell each other of the engine's work: counters, cheap per chunk."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class OwnQuestions:
    """The supervisor's own questions, each of one token: work of the engine that is no client's.

    Each is counted before it is asked, so that these counts never fall behind vLLM's.
    """

    running: int = 0
    """Those that are at the engine now."""
    asked: int = 0
    prompt_tokens: int = 0
    """Of all of them together, as is the next."""
    generated_tokens: int = 0
    usual_prompt: int = 1
    """Tokens of the last one's prompt, which each that runs is taken to have."""

    def begin(self) -> None:
        """Count one that is about to be asked, taken to be as long as the last."""
        self.running += 1
        self.asked += 1
        self.prompt_tokens += self.usual_prompt
        self.generated_tokens += 1

    def end(self, prompt_tokens: int | None, *, has_run: bool = True) -> None:
        """Note that it has ended, and how long it was by the engine's answer, if there is one.

        One that has not run, because it could not be asked or there is no such route, is taken back.
        """
        self.running -= 1
        if not has_run:
            self.asked -= 1
            self.prompt_tokens -= self.usual_prompt
            self.generated_tokens -= 1
        elif prompt_tokens is not None:
            self.prompt_tokens += prompt_tokens - self.usual_prompt
            self.usual_prompt = prompt_tokens


@dataclass(slots=True)
class EngineActivity:
    """What the gateway sees of the engine's work, for the verdict on a hang; and our own questions."""

    running: int = 0
    """Requests that are the engine core's work now: not those whose clients do not read their streams."""
    beats: int = 0
    """Grows with every piece of an answer that shows that the engine core works."""
    own: OwnQuestions = field(default_factory=OwnQuestions)
    """What only the supervisor counts."""
