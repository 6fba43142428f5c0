"""The tensors of a GGUF file as a safetensors file in bfloat16."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

_ROWS_AT_ONCE: Final = 4096  # keeps the float32 copy of the embedding to a few MB
_NAMES: Final = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
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

Report = Callable[[int, int], None]
"""Called with the bytes of weights written so far and those to write in all."""


def tensor_bytes(tensor: Any) -> int:
    """Return what a tensor takes in bfloat16."""
    return 2 * math.prod(int(size) for size in tensor.shape)


def weights(
    tensors: Iterable[Any], metadata: Mapping[str, Any], dequantize: Callable[..., Any], report: Report
) -> Iterator[bytes]:
    """Yield a safetensors file piece by piece.

    By hand, and not with safetensors' own writer, which takes the whole model as one mapping in memory and
    says nothing until it is done.
    """
    import numpy as np

    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        end = total + tensor_bytes(tensor)
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
    """Translate `blk.LAYER.PART.weight` or `PART.weight`; the pinned file holds no other part."""
    *layer, part, kind = gguf_name.split(".")
    return ".".join(["model", *(["layers", layer[1]] if layer else []), _NAMES[part], kind])


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
