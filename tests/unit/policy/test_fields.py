"""What is read of a request's body: top-level keys by a JSON parser, bounded in time and memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_engine.gateway.body.body_fields import read_fields

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 600_000}}
HELLO = {"type": "text", "text": "hello there"}


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        ('{"stream": true}', True),
        ('{"stream":\n\ttrue , "model": "m"}', True),
        ('{"str\\u0065am": true}', True),
        ('{"stream": false}', False),
        ('{"stream": null}', False),
        ("{}", False),
        ('{"tools": [{"default": {"stream": true}}]}', False),
        ('{"stream": false, "metadata": {"stream": true}}', False),
        ('{"messages": [{"content": "say \\"stream\\": true"}]}', False),
        # The last of two counts, as it does for Python's json, which vLLM reads with.
        ('{"stream": true, "stream": false}', False),
        ('{"stream": false, "stream": true}', True),
        # pydantic's lax mode: https://docs.pydantic.dev/latest/concepts/conversion_table/
        *[(f'{{"stream": {word}}}', True) for word in ("1", "1.0", '"1"', '"true"', '"YES"', '"on"', '"T"')],
        *[(f'{{"stream": {word}}}', False) for word in ("0", "2", '"no"', '"off"', '""', "[true]", "{}")],
        ("", False),
        ("[true]", False),
        ('"stream"', False),
        ('{"stream": tru', False),
        ('--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--', False),
        ('{"stream": "tr\udcff"}', False),  # not UTF-8
    ],
)
def test_stream(body: str, stream: bool) -> None:
    """A stream is asked for by the top-level key alone, in every spelling that vLLM takes as true."""
    assert read_fields(body.encode(errors="surrogateescape")).stream is stream


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_encodings(encoding: str) -> None:
    """vLLM reads with Python's json, which tells the encoding by itself: such a body means the same here."""
    body = {"stream": True, "messages": [{"role": "user", "content": "w" * 900}]}
    fields = read_fields(json.dumps(body).encode(encoding))
    assert fields.stream is True
    assert fields.text_bytes >= 900
    assert read_fields(json.dumps({"metadata": body}).encode(encoding)).stream is False


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"'])
def test_more_than_json(value: str) -> None:
    """What Python's json takes beyond the standard hides nothing."""
    assert read_fields(f'{{"user": {value}, "stream": true}}'.encode()).stream is True


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"messages":[', '{"messages":[{"content":['])
def test_deep_nesting(opening: str) -> None:
    """A million levels are vLLM's to refuse."""
    assert read_fields(opening.encode() * 1_000_000).stream is False


@given(
    st.binary(max_size=40) | st.recursive(st.none(), lambda inner: st.lists(inner)).map(repr).map(str.encode)
)
def test_anything(noise: bytes) -> None:
    """Whatever comes is read without an error, in place of a body and of each of its values."""
    read_fields(noise)
    read_fields(b'{"stream":"%s"}' % noise)
    for key in ("stream", "messages", "prompt", "input", "system", "tools", "documents"):
        read_fields(b'{"%s":%s}' % (key.encode(), noise))


JUNK = {
    "objects": b'{"messages":[' + b"{}," * 2_000_000 + b"{}]}",
    "lists": b'{"messages":[' + b"[]," * 2_000_000 + b"[]]}",
    "numbers": b'{"messages":[{"type":1,"content":[' + b"1," * 2_000_000 + b"1]}]}",
    "strings": b'{"input":["type",' + b'"",' * 2_000_000 + b'""]}',
}


@pytest.mark.parametrize("body", JUNK.values(), ids=JUNK.keys())
def test_millions_of_items(body: bytes) -> None:
    """What would cost memory to take apart is left whole, and every byte of it counts."""
    fields = read_fields(body)
    assert fields.text_bytes >= len(body) - 60
    assert fields.stream is False


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [HELLO, IMAGE]}]},
        {"messages": [{"role": "user", "content": [{"image_url": IMAGE["image_url"]}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x" * 5_000_000}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "x" * 5_000_000}}]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": [HELLO, IMAGE]}]}]},
        {"messages": [[{"role": "user", "content": [HELLO, IMAGE]}]] * 2},
    ],
)
def test_media_are_no_text(body: dict[str, Any]) -> None:
    """Five megabytes of an image are not a million tokens, in any of vLLM's dialects."""
    assert read_fields(json.dumps(body).encode()).text_bytes < 100


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "w" * 9000}]},
        {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "w" * 9000}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ";base64," + "w" * 9000}]}]},
        {"messages": [{"role": "user", "content": ["w" * 9000, HELLO]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "a": "w" * 9000}]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": "w" * 9000}]}]},
        {"prompt": "w" * 9000},
        {"prompt": ["w" * 4500, "w" * 4500]},
        {"input": "w" * 9000},
        {"input": [{"type": "function_call_output", "output": "w" * 9000}]},
        {"system": [{"type": "text", "text": "w" * 9000}], "messages": []},
        {"instructions": "w" * 9000, "input": "hi"},
        {"tools": [{"type": "function", "function": {"description": "w" * 9000}}], "messages": []},
        {"query": "w" * 4500, "documents": ["w" * 4500]},
    ],
)
def test_text_counts_wherever_it_stands(body: dict[str, Any]) -> None:
    """No part of a prompt hides from the estimate, whatever stands beside it."""
    assert 9000 <= read_fields(json.dumps(body).encode()).text_bytes < 9200


@pytest.mark.parametrize("key", ["prompt", "input"])
def test_token_ids(key: str) -> None:
    """A prompt of numbers is as many tokens as it has numbers."""
    for prompt, count in (([5, 6, 7], 3), ([[5, 6], [7]], 3), (list(range(5000)), 5000)):
        fields = read_fields(json.dumps({key: prompt}, indent=1).encode())
        assert (fields.token_ids, fields.text_bytes) == (count, 0)


def test_unreadable() -> None:
    """A body that cannot be read counts in full, lest broken JSON be a way around; a form has no prompt."""
    body = b'{"messages": "' + b"w" * 9000 + b'", "temperature": NaN}'
    assert read_fields(body).text_bytes == len(body)
    assert read_fields("{}".encode("utf-16")).text_bytes > 0
    assert read_fields(b"--x\r\n" + b"RIFF" * 9000).text_bytes == 0


@pytest.mark.parametrize(
    ("n", "choices"),
    [
        ("1", 1),
        ("16", 16),
        ('"16"', 16),
        ("16.0", 16),
        ("null", 1),
        ("0", 1),
        ("-3", 1),
        ('"many"', 1),
        ("[9]", 1),
    ],
)
def test_choices(n: str, choices: int) -> None:
    """Answers are asked for by `n`, in every spelling that vLLM takes as a number."""
    assert read_fields(f'{{"messages": [], "n": {n}}}'.encode()).choices == choices
    assert read_fields(f'{{"messages": [], "n": {n}, "top_p": NaN}}'.encode()).choices == choices
    assert read_fields(f'{{"metadata": {{"n": {n}}}}}'.encode()).choices == 1


def test_conversations() -> None:
    """A batch is as many requests as it has conversations; what cannot be counted is not taken for one."""
    one = [{"role": "user", "content": "hi"}]
    assert read_fields(json.dumps({"messages": one}).encode()).conversations == 1
    assert read_fields(json.dumps({"messages": [one] * 7}).encode()).conversations == 7
    assert read_fields(json.dumps({"messages": [one, []]}).encode()).conversations is None
    assert read_fields(b'{"messages": [[{}]], "x": NaN}').conversations is None
