"""Pure: checks of the model: the token, memory, the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import Check, fail, ok, warn
from vllm_engine.models.model_config import kv_cache_bytes, most_tokens
from vllm_engine.models.model_source import HubAccount
from vllm_engine.system.sizes import GIB, gib

WORKING_BYTES = 3 * GIB // 2
"""Memory beside weights and KV cache: CUDA context, activations, graphs. An estimate for small batches."""

_BLOCK_TOKENS = 256


@dataclass(frozen=True)
class Room:
    """The memory that the engine may use on each device, and what has to fit there.

    Attributes:
        budget_bytes: of each GPU, or of main memory.
        weight_bytes: of the whole model once loaded; None if unknown.
        kv_bytes: of the KV cache if its size is set; None for whatever is left.
        devices: how many the model is split over.
        most_devices: how many it could be split over.
    """

    budget_bytes: float
    weight_bytes: int | None
    config: Mapping[str, Any]
    max_model_len: int | None
    kv_value_bytes: int = 2
    kv_bytes: int | None = None
    devices: int = 1
    most_devices: int = 1


def token_check(settings: Settings, account: HubAccount | None) -> Check:
    """Check that the Hugging Face Hub accepts HF_TOKEN."""
    if settings.hf_token is None:
        return ok("token", "not set; public models need none")
    if account is None:
        return ok("token", "set; not checked with the hub")
    if account.is_refused:
        return fail(
            "token", "the hub rejects HF_TOKEN", "create a token with read access and set HF_TOKEN to it"
        )
    return ok("token", f"of {account.owner}" if account.owner else "set; the hub did not name its owner")


def memory_check(room: Room) -> Check:
    """Check that the weights and one request of the maximum length fit into memory."""
    if room.weight_bytes is None:
        return warn("memory", "the size of the weights is unknown", "make sure that they fit")
    share = room.weight_bytes / room.devices
    left = room.budget_bytes - share - WORKING_BYTES
    budget = f"{gib(room.budget_bytes)} available"
    if left <= 0:
        found = f"the weights need {gib(share)}, and {gib(WORKING_BYTES)} to work in; {budget}"
        return fail("memory", found, _more(room))
    if room.kv_bytes is not None and room.kv_bytes > left:
        found = f"weights {gib(share)} and a KV cache of {gib(room.kv_bytes)} do not fit; {budget}"
        return fail(
            "memory", found, f"set KV_CACHE_MEMORY_BYTES={int(left)} or less, or choose a smaller model"
        )
    return _context_check(room, share, min(left, room.kv_bytes or left))


def _context_check(room: Room, share: float, space: float) -> Check:
    # Each device holds its share of the attention heads.
    most = most_tokens(room.config, space * room.devices, room.kv_value_bytes)
    whole = f"weights {gib(share)}, {gib(space)} for the KV cache"
    if room.max_model_len is None:
        return ok("memory", f"{whole}: about {most} tokens" if most is not None else whole)
    one = kv_cache_bytes(room.config, room.max_model_len, room.kv_value_bytes)
    if one is None or most is None:
        return ok("memory", whole)
    if most < room.max_model_len:
        fits = max(1, most // _BLOCK_TOKENS * _BLOCK_TOKENS or most)
        found = f"{whole}; one request of MAX_MODEL_LEN={room.max_model_len} needs {gib(one / room.devices)}"
        return fail("memory", found, f"set MAX_MODEL_LEN={fits}")
    count = int(space * room.devices // max(1, one))
    return ok("memory", f"{whole}: about {count} concurrent request(s) of {room.max_model_len} tokens")


def _more(room: Room) -> str:
    for count in range(room.devices + 1, room.most_devices + 1):
        if (room.weight_bytes or 0) / count + WORKING_BYTES < room.budget_bytes:
            return f"set TENSOR_PARALLEL={count}"
    needed = gib((room.weight_bytes or 0) / room.most_devices + WORKING_BYTES)
    return f"set MODEL_ID to a smaller or quantized model, or use devices with at least {needed} available"


def template_check(has_template: bool | None) -> Check:
    """Check for a chat template: without one vLLM rejects requests to /v1/chat/completions."""
    if has_template is None:
        return ok("template", "unknown until the model is downloaded")
    if has_template:
        return ok("template", "the model has a chat template")
    return warn(
        "template",
        "the model has no chat template: /v1/chat/completions will return 400",
        "set CHAT_TEMPLATE to a Jinja file, or choose an instruction-tuned model",
    )
