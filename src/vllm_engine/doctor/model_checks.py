"""Pure: checks of the model: the token, memory, the chat template."""

from __future__ import annotations

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import Check, fail, ok, warn
from vllm_engine.models.model_source import HubAccount
from vllm_engine.sizing.room import WORKING_BYTES, Room
from vllm_engine.system.sizes import gib

_BLOCK_TOKENS = 256


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
    budget = f"{gib(room.budget_bytes)} available"
    share, left = room.share_bytes, room.left_bytes
    if left <= 0:
        found = f"the weights need {gib(share)}, and {gib(WORKING_BYTES)} to work in; {budget}"
        return fail("memory", found, _more(room))
    if room.kv_bytes is not None and room.kv_bytes > left:
        found = f"weights {gib(share)} and a KV cache of {gib(room.kv_bytes)} do not fit; {budget}"
        return fail(
            "memory", found, f"set KV_CACHE_MEMORY_BYTES={int(left)} or less, or choose a smaller model"
        )
    return _context_check(room)


def _context_check(room: Room) -> Check:
    cache, space = room.cache, room.space_bytes
    whole = f"weights {gib(room.share_bytes)}, {gib(space)} for the KV cache"
    most = cache.longest(space) if cache else None
    if cache is None or most is None:
        return ok("memory", whole)
    if room.max_model_len is None:
        return ok("memory", f"{whole}: about {most} tokens")
    one = cache.request_bytes(room.max_model_len)
    if most < room.max_model_len:
        fits = max(1, most // _BLOCK_TOKENS * _BLOCK_TOKENS or most)
        found = f"{whole}; one request of MAX_MODEL_LEN={room.max_model_len} needs {gib(one)}"
        return fail("memory", found, f"set MAX_MODEL_LEN={fits}")
    count = int(space // max(1, one))
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
