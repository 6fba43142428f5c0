"""Pure: what a million tokens cost, from a price and a throughput that somebody measured, or its bound."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.models.model_config import first_number, text_config
from vllm_engine.sizing.replica import Replica

_EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")


@dataclass(frozen=True)
class Bound:
    """The most tokens a second that the memory's bandwidth lets one replica generate.

    Attributes:
        tokens_per_second: of all requests together.
        requests: that run at once.
        tokens: that each of them holds.
    """

    tokens_per_second: float
    requests: int
    tokens: int


def bandwidth_bound(replica: Replica) -> Bound | None:
    """Return the bound; None where it is not known: no bandwidth, a mixture of experts, unknown layers.

    For each token of each request a step reads the weights once for all requests, and each one's keys and
    values: requests / ((weights + requests x keys and values) / bandwidth), of one GPU, since GPUs that share
    a model read their shares at the same time. What the step computes, how long its parts wait for each
    other, and prompts are left out: the true figure is lower.
    """
    gpu, config = replica.hardware.gpu, replica.model.config
    requests = _requests(replica)
    if gpu.bandwidth_gb is None or replica.cache is None or not requests or not replica.fits:
        return None
    if first_number(text_config(config), _EXPERTS) or text_config(config) is not config:
        return None  # a step reads only the experts that it uses, and no image encoder
    copies = replica.data_parallel
    each, tokens = max(1, requests // copies), held_tokens(replica)
    weights = replica.room.share_bytes - _unread(replica) / replica.room.devices
    step = (weights + each * replica.cache.held_bytes(tokens)) / (gpu.bandwidth_gb * 1e9)
    return Bound(copies * each / step, copies * each, tokens)


def held_tokens(replica: Replica) -> int:
    """Return the tokens that a running request holds on average: its prompt and half of its answer."""
    load = replica.load
    if load.usual is None:
        return load.context
    return max(1, (load.prompt or 0) + (load.output or 0) // 2)


def cost_per_million(replica: Replica, price: float, tokens_per_second: float) -> float:
    """Return the price of a million tokens, where a GPU (or the machine, on CPU) costs `price` an hour."""
    return price * replica.hardware.count / (tokens_per_second * 3600) * 1e6


def _requests(replica: Replica) -> int | None:
    at_once = replica.at_once(replica.load.usual or replica.load.context)
    if at_once is None or replica.load.users is None:
        return at_once
    return min(at_once, replica.load.users)


def _unread(replica: Replica) -> float:
    """Return the bytes of the table of input tokens, of which a step reads single rows."""
    text = text_config(replica.model.config)
    if text.get("tie_word_embeddings", True):
        return 0
    width = 4 if replica.dtype == "float32" else 2
    return (first_number(text, ("vocab_size",)) or 0) * (first_number(text, ("hidden_size",)) or 0) * width
