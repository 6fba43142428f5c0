"""Pure: what has been said so far, and the request that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]


@dataclass
class Conversation:
    """Questions and answers in turn.

    Attributes:
        options: what every request says beside model and messages, such as `temperature`.
    """

    model: str
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    _turns: list[Message] = field(default_factory=list)

    def asks(self, question: str) -> None:
        """Add what the user says; a question that got no answer is replaced."""
        if self._turns and self._turns[-1]["role"] == "user":
            self._turns.pop()
        self._turns.append({"role": "user", "content": question})

    def answered(self, text: str) -> None:
        """Add what the model said, all of it or until it was stopped."""
        self._turns.append({"role": "assistant", "content": text})

    def reopen(self) -> bool:
        """Forget the last answer, so that its question can be put again; False if nothing was asked."""
        if self._turns and self._turns[-1]["role"] == "assistant":
            self._turns.pop()
        return bool(self._turns)

    def forget(self) -> None:
        """Begin anew, with the same system prompt."""
        self._turns.clear()

    @property
    def body(self) -> dict[str, Any]:
        """The request that asks for the next answer."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*head, *self._turns], **self.options}
