"""Known failures around the engine: its flags, sockets and compiler, and how its processes end."""

from __future__ import annotations

from signal import SIGABRT, SIGBUS, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGKILL, SIGSEGV, SIGTERM

from vllm_engine.diagnosis.known_failure import Advice, Groups, KnownFailure, Stage, setting
from vllm_engine.diagnosis.refused_values import refused_values
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit


def _flag(groups: Groups, _facts: Facts) -> Advice:
    flag = groups.get("flag")
    named = f"remove {flag} from" if flag else "correct"
    return Advice(
        f"{named} VLLM_EXTRA_ARGS or the variable of that name; `vllm serve --help=all` lists the flags"
    )


def _refused(end: EngineExit, facts: Facts) -> Groups | None:
    found = refused_values(end, facts.given)
    if not found:
        return None
    names = dict.fromkeys(
        each.given.variable if each.given else f"--{each.flag} in VLLM_EXTRA_ARGS" for each in found
    )
    return {"refused": ", ".join(map(str, found)), "variables": " and ".join(names)}


def _timeout(_groups: Groups, facts: Facts) -> Advice:
    double = f"{facts.startup_timeout_seconds * 2:g}"
    return Advice(
        f"if its output above shows progress set STARTUP_TIMEOUT_SECONDS={double}, else see its last lines",
        {"STARTUP_TIMEOUT_SECONDS": double},
    )


HOST = (
    KnownFailure(
        code="unknown-flag",
        seen="`error: unrecognized arguments: --no-such-flag`.",
        cause="this vLLM has no flag {flag}",
        remedy=_flag,
        patterns=(r"error: unrecognized arguments: (?P<flag>\S+)",),
        is_setting=True,
    ),
    KnownFailure(
        code="bad-flag-value",
        seen="`error: argument --max-model-len: invalid … value: 'banana'`; `2 validation errors for "
        "SchedulerConfig`, `max_num_seqs`, `Input should be greater than or equal to 1`; `invalid tool call "
        "parser: …`.",
        cause="vLLM does not accept {refused}",
        remedy=lambda groups, _facts: Advice(f"correct {groups.get('variables', 'the setting or flag')}"),
        read=_refused,
        is_setting=True,
    ),
    KnownFailure(
        code="address-in-use",
        seen="`[Errno 98] … address already in use`.",
        cause="another program is listening on the engine's port or socket",
        remedy="stop the other program; an engine that was left running is shown by `ps` as VLLM::EngineCore",
        patterns=(r"\[Errno 98\]|Address already in use|address already in use",),
        retryable=True,
    ),
    KnownFailure(
        code="socket-not-possible",
        seen="`AF_UNIX path too long`; `No such file or directory` while the engine binds its socket.",
        cause="the engine cannot create its Unix socket",
        remedy="set TMPDIR to a short path that exists and is writable, such as /tmp",
        patterns=(r"AF_UNIX path too long|ipc path .* is longer than", r"in create_server_unix_socket$"),
        unless=r"\[Errno 98\]",
    ),
    KnownFailure(
        code="compiler-missing",
        seen="`InvalidCxxCompiler: No working C++ compiler found`; `Failed to find C compiler`.",
        cause="torch.compile needs a C++ compiler, and none was found in the engine's PATH",
        remedy=setting("ENFORCE_EAGER", 1, ", which needs no compiler, or install gcc and g++"),
        patterns=(
            r"No working C\+\+ compiler found|InvalidCxxCompiler",
            r"Failed to find C compiler",
            r"Could not find nvcc|ninja: not found|Ninja is required to load C\+\+ extensions",
        ),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="python-headers-missing",
        seen="`fatal error: Python.h: No such file or directory`.",
        cause="Triton needs Python's headers to compile, and they are not installed",
        remedy=Advice(
            "install python3-dev for the engine's Python, or set ENFORCE_EAGER=1", {"ENFORCE_EAGER": "1"}
        ),
        patterns=(r"fatal error: Python\.h: No such file",),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="too-many-open-files",
        seen="`[Errno 24] Too many open files`.",
        cause="the limit on open files is too low for the engine",
        remedy="raise it: ulimits.nofile: 65536 in compose, --ulimit nofile=65536 in Docker",
        patterns=(r"\[Errno 24\]|Too many open files",),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="too-many-processes",
        seen="`can't start new thread`; `pthread_create … Resource temporarily unavailable`.",
        cause="the limit on processes and threads is too low for the engine",
        remedy="raise it: pids_limit in compose, --pids-limit in Docker, the node's podPidsLimit in "
        "Kubernetes",
        patterns=(
            r"can't start new thread|pthread_create.*(?:failed|unavailable)|\[Errno 11\]",
            r"Thread creation failed|libgomp: Thread creation",
        ),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="cpu-not-supported",
        seen="The engine or a worker is killed by SIGILL.",
        cause="this processor lacks instructions that this vLLM was compiled for (AVX2 or AVX512)",
        remedy="use a machine with AVX512, or a vLLM built for this processor",
        signals=(SIGILL,),
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="startup-timeout",
        seen="`the engine was not ready in time`.",
        cause="STARTUP_TIMEOUT_SECONDS={startup_timeout} passed while it was {phase}",
        remedy=_timeout,
        ended=lambda end, _facts: end.status is None and not end.was_ready,
        is_symptom=True,
        retryable=True,
    ),
    KnownFailure(
        code="engine-killed",
        seen="The engine or one of its processes `was killed by SIGKILL`, or `Failed core proc(s): "
        "{'EngineCore': -9}`.",
        cause="{process} was killed from outside by SIGKILL, most often by the host's OOM killer, which the "
        "container cannot see",
        remedy=lambda _groups, facts: Advice(
            "look for `Out of memory: Killed process` in the host's kernel log (dmesg) and give it more "
            "memory" + (", or a smaller KV_CACHE_MEMORY_BYTES" if facts.device == "cpu" else "")
        ),
        signals=(SIGKILL,),
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    KnownFailure(
        code="engine-stopped",
        seen="The engine is ended by a SIGTERM, SIGINT or SIGHUP that this program did not send.",
        cause="the engine alone was told to stop",
        remedy="send the signal to this program instead, which drains before it stops the engine",
        signals=(SIGTERM, SIGINT, SIGHUP),
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    KnownFailure(
        code="engine-crashed",
        seen="The engine is killed by SIGSEGV, SIGABRT or SIGBUS.",
        cause="native code in it crashed",
        remedy="if it repeats set ENFORCE_EAGER=1, check /dev/shm (a bus error means that it is full) and "
        "the versions in the engine's environment, and report it to vLLM with the lines above",
        patterns=(
            r"Fatal Python error: (?:Segmentation fault|Aborted|Bus error)|!!!!!!! Segfault encountered",
        ),
        signals=(SIGSEGV, SIGABRT, SIGFPE, SIGBUS),
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    KnownFailure(
        code="rust-frontend-died",
        seen="`Process RustFrontend (PID: …) died with exit code 101`.",
        cause="vLLM's Rust frontend exited with status {status}",
        remedy="its lines above say why; if it repeats set ENGINE_FRONTEND=python, which does without it",
        patterns=(
            r"Process RustFrontend \(PID: \d+\) died with exit code (?P<status>\d+)",
            r"Failed frontend proc\(s\): \{'RustFrontend': (?P<status>\d+)\}",
        ),
        stage=Stage.ANY,
        is_symptom=True,
        retryable=True,
    ),
    KnownFailure(
        code="engine-core-died",
        seen="`EngineDeadError` or `Engine core initialization failed`, with no cause before it.",
        cause="its EngineCore or a worker ended and left no error ({child})",
        remedy="read its output above; if memory ran out, the host's kernel log (dmesg) has `Out of memory: "
        "Killed process`; if it repeats, report it to vLLM",
        patterns=(
            r"Engine core proc(?:ess)? \S+ died unexpectedly|EngineCore\S* died unexpectedly",
            r"EngineDeadError|Engine core initialization failed\. See root cause above",
        ),
        ended=lambda end, _facts: end.status is None and end.was_ready and not end.is_hang,
        stage=Stage.ANY,
        is_symptom=True,
        is_silent=True,
        retryable=True,
    ),
    KnownFailure(
        code="engine-hung",
        seen="`the engine was lost while it was serving (…)`: it is running, but generates nothing.",
        cause="it hung, which vLLM itself does not notice",
        remedy="if it repeats, look at its output above, and on several GPUs at NCCL (NCCL_DEBUG=INFO); "
        "raise HANG_TIMEOUT_SECONDS if it was only slow, such as with long prompts on a CPU",
        ended=lambda end, facts: end.is_hang and not (facts.nodes > 1 and end.silent_peers),
        stage=Stage.SERVING,
        retryable=True,
    ),
)
