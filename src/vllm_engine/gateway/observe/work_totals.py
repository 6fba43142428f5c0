"""The gateway's counters added up for people: requests by status, refusals by reason, work by API key."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from prometheus_client import Counter as Metric
from pydantic import BaseModel

from vllm_engine.gateway.observe.request_record import UNMATCHED, Outcome

MAX_KEYS = 100
"""A file of keys may have thousands: those with the most work are shown."""


class StatusCount(BaseModel):
    """Requests that ended with one status, such as 200; `none` where the client left before there was one."""

    status: str
    outcome: Outcome
    api: int
    """Those on a route of the API."""
    other: int
    """Those on all other paths: probes, the page, and what is not served."""


class ReasonCount(BaseModel):
    """Requests that the gateway refused, by the word of `gateway_rejections_total`."""

    reason: str
    count: int


class KeyWork(BaseModel):
    """What one API key asked for and used; `name` is the key's name, never the key."""

    name: str
    requests: int
    rejected: int
    prompt_tokens: int
    completion_tokens: int


class Totals(BaseModel):
    """Everything since the start of this program."""

    requests: list[StatusCount]
    rejections: list[ReasonCount]
    keys: list[KeyWork]
    """The busiest first."""
    keys_left_out: int


def count_up(requests: Metric, rejections: Metric, key_requests: Metric, tokens: Metric) -> Totals:
    """Add up `gateway_requests_total`, `…_rejections_total`, `…_key_requests_total` and `…_tokens_total`."""
    statuses: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for labels, count in _samples(requests):
        statuses[labels["status"], labels["outcome"]][labels["route"] == UNMATCHED] += count
    reasons = Counter({labels["reason"]: count for labels, count in _samples(rejections)})
    keys = sorted(_keys(key_requests, tokens), key=lambda key: (-key.requests, key.name))
    return Totals(
        requests=[
            StatusCount(status=status, outcome=Outcome(outcome), api=api, other=other)
            for (status, outcome), (api, other) in sorted(statuses.items())
        ],
        rejections=[ReasonCount(reason=reason, count=count) for reason, count in reasons.most_common()],
        keys=keys[:MAX_KEYS],
        keys_left_out=len(keys[MAX_KEYS:]),
    )


def _keys(key_requests: Metric, tokens: Metric) -> Iterator[KeyWork]:
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for labels, count in _samples(key_requests):
        asked[labels["key"]][labels["outcome"]] += count
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for labels, count in _samples(tokens):
        used[labels["key"]][labels["kind"].removesuffix("_estimate")] += count
    for name, outcomes in asked.items():
        yield KeyWork(
            name=name,
            requests=outcomes.total(),
            rejected=outcomes[Outcome.REJECTED],
            prompt_tokens=used[name]["prompt"],
            completion_tokens=used[name]["completion"],
        )


def _samples(metric: Metric) -> Iterator[tuple[dict[str, str], int]]:
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield sample.labels, int(sample.value)
