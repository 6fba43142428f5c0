"""Turns a bundled GGUF file into the Hugging Face folder that vLLM serves.

A missing package is a one-line message instead of a traceback: what the engine may lack is imported late.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vllm_engine.models.engine_scripts import gguf_metadata
from vllm_engine.models.engine_scripts.bundled_files import (
    CONVERTER_VERSION,
    FILES,
    MANIFEST,
    SOURCES,
    WEIGHTS,
    WEIGHTS_VERSION,
    Source,
    has_weights,
    is_intact,
    sha256,
)
from vllm_engine.models.engine_scripts.gguf_weights import tensor_bytes, weights
from vllm_engine.models.engine_scripts.script_io import emit, run

_NOTICE: Final = """\
{name}

SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB), Apache License 2.0:
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct

Quantised to Q4_1 by QuantFactory, and taken from the Python package {distribution} {version} by
Simon Willison: {gguf}
sha256 {sha256}

Changed by vllm-engine's converter, version {converter}: the 4-bit weights were expanded to bfloat16, which
does not bring back the precision that quantisation took; llama.cpp's order of the query and key rows was
undone; configuration, tokenizer and chat template were rewritten from the GGUF metadata into the files that
Hugging Face's libraries read; generation_config.json holds vllm-engine's own defaults for sampling.
"""


class ConvertError(Exception):
    """The conversion cannot be done; the message is one line and says what to do."""


def describe(model: str) -> dict[str, Any]:
    """Return a bundled model's config.json, the bytes of its weights and its chat template; write nothing.

    Raises ConvertError where its package is missing or altered.
    """
    import gguf

    gguf_file, _ = _locate(SOURCES[model])
    reader = gguf.GGUFReader(gguf_file)
    metadata = _metadata(reader)
    return {
        "config": gguf_metadata.config(metadata),
        "bytes": sum(tensor_bytes(tensor) for tensor in reader.tensors),
        "template": gguf_metadata.tokenizer_config(metadata)["chat_template"],
    }


def convert(model: str, folder: str) -> None:
    """Leave in ``folder`` the intact Hugging Face folder of a bundled model, under the model's name.

    It appears whole, by a rename, or not at all. A process that finds another one converting waits for it and
    then uses its result. What an interrupted conversion left, and a folder that is not intact, are removed;
    of an older version's folder the weights are kept if they would be the same.

    Raises ConvertError where its package is missing or altered, OSError where ``folder`` cannot be written.
    """
    output = Path(folder) / model
    output.parent.mkdir(parents=True, exist_ok=True)
    # The lock's file stays: removing it would let two processes each lock a file of that name.
    with output.with_name(f".{model}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever wrote these held the lock that we hold now, so is gone.
        for leftover in output.parent.glob(f".{model}.tmp-*"):
            _remove(leftover)
        if is_intact(output):
            return
        scratch = output.with_name(f".{model}.tmp-{os.getpid()}")
        scratch.mkdir()
        try:
            if has_weights(output, SOURCES[model]):
                with suppress(OSError):  # no hard links here: they are converted again
                    (scratch / WEIGHTS).hardlink_to(output / WEIGHTS)
            # Before the conversion, not after: a disk may have room for one copy only.
            _remove(output)
            _fill(scratch, model, SOURCES[model])
            scratch.rename(output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _fill(folder: Path, name: str, source: Source) -> None:
    gguf_file, licence = _locate(source)
    import gguf

    reader = gguf.GGUFReader(gguf_file)
    metadata = _metadata(reader)
    chunks = {
        "LICENSE": [licence.encode()],
        "NOTICE": [_NOTICE.format(name=name, converter=CONVERTER_VERSION, **vars(source)).encode()],
        "config.json": [_json(gguf_metadata.config(metadata))],
        "generation_config.json": [_json({**gguf_metadata.special_ids(metadata), **source.generation})],
        "tokenizer.json": [gguf_metadata.tokenizer(metadata).encode()],
        "tokenizer_config.json": [_json(gguf_metadata.tokenizer_config(metadata))],
        WEIGHTS: weights(reader.tensors, metadata, gguf.quants.dequantize, _report),
    }
    manifest = {
        "model": name,
        "converter_version": CONVERTER_VERSION,
        "weights_version": WEIGHTS_VERSION,
        "source_sha256": source.sha256,
        "files": {file: _entry(folder / file, chunks[file]) for file in FILES},
    }
    _write(folder / MANIFEST, [_json(manifest)])


def _metadata(reader: Any) -> dict[str, Any]:
    return {key: field.contents() for key, field in reader.fields.items()}


def _locate(source: Source) -> tuple[Path, str]:
    """Return the verified GGUF file and the text of its licence, without importing the package around it."""
    try:
        distribution = importlib.metadata.distribution(source.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise _missing(source.distribution) from None
    gguf_file = Path(str(distribution.locate_file(source.gguf)))
    licence = distribution.read_text("LICENSE")
    if not gguf_file.is_file() or licence is None:
        raise _missing(f"{source.distribution}=={source.version}")
    if sha256(gguf_file) != source.sha256:
        raise ConvertError(
            f"{gguf_file} is not the file this model is pinned to (its sha256 differs):"
            f" reinstall {source.distribution}=={source.version}"
        )
    return gguf_file, licence


def _missing(package: str) -> ConvertError:
    return ConvertError(
        f"the package {package} is not installed for the engine's Python ({sys.executable}): run `make setup`"
    )


def _report(done: int, total: int) -> None:
    emit("progress", done=done, total=total)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _entry(path: Path, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Return the manifest's entry of a file, which is written unless it was kept."""
    if path.exists():
        return {"size": path.stat().st_size, "sha256": sha256(path)}
    return _write(path, chunks)


def _write(path: Path, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Write a new file; return the size and sha256 of what was meant to be written.

    It is not forced to the disk: whoever uses the folder checks it whole, at each start.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, ImportError):
        error = _missing(error.name or str(error))
    if not isinstance(error, OSError):
        return "failed", str(error) if isinstance(error, ConvertError) else f"{type(error).__name__}: {error}"
    message = f"cannot write the bundled model: {error.strerror or error}"
    message += f" ({error.filename})" if error.filename is not None else ""
    no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ("disk_full" if no_room else "failed"), message + (" (it takes about 280 MB)" if no_room else "")


if __name__ == "__main__":
    run({"convert": convert, "describe": describe}, _explain)
