"""API keys and tokens: used, and shown to nobody, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.fake.fake_engine import change_scenario, make_fake_engine_python, scenario_of
from tests.support.hostile import CHAT, CONFIG, Watched, engine_socket, watched_program
from tests.support.program import Program, run_cli, until
from tests.support.raw_http import ClosedError, Reply, post_json, request

ALICE = "sk-alice-secret"
BOB = "sk-bob-secret"
TOKEN = "hf_very_secret_token"
WRONG = "sk-mallory-guessed"
KEYS = {"API_KEYS": f"alice:{ALICE} bob:{BOB}", "HF_TOKEN": TOKEN}
SECRETS = (ALICE, BOB, TOKEN, WRONG)
BEARER = f"Authorization: Bearer {ALICE}"


@pytest.fixture(scope="module", params=["console", "json"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One program with keys, in either way of logging, as talkative as it can be."""
    folder = tmp_path_factory.mktemp("secrets")
    settings = KEYS | {"LOG_FORMAT": request.param, "LOG_LEVEL": "debug"}
    with watched_program(folder, {"tokens": 8}, **settings) as watched:
        yield watched
        assert_secret(watched.program.log())


def assert_secret(*texts: str) -> None:
    """None of them shows a secret, or half of one."""
    for text in texts:
        for secret in SECRETS:
            assert secret not in text, text[:2000]
            assert secret[6:] not in text, text[:2000]


def shown(reply: Reply) -> str:
    """Return all that a client sees of an answer."""
    return repr(reply.headers) + reply.body.decode("latin-1")


def test_right_key(program: Watched) -> None:
    """Either way to give a key opens the API, and the key stays at the gateway."""
    for header in (BEARER, f"x-api-key: {BOB}", f"authorization: bearer {BOB}", f"X-API-Key: {ALICE}"):
        program.mark()
        reply = program.ask(post_json("/v1/chat/completions", CHAT, header))
        assert reply.status == 200
        assert_secret(program.reached().decode("latin-1"), shown(reply))
        assert b"authorization" not in program.reached().lower()
        assert b"x-api-key" not in program.reached().lower()


REFUSED = {
    "none": [],
    "wrong": [f"Authorization: Bearer {WRONG}"],
    "wrong x-api-key": [f"x-api-key: {WRONG}"],
    "no scheme": [f"Authorization: {ALICE}"],
    "other scheme": [f"Authorization: Basic {ALICE}"],
    "name and key": [f"Authorization: Bearer alice:{ALICE}"],
    "prefix": [f"Authorization: Bearer {ALICE[:-1]}"],
    "longer": [f"Authorization: Bearer {ALICE}x"],
    "other case": [f"Authorization: Bearer {ALICE.upper()}"],
    "in two headers": [f"Authorization: Bearer {WRONG}", BEARER],
    "in two kinds": [BEARER, f"x-api-key: {WRONG}"],
    "empty": ["Authorization: Bearer "],
    "not ASCII": ["Authorization: Bearer s\xe9cret-\xff"],
    "the hub's": [f"Authorization: Bearer {TOKEN}"],
    "of 60 KB": ["Authorization: Bearer " + "x" * 60_000],
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED.keys())
def test_wrong_key(program: Watched, headers: list[str]) -> None:
    """Anything else is a 401 in the one error shape that shows nothing; the engine sees nothing."""
    program.mark()
    reply = program.ask(post_json("/v1/chat/completions", CHAT, *headers))
    assert (reply.status, reply.header("www-authenticate")) == (401, "Bearer")
    assert reply.json()["error"]["code"] == 401
    assert_secret(shown(reply))
    assert program.reached() == b""


def test_wrong_keys_look_alike(program: Watched) -> None:
    """Nothing in a refusal tells a missing key from a wrong one, or whether a route exists."""
    bodies = {
        program.ask(request("GET", target, None, *headers)).body
        for target in ("/v1/models", "/v1/nothing", "/nothing")
        for headers in REFUSED.values()
    }
    assert len(bodies) == 1


def test_key_in_a_query(program: Watched) -> None:
    """A key in the address opens nothing; queries are not logged, and known keys are blanked in a path."""
    program.mark()
    for target in (f"/v1/models?api_key={ALICE}", f"/v1/models?key={BOB}", f"/{ALICE}", f"/v1/{BOB}"):
        assert program.ask(request("GET", target)).status == 401
    assert "api_key=" not in program.logged()
    assert_secret(program.logged())


def test_key_in_a_trailer(program: Watched) -> None:
    """A key behind the body opens nothing."""
    data = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\nAuthorization: Bearer %s\r\n\r\n" % ALICE.encode()
    )
    assert program.ask(data).status == 401


def test_errors_show_nothing(program: Watched) -> None:
    """Refusals of ours and of the engine's, with a key given, show none."""
    for data in (
        post_json("/v1/chat/completions", {"model": ALICE}, BEARER)[:-2],
        request("GET", "/v1/nothing", None, BEARER),
        request("DELETE", "/v1/models", None, BEARER),
        request("POST", "/v1/chat/completions", b"{", BEARER, "Content-Type: application/json"),
        request("POST", "/v1/_upload", None, BEARER, "Content-Length: 99999999999"),
        request("GET", "/v1/models", None, BEARER, f"X-Request-Id: {'x' * 200}"),
        request("GET", "/livez", None, BEARER),
        f"GET /v1/models HTTP/9.9\r\n{BEARER}\r\n\r\n".encode(),
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nbad header {ALICE}\r\n\r\n".encode(),
    ):
        with program.wire() as connection:
            connection.send(data)
            connection.socket.shutdown(1)
            said = connection.rest().decode("latin-1")
        assert_secret(said)


def test_public_pages_show_nothing(program: Watched) -> None:
    """Probes, version, metrics and the API's description are open or closed, and show no key either way."""
    for target in (
        "/livez",
        "/healthz",
        "/readyz",
        "/ping",
        "/version",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/",
    ):
        for headers in ([], [BEARER]):
            assert_secret(shown(program.ask(request("GET", target, None, *headers))))


def test_engine_break_shows_nothing(program: Watched) -> None:
    """A stream that breaks off says so without a key."""
    scenario = scenario_of(program.python)
    for change in ({"cut_after_n_chunks": 2}, {"error_after_n_chunks": 2}, {"error_status": 500}):
        change_scenario(scenario, **change)
        for stream in (True, False):
            with suppress(ClosedError):
                assert_secret(
                    shown(program.ask(post_json("/v1/chat/completions", CHAT | {"stream": stream}, BEARER)))
                )
        change_scenario(scenario, cut_after_n_chunks=None, error_after_n_chunks=None, error_status=None)


def test_no_process_shows_them(program: Watched) -> None:
    """No command line in the family has a secret; the keys are not in the engine's environment either."""
    for process in program.program.family():
        assert_secret(" ".join(process.cmdline()))
        if process.pid != program.program.pid:
            variables = process.environ()
            assert ALICE not in " ".join(variables.values())
            assert BOB not in " ".join(variables.values())


def test_log_names_the_key(program: Watched) -> None:
    """The access log says whose key it was by its name, in JSON, and never the key."""
    program.mark()
    program.ask(post_json("/v1/chat/completions", CHAT, BEARER))
    until(lambda: "/v1/chat/completions" in program.logged(), "a line of the access log")
    assert '"key": "alice"' in program.logged() or not program.logged().startswith("{")
    assert_secret(program.logged())


@pytest.mark.parametrize("how", ["console", "json"])
def test_crash_shows_nothing(tmp_path: Path, how: str) -> None:
    """The engine's death under a request, and its whole log, show no secret."""
    scenario = {"crash_after_n_chunks": 3, "last_lines": [f"environ: HF_TOKEN={TOKEN} key={ALICE}"]}
    with watched_program(tmp_path, scenario, **KEYS, LOG_FORMAT=how, LOG_LEVEL="debug") as program:
        with suppress(ClosedError):
            said = shown(program.ask(post_json("/v1/chat/completions", CHAT | {"stream": True}, BEARER)))
            assert_secret(said)
        ended(program.program)
    assert_secret(program.program.log())


def ended(program: Program) -> None:
    """Have the program end, by itself or by our word."""
    with suppress(psutil.Error):
        psutil.Process(program.pid).terminate()
    program.wait()


@pytest.mark.parametrize("how", ["console", "json"])
def test_failed_start_shows_nothing(tmp_path: Path, how: str) -> None:
    """A start that fails, with the secrets in the engine's last words, shows none."""
    environ = environment(
        tmp_path, {"die_at_start": 1, "last_lines": [f"401 for token {TOKEN} and key {BOB}"]}
    )
    done = run_cli(environ | {"LOG_FORMAT": how, "LOG_LEVEL": "debug"}, "serve", cwd=tmp_path)
    assert done.returncode == 3
    assert_secret(done.stdout, done.stderr)


@pytest.mark.parametrize("arguments", [("serve", "--dry-run"), ("settings",), ("settings", "--json")])
def test_reports_show_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """What prints the configuration masks the secrets, and says that they are set."""
    done = run_cli(environment(tmp_path, {}), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_secret(done.stdout, done.stderr)
    assert "***" in done.stdout


BAD_KEYS = (
    f"alice:{ALICE} alice:{BOB}",
    f"alice:{ALICE} bob:{ALICE}",
    f"alice:'{ALICE}'",
    f"al/ice:{ALICE}",
    f'"{ALICE}"',
    "alice:sk-ali",
)


@pytest.mark.parametrize("keys", BAD_KEYS)
@pytest.mark.parametrize("arguments", [("serve",), ("settings", "--json")])
def test_bad_keys_are_not_shown(tmp_path: Path, arguments: tuple[str, ...], keys: str) -> None:
    """A mistake in the keys is told without the keys."""
    done = run_cli(environment(tmp_path, {}) | {"API_KEYS": keys, "PORT": "0"}, *arguments, cwd=tmp_path)
    assert_secret(done.stdout, done.stderr)
    assert done.returncode == 2 or arguments[0] == "settings"
    assert "sk-ali" not in done.stderr + done.stdout


def environment(folder: Path, scenario: dict[str, object]) -> dict[str, str]:
    """Return the variables of a program with keys and a fake engine."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    python = make_fake_engine_python(folder / "engine", scenario)
    return {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model), "SERVED_MODEL_NAME": "fake"} | KEYS


def test_engine_answers_without_a_key(program: Watched) -> None:
    """The engine itself asks for no key: its socket is in a folder that only its user may enter."""
    folder = engine_socket(program.program).parent
    assert folder.stat().st_mode & 0o077 == 0
    transport = httpx2.HTTPTransport(uds=str(program.engine.with_suffix(".tapped")))
    with httpx2.Client(transport=transport, base_url="http://engine") as direct:
        assert direct.get("/v1/models").status_code == 200
