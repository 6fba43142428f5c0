"""What variables of libraries name must be there, and Unix sockets need short paths."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trustme

from vllm_engine.config import library_variables
from vllm_engine.config.environment import check_key_log
from vllm_engine.config.settings import Settings
from vllm_engine.errors import SettingsError
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.hub_errors import explain_hub_error

HUB = Settings(MODEL_ID="org/name")


def test_certificate_authorities(tmp_path: Path) -> None:
    """The problem names the variable and the file; a model that needs no hub is served all the same."""
    good, empty = tmp_path / "ca.pem", tmp_path / "empty.pem"
    trustme.CA().cert_pem.write_to_path(good)
    empty.write_text("no certificate")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"):
        environ = {name: str(tmp_path / "gone")}
        ((problem,), warnings) = library_variables.check_hub_access(HUB, environ)
        assert problem.key == name and problem.value == environ[name] and warnings == []
        for settings, more in (
            (Settings(MODEL_ID=str(tmp_path)), {}),
            (HUB, {"HF_HUB_OFFLINE": "1"}),
            (HUB, {"TRANSFORMERS_OFFLINE": "YES"}),
        ):
            problems, (warning,) = library_variables.check_hub_access(settings, environ | more)
            assert problems == [] and name in warning
        usable = tmp_path if name == "SSL_CERT_DIR" else good
        assert library_variables.check_hub_access(HUB, {name: str(usable)}) == ([], [])
    ((problem,), _) = library_variables.check_hub_access(HUB, {"SSL_CERT_FILE": str(empty)})
    assert "contains no certificate" in str(problem)


def test_the_hubs_address() -> None:
    """An address that is none is named, without its password; one that cannot be reached is named later."""
    for value in ("https://hub.example", "http://me:pw@10.0.0.1:8080/hf"):
        assert library_variables.check_hub_access(HUB, {"HF_ENDPOINT": value}) == ([], [])
    for value in ("nonsense", "huggingface.co", "https://", "ftp://me:pw@x"):
        ((problem,), _) = library_variables.check_hub_access(HUB, {"HF_ENDPOINT": value})
        assert (problem.key, "pw" in str(problem)) == ("HF_ENDPOINT", False)
        assert "expected an http:// or https:// URL such as https://huggingface.co" in problem.message
    told = explain_hub_error(HUB, ScriptError("unreachable", "x"), "http://me:pw@10.0.0.1")
    assert (
        "HF_ENDPOINT=http://***@10.0.0.1 cannot be reached" in told.message and "HF_ENDPOINT" in told.remedy
    )


def test_propagators_and_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "tracecontext, baggage", "b3,None"):
        assert library_variables.check_propagators({"OTEL_PROPAGATORS": value}) == []
    (problem,) = library_variables.check_propagators({"OTEL_PROPAGATORS": "tracecontext, b3"})
    assert "no propagator 'b3' is installed" in str(problem)
    # No TLS library can be imported with a key log that cannot be written.
    check_key_log()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    check_key_log()
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    with pytest.raises(SettingsError, match="SSLKEYLOGFILE"):
        check_key_log()


def test_sockets_in_a_long_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `TMPDIR` that is too long for the path of a Unix socket is left for /tmp, for sockets alone."""
    longest = "/" + "x" * 48
    monkeypatch.setattr(tempfile, "tempdir", longest)
    assert library_variables.temporary_roots() == (Path(longest), Path(longest))
    monkeypatch.setattr(tempfile, "tempdir", "/a b")
    assert library_variables.temporary_roots() == (Path("/tmp"), Path("/a b"))
    monkeypatch.setattr(tempfile, "tempdir", longest + "x")
    assert library_variables.temporary_roots() == (Path("/tmp"), Path(longest + "x"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SettingsError, match=r"TMPDIR=.*too long for Unix sockets; at most 49 bytes"):
        library_variables.temporary_roots()


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only container without /tmp is told what it lacks; a `TMPDIR` that is not there is warned of."""

    def none() -> str:
        raise FileNotFoundError

    (warning,) = library_variables.check_temporary({"TMPDIR": str(tmp_path / "gone")})
    assert "gone" in warning
    assert library_variables.check_temporary({"TMPDIR": str(tmp_path)}) == []
    assert library_variables.check_temporary({}) == []
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(SettingsError, match="TMPDIR"):
        library_variables.temporary_roots()
