"""What is read of a request's body: top-level keys by a JSON parser, bounded in time and memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_engine.gateway.body.body_fields import RequestFields, read_fields
from vllm_engine.gateway.body.token_estimate import TokenEstimate

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 600_000}}
HELLO = {"type": "text", "text": "hello there"}
MEDIA = "x" * 5_000_000


def fields_of(body: dict[str, Any]) -> RequestFields:
    return read_fields(json.dumps(body).encode())


def test_a_stream_is_asked_for_by_the_top_level_key_alone() -> None:
    """In every spelling that vLLM takes as true: pydantic's lax mode, and Python's json, for which the last counts."""
    for body in (
        '{"stream": true}', '{"stream":\n\ttrue , "model": "m"}', '{"str\\u0065am": true}',
        '{"stream": false, "stream": true}', '{"user": NaN, "stream": true}', '{"user": "\\ud800", "stream": true}',
        *(f'{{"stream": {word}}}' for word in ("1", "1.0", '"1"', '"true"', '"YES"', '"on"', '"T"')),
    ):  # fmt: skip
        assert read_fields(body.encode()).stream is True, body
    for body in (
        "{}", "", "[true]", '"stream"', '{"stream": tru', '{"stream": "tr\udcff"}',  # the last is not UTF-8
        '{"tools": [{"default": {"stream": true}}]}', '{"stream": false, "metadata": {"stream": true}}',
        '{"messages": [{"content": "say \\"stream\\": true"}]}', '{"stream": true, "stream": false}',
        '--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--',
        *(f'{{"stream": {word}}}' for word in ("false", "null", "0", "2", '"no"', '"off"', '""', "[true]", "{}")),
    ):  # fmt: skip
        assert read_fields(body.encode(errors="surrogateescape")).stream is False, body
    # Python's json tells the encoding by itself: such a body means the same here.
    asked = {"stream": True, "messages": [{"role": "user", "content": "w" * 900}]}
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"):
        fields = read_fields(json.dumps(asked).encode(encoding))
        assert (fields.stream, fields.text_bytes >= 900) == (True, True), encoding
        assert read_fields(json.dumps({"metadata": asked}).encode(encoding)).stream is False


@given(
    st.binary(max_size=40) | st.recursive(st.none(), lambda inner: st.lists(inner)).map(repr).map(str.encode)
)
def test_anything(noise: bytes) -> None:
    """Whatever comes is read without an error, in place of a body and of each of its values."""
    read_fields(noise)
    read_fields(b'{"stream":"%s"}' % noise)
    for key in ("stream", "messages", "prompt", "input", "system", "tools", "documents"):
        read_fields(b'{"%s":%s}' % (key.encode(), noise))


def test_millions_of_items() -> None:
    """What would cost memory to take apart is left whole, and every byte of it counts."""
    for opening, item, end in (
        (b'{"messages":[', b"{},", b"{}]}"), (b'{"messages":[{"type":1,"content":[', b"1,", b"1]}]}"),
        (b'{"input":["type",', b'"",', b'""]}'), (b"", b'{"messages":[{"content":[', b""),
    ):  # fmt: skip
        body = opening + item * 500_000 + end
        fields = read_fields(body)
        assert (fields.text_bytes >= len(body) - 60, fields.stream) == (True, False)


def test_text_counts_wherever_it_stands_and_media_do_not() -> None:
    """Five megabytes of an image are not a million tokens; no part of a prompt hides, whatever stands beside it."""
    media: tuple[dict[str, Any], ...] = (
        {"messages": [{"role": "user", "content": [HELLO, IMAGE]}]},
        {"messages": [{"role": "user", "content": [{"image_url": IMAGE["image_url"]}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": MEDIA}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": MEDIA}}]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": [HELLO, IMAGE]}]}]},
        {"messages": [[{"role": "user", "content": [HELLO, IMAGE]}]] * 2},
    )
    assert [body for body in media if fields_of(body).text_bytes >= 100] == []
    long, half = "w" * 9000, "w" * 4500
    texts: tuple[dict[str, Any], ...] = (
        {"messages": [{"role": "user", "content": long}]},
        {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": long}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ";base64," + long}]}]},
        {"messages": [{"role": "user", "content": [long, HELLO]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "a": long}]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": long}]}]},
        {"prompt": long}, {"prompt": [half, half]}, {"input": long},
        {"input": [{"type": "function_call_output", "output": long}]},
        {"system": [{"type": "text", "text": long}], "messages": []},
        {"instructions": long, "input": "hi"},
        {"tools": [{"type": "function", "function": {"description": long}}], "messages": []},
        {"query": half, "documents": [half]},
    )  # fmt: skip
    assert [body for body in texts if not 9000 <= fields_of(body).text_bytes < 9200] == []


def test_prompts_that_are_not_text() -> None:
    """Numbers are as many tokens; JSON that cannot be read counts in full, lest it be a way around; a form has none."""
    for key in ("prompt", "input"):
        for prompt, count in (([5, 6, 7], 3), ([[5, 6], [7]], 3), (list(range(5000)), 5000)):
            fields = read_fields(json.dumps({key: prompt}, indent=1).encode())
            assert (fields.token_ids, fields.text_bytes) == (count, 0)
    body = b'{"messages": "' + b"w" * 9000 + b'", "temperature": NaN}'
    assert read_fields(body).text_bytes == len(body)
    assert read_fields(b"--x\r\n" + b"RIFF" * 9000).text_bytes == 0


def test_how_many_requests_a_body_is() -> None:
    """Choices in every spelling that vLLM takes as a number."""
    for n, choices in {
        "1": 1, "16": 16, '"16"': 16, "16.0": 16, "null": 1, "0": 1, "-3": 1, '"many"': 1, "[9]": 1
    }.items():  # fmt: skip
        assert read_fields(f'{{"messages": [], "n": {n}}}'.encode()).choices == choices
        assert read_fields(f'{{"messages": [], "n": {n}, "top_p": NaN}}'.encode()).choices == choices
        assert read_fields(f'{{"metadata": {{"n": {n}}}}}'.encode()).choices == 1
    # A batch is as many requests as it has conversations; what cannot be counted is not taken for one.
    one = [{"role": "user", "content": "hi"}]
    assert fields_of({"messages": one}).conversations == 1
    assert fields_of({"messages": [one] * 7}).conversations == 7
    assert fields_of({"messages": [one, []]}).conversations is None
    assert read_fields(b'{"messages": [[{}]], "x": NaN}').conversations is None


def test_estimates_learn_from_what_the_engine_tells_and_are_not_misled() -> None:
    """From four bytes for a token on; short prompts, token ids, images and one letter over and over teach nothing."""
    first = [
        RequestFields(text_bytes=4000),
        RequestFields(text_bytes=1),
        RequestFields(token_ids=77),
        RequestFields(),
    ]
    assert [TokenEstimate().prompt_tokens(fields) for fields in first] == [1000, 1, 77, 0]
    for tokens_per_byte in (0.08, 0.2, 0.6):
        estimate = TokenEstimate()
        for _ in range(100):
            estimate.learn(RequestFields(text_bytes=20), 40)
            estimate.learn(RequestFields(text_bytes=2000, token_ids=5), 1000)
            estimate.learn(RequestFields(text_bytes=2000), 9000)
            estimate.learn(RequestFields(text_bytes=2000), 3)
            estimate.learn(RequestFields(), 0)
        assert estimate.tokens_per_byte == 0.25
        for _ in range(100):
            estimate.learn(RequestFields(text_bytes=5000), round(5000 * tokens_per_byte))
        told = estimate.prompt_tokens(RequestFields(text_bytes=100_000))
        assert told == pytest.approx(100_000 * tokens_per_byte, rel=0.1)
