"""Pure: the messages of a conversation, and the request for the next answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]


@dataclass
class Conversation:
    """Alternating questions and answers.

    Attributes:
        options: further fields of each request, such as `temperature`.
    """

    model: str
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    _turns: list[Message] = field(default_factory=list)

    def asks(self, question: str) -> None:
        """Add a question; it replaces one that was not answered."""
        if self._turns and self._turns[-1]["role"] == "user":
            self._turns.pop()
        self._turns.append({"role": "user", "content": question})

    def answered(self, text: str) -> None:
        """Add the model's answer, or the part of it that came before it was stopped."""
        self._turns.append({"role": "assistant", "content": text})

    def reopen(self) -> bool:
        """Remove the last answer, so that its question can be asked again; False if there is no question."""
        if self._turns and self._turns[-1]["role"] == "assistant":
            self._turns.pop()
        return bool(self._turns)

    def forget(self) -> None:
        """Remove all messages but the system prompt."""
        self._turns.clear()

    @property
    def body(self) -> dict[str, Any]:
        """The body of the request for the next answer."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*head, *self._turns], **self.options}
