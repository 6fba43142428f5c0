"""The queue that is fair between keys, against a plain model of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_engine.gateway.policy.fairness import FairQueue


@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "next", "room"]), st.integers(0, 3))))
def test_queue_against_a_plain_model(steps: list[tuple[str, int]]) -> None:
    """The queue does what a list of keys with a list of items each would."""
    queue: FairQueue[int] = FairQueue()
    model: list[tuple[str, list[int]]] = []
    for number, (step, which) in enumerate(steps):
        key = "abcd"[which]
        mine = next((items for name, items in model if name == key), [])
        if step == "add":
            queue.append(key, number)
            if not mine:
                model.append((key, mine))
            mine.append(number)
        elif step == "drop":
            queue.discard(key, mine.pop(len(mine) // 2) if mine else -1)
        elif step == "next" and model:
            assert queue.popleft() == model[0][1].pop(0)
            model.append(model.pop(0))
        elif step == "room":
            most = max((items for _, items in model), key=len, default=[])
            assert queue.make_room(key) == (most.pop() if len(mine) + 1 < len(most) else None)
        model = [(name, items) for name, items in model if items]
        assert len(queue) == sum(len(items) for _, items in model)
        assert [queue.count(name) for name, _ in model] == [len(items) for _, items in model]
