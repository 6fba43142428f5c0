"""Pure: checks of the model: may it be had, does it fit, can it chat?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import GIB, Check, fail, gib, ok, warn
from vllm_engine.models.model_config import kv_cache_bytes, most_tokens
from vllm_engine.models.model_source import HubAccount

WORKING_BYTES = 3 * GIB // 2
"""Taken beside weights and KV cache: the CUDA context, activations, graphs. An estimate for small batches."""

_BLOCK_TOKENS = 256


@dataclass(frozen=True)
class Room:
    """What the engine may take of each device, and what is to go in there.

    Attributes:
        budget_bytes: of each GPU, or of main memory.
        weight_bytes: of the whole model, once loaded; None where unknown.
        kv_bytes: of the KV cache, where its size is set; None: whatever is left.
        devices: over how many the model is split.
        most_devices: over how many it could be.
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
    """Is HF_TOKEN one that the hub knows?"""
    if settings.hf_token is None:
        return ok("token", "none set; public models need none")
    if account is None:
        return ok("token", "set; not asked of the hub")
    if account.refused:
        return fail("token", "the hub does not accept HF_TOKEN", "make a new one with read access and set it")
    return ok("token", f"of {account.name}" if account.name else "set; the hub did not say whose")


def memory_check(room: Room) -> Check:
    """Do weights and one longest request fit into memory?"""
    if room.weight_bytes is None:
        return warn("memory", "the size of the weights is not known", "make sure that they fit")
    share = room.weight_bytes / room.devices
    left = room.budget_bytes - share - WORKING_BYTES
    budget = f"{gib(room.budget_bytes)} may be used"
    if left <= 0:
        return fail(
            "memory", f"the weights take {gib(share)} and {gib(WORKING_BYTES)} beside; {budget}", _more(room)
        )
    if room.kv_bytes is not None and room.kv_bytes > left:
        found = f"weights {gib(share)} and a KV cache of {gib(room.kv_bytes)} do not fit; {budget}"
        return fail("memory", found, f"set KV_CACHE_MEMORY_BYTES={int(left)} or less, or a smaller model")
    return _context_check(room, share, min(left, room.kv_bytes or left))


def _context_check(room: Room, share: float, space: float) -> Check:
    # Each of the devices holds its share of the heads.
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
    at_once = int(space * room.devices // max(1, one))
    return ok("memory", f"{whole}: about {at_once} request(s) of {room.max_model_len} tokens at once")


def _more(room: Room) -> str:
    for count in range(room.devices + 1, room.most_devices + 1):
        if (room.weight_bytes or 0) / count + WORKING_BYTES < room.budget_bytes:
            return f"set TENSOR_PARALLEL={count}"
    needed = gib((room.weight_bytes or 0) / room.most_devices + WORKING_BYTES)
    return f"choose a smaller or quantised model as MODEL_ID, or devices of which {needed} can be used"


def template_check(has_template: bool | None) -> Check:
    """Can the model chat? Without a template vLLM refuses /v1/chat/completions."""
    if has_template is None:
        return ok("template", "not known before the model is fetched")
    if has_template:
        return ok("template", "the model has a chat template")
    return warn(
        "template",
        "the model has no chat template: /v1/chat/completions will answer 400",
        "set CHAT_TEMPLATE to a Jinja file, or choose an instruction-tuned model",
    )
