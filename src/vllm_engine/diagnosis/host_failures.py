"""Signatures: what surrounds the engine: its flags, its sockets, its compiler, its end."""

from __future__ import annotations

import signal

from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.diagnosis.signature import Advice, Groups, Signature, Stage, always
from vllm_engine.engine.engine_exit import EngineExit


def _ended_by(*numbers: signal.Signals) -> frozenset[int]:
    return frozenset(-number for number in numbers)


_STOPPED = _ended_by(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CRASHED = _ended_by(signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS)


def _flag(groups: Groups, _facts: Facts) -> Advice:
    flag = groups.get("flag")
    named = f"remove {flag} from" if flag else "correct"
    return Advice(
        f"{named} VLLM_EXTRA_ARGS or the variable of that name; `vllm serve --help=all` lists the flags"
    )


def _timeout(_groups: Groups, facts: Facts) -> Advice:
    double = f"{facts.startup_timeout_seconds * 2:g}"
    return Advice(
        f"if its lines above show progress set STARTUP_TIMEOUT_SECONDS={double}, else look at the last of "
        "them; a download goes on where it stopped",
        {"STARTUP_TIMEOUT_SECONDS": double},
    )


def _was_killed(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status == -signal.SIGKILL


def _was_stopped(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status in _STOPPED


def _has_crashed(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status in _CRASHED


def _illegal_instruction(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status == -signal.SIGILL


def _took_too_long(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status is None and not ending.was_ready


def _hangs(ending: EngineExit, _facts: Facts) -> bool:
    return ending.is_hang


def _is_partly_gone(ending: EngineExit, _facts: Facts) -> bool:
    return ending.status is None and ending.was_ready and not ending.is_hang


HOST = (
    Signature(
        code="unknown-flag",
        seen="`error: unrecognized arguments: --no-such-flag`.",
        cause="this vLLM has no flag {flag}",
        advise=_flag,
        patterns=(r"error: unrecognized arguments: (?P<flag>\S+)",),
    ),
    Signature(
        code="bad-flag-value",
        seen="`error: argument --max-model-len: invalid … value: 'banana'`; `invalid tool call parser: …`.",
        cause="vLLM does not accept the value of {flag} ({why})",
        advise=lambda groups, _facts: Advice(
            f"correct {groups.get('flag', 'the flag')} in VLLM_EXTRA_ARGS or in the variable of that name"
        ),
        patterns=(
            r"error: argument (?P<flag>--[\w-]+)\S*: (?P<why>.{1,120})",
            r"(?:KeyError|ValueError)\W*(?P<why>invalid (?P<flag>tool call parser|reasoning parser): "
            r".{1,60})",
        ),
    ),
    Signature(
        code="address-in-use",
        seen="`[Errno 98] … address already in use`.",
        cause="another program listens on the engine's port or socket",
        advise=always(
            "stop the other program; an engine that was left behind shows in `ps` as VLLM::EngineCore"
        ),
        patterns=(r"\[Errno 98\]|Address already in use|address already in use",),
        retryable=True,
    ),
    Signature(
        code="socket-not-possible",
        seen="`AF_UNIX path too long`; `No such file or directory` while the engine binds its socket.",
        cause="the engine cannot make its Unix socket",
        advise=always("set TMPDIR to a short path that exists and can be written, such as /tmp"),
        patterns=(r"AF_UNIX path too long|ipc path .* is longer than", r"in create_server_unix_socket$"),
        unless=r"\[Errno 98\]",
    ),
    Signature(
        code="compiler-missing",
        seen="`InvalidCxxCompiler: No working C++ compiler found`; `Failed to find C compiler`.",
        cause="torch.compile needs a C++ compiler, and there is none in the engine's PATH",
        advise=lambda _groups, _facts: Advice(
            "set ENFORCE_EAGER=1, which compiles nothing, or install gcc and g++", {"ENFORCE_EAGER": "1"}
        ),
        patterns=(
            r"No working C\+\+ compiler found|InvalidCxxCompiler",
            r"Failed to find C compiler",
            r"Could not find nvcc|ninja: not found|Ninja is required to load C\+\+ extensions",
        ),
        stage=Stage.ANY,
    ),
    Signature(
        code="python-headers-missing",
        seen="`fatal error: Python.h: No such file or directory`.",
        cause="Triton compiles against Python's headers, and they are not installed",
        advise=lambda _groups, _facts: Advice(
            "install python3-dev of the engine's Python, or set ENFORCE_EAGER=1", {"ENFORCE_EAGER": "1"}
        ),
        patterns=(r"fatal error: Python\.h: No such file",),
        stage=Stage.ANY,
    ),
    Signature(
        code="too-many-open-files",
        seen="`[Errno 24] Too many open files`.",
        cause="the limit on open files is too low for the engine",
        advise=always("raise it: ulimits.nofile: 65536 in compose, --ulimit nofile=65536 in Docker"),
        patterns=(r"\[Errno 24\]|Too many open files",),
        stage=Stage.ANY,
    ),
    Signature(
        code="too-many-processes",
        seen="`can't start new thread`; `pthread_create … Resource temporarily unavailable`.",
        cause="the limit on processes and threads is too low for the engine",
        advise=always(
            "raise it: pids_limit in compose, --pids-limit in Docker, the node's podPidsLimit in Kubernetes"
        ),
        patterns=(
            r"can't start new thread|pthread_create.*(?:failed|unavailable)|\[Errno 11\]",
            r"Thread creation failed|libgomp: Thread creation",
        ),
        stage=Stage.ANY,
    ),
    Signature(
        code="cpu-not-supported",
        seen="The engine is killed by SIGILL.",
        cause="this processor lacks instructions that this vLLM was compiled for (AVX2 or AVX512)",
        advise=always("use a machine with AVX512, or a vLLM built for this processor"),
        patterns=(r"Failed core proc\(s\): \{[^}]*: -4\b",),
        ended=_illegal_instruction,
        stage=Stage.ANY,
    ),
    Signature(
        code="startup-timeout",
        seen="`the engine was not ready in time`.",
        cause="STARTUP_TIMEOUT_SECONDS={startup_timeout_seconds:g} went by, and it was still {phase}",
        advise=_timeout,
        ended=_took_too_long,
        is_symptom=True,
        retryable=True,
    ),
    Signature(
        code="engine-killed",
        seen="The engine is killed by SIGKILL, or `Failed core proc(s): {'EngineCore': -9}`.",
        cause="somebody else killed it: most often the machine's OOM killer, which the container cannot see",
        advise=lambda _groups, facts: Advice(
            "look for `Out of memory: Killed process` in the host's kernel log (dmesg) and give it more "
            "memory" + (", or a smaller KV_CACHE_MEMORY_BYTES" if facts.device == "cpu" else "")
        ),
        patterns=(
            r"Failed core proc\(s\): \{[^}]*: -9\b",
            r"Worker proc \S+ died unexpectedly \(exit code: -9\)",
        ),
        ended=_was_killed,
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    Signature(
        code="engine-stopped",
        seen="The engine is ended by SIGTERM, SIGINT or SIGHUP, which this program did not send.",
        cause="somebody told the engine alone to stop",
        advise=always("send the signal to this program instead: it drains and stops the engine in order"),
        patterns=(
            r"Failed core proc\(s\): \{[^}]*: -(?:1|2|15)\b",
            r"Worker proc \S+ died unexpectedly \(exit code: -(?:1|2|15)\)",
        ),
        ended=_was_stopped,
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    Signature(
        code="engine-crashed",
        seen="The engine is killed by SIGSEGV, SIGABRT or SIGBUS.",
        cause="a native part of it crashed",
        advise=always(
            "if it repeats set ENFORCE_EAGER=1, check /dev/shm (a bus error means that it is full) and "
            "the versions in the engine's environment, and report it to vLLM with the lines above"
        ),
        patterns=(
            r"Failed core proc\(s\): \{[^}]*: -(?:6|7|8|11)\b",
            r"Worker proc \S+ died unexpectedly \(exit code: -(?:6|7|8|11)\)",
            r"Fatal Python error: (?:Segmentation fault|Aborted|Bus error)|!!!!!!! Segfault encountered",
        ),
        ended=_has_crashed,
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    Signature(
        code="engine-core-died",
        seen="`EngineDeadError` or `Engine core initialization failed`, with no cause before it.",
        cause="its EngineCore or worker process died without a word, most often killed for want of memory",
        advise=always("look for `Out of memory: Killed process` in the host's kernel log (dmesg)"),
        patterns=(
            r"Engine core proc \S+ died unexpectedly|EngineCore\S* died unexpectedly",
            r"EngineDeadError|Engine core initialization failed\. See root cause above",
        ),
        ended=_is_partly_gone,
        stage=Stage.ANY,
        is_symptom=True,
        is_silent=True,
        retryable=True,
    ),
    Signature(
        code="engine-hung",
        seen="`the engine was lost while it was serving (…)`: it runs, and no token comes.",
        cause="it was stuck, and vLLM does not notice that itself",
        advise=always(
            "if it repeats with long prompts on slow hardware raise HANG_TIMEOUT_SECONDS; else look at its "
            "lines above, and on several GPUs at NCCL (NCCL_DEBUG=INFO)"
        ),
        ended=_hangs,
        stage=Stage.SERVING,
        retryable=True,
    ),
)
