"""Pure: whether, when and how an engine that failed or was lost is started again."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vllm_engine.errors import EngineError, StartupError, StartupTimeoutError, VllmEngineError
from vllm_engine.system.shortage import is_own_shortage

FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 60.0
SHORTAGE_SECONDS = 5.0
"""How long to wait before this process may have files and memory enough."""

_FITTING = frozenset(("MAX_MODEL_LEN", "GPU_MEMORY_UTILIZATION"))
"""What AUTO_FIT may change: less of the same, never another data type, device or trust."""


class RestartBudget:
    """Counts restarts in a sliding window; each in the window doubles the wait before the next."""

    def __init__(
        self,
        limit: int,
        window_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.limit = limit
        self.window_seconds = window_seconds
        self._clock = clock
        self._jitter = jitter
        self._restarts: deque[float] = deque()

    def __str__(self) -> str:
        return f"restart {self.used} of {self.limit} in {self.window_seconds:g} s"

    @property
    def used(self) -> int:
        """How many restarts the window holds now."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] > self.window_seconds:
            self._restarts.popleft()
        return len(self._restarts)

    def take(self) -> float | None:
        """Return the seconds to wait before the next start; None if it must not be started again.

        The wait is between half of a doubling delay and all of it, so that several engines that were lost
        together do not come back together.
        """
        used = self.used
        if used >= self.limit:
            return None
        self._restarts.append(self._clock())
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**used)
        return delay * (0.5 + self._jitter() / 2)


@dataclass(frozen=True)
class Restart:
    """A restart that is due: after how long, and what the log says of it."""

    delay_seconds: float
    notice: str
    is_plain: bool = False
    """Whether no process that has imported vLLM in advance may be the engine."""


class RestartPolicy:
    """Decides after each failure of one engine."""

    def __init__(self, budget: RestartBudget, *, auto_fit: bool) -> None:
        self._budget = budget
        self._auto_fit = auto_fit
        self.has_served = False
        """Whether an engine has been ready; set by the supervisor."""
        self.changes: Mapping[str, str] = {}
        """Settings that the next start uses in place of the user's (`AUTO_FIT`)."""

    def after(self, error: VllmEngineError, *, was_standby: bool, was_imported: bool = False) -> Restart:
        """Return the restart that follows a failure.

        The failed start of a standby is no verdict. Nor is that of a process that imported vLLM while its
        start was prepared (`was_imported`), if its cause is not known.

        Raises:
            VllmEngineError: it must not be started again.
        """
        if was_standby and isinstance(error, StartupError):
            notice = "the standby failed to become the engine: starting a new process"
            return Restart(0.0, notice, is_plain=True)
        if was_imported and isinstance(error, StartupError) and error.diagnosis.code == "unknown":
            notice = "the cause is not known: starting once more, with no process that imported in advance"
            return Restart(0.0, notice, is_plain=True)
        if self._fit(error):
            chosen = " ".join(f"{key}={value}" for key, value in self.changes.items())
            return Restart(
                0.0, f"AUTO_FIT=1 overrides your settings: starting the engine once more with {chosen}"
            )
        if is_own_shortage(error):
            delay, reason = SHORTAGE_SECONDS, "not counted: this program is out of files or memory"
        else:
            delay, reason = self._counted(error), str(self._budget)
        return Restart(delay, f"the engine is started again in {delay:.1f} s ({reason})")

    def _counted(self, error: VllmEngineError) -> float:
        if not self._may_succeed(error):
            raise error
        delay = self._budget.take()
        if delay is not None:
            return delay
        if not self._budget.limit:
            raise error
        window = self._budget.window_seconds
        given_up = f"given up after {self._budget.used} restarts within RESTART_WINDOW_SECONDS={window:g}"
        last = error.diagnosis
        raise StartupError(replace(last, message=f"{last.message}; {given_up}")) from error

    def _fit(self, error: VllmEngineError) -> bool:
        """Take the diagnosis' values for the next start, if that is wanted and was not tried before."""
        changes = {key: value for key, value in error.diagnosis.changes.items() if key in _FITTING}
        if not (self._auto_fit and changes) or self.changes or self.has_served:
            return False
        self.changes = changes
        return True

    def _may_succeed(self, error: VllmEngineError) -> bool:
        """Whether another start may succeed.

        An engine that has served can serve again. One that never has is taken to fail for a lasting reason
        unless its cause is known to be temporary: the user must read why at once, not after retries.
        """
        if not isinstance(error, EngineError):
            return False
        if self.has_served:
            return error.diagnosis.retryable or not isinstance(error, StartupError)
        is_lasting = isinstance(error, StartupTimeoutError) or error.diagnosis.code == "unknown"
        return error.diagnosis.retryable and not is_lasting
