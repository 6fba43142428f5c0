#!/usr/bin/env python3
"""Ask a running server what people ask first, print the answers to be read, and a line on each way of sampling.

    .venv/bin/python -m perf.first_answers http://127.0.0.1:8000
    .venv/bin/python -m perf.first_answers URL --sampling '{"temperature": 1, "repetition_penalty": 1}' --at-once 16

Asks ten ordinary questions, those that the page suggests, and README's. Without `--sampling`, which can be given
several times and goes into the requests, the server's own defaults are in effect, its limit of tokens included.
One question at a time, unless `--at-once` says otherwise: then the seconds mean little.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from perf.bench.machine import describe

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "src/vllm_engine/gateway/local/web/chat/chat.js"
QUESTIONS = (
    "Tell me a joke.",
    "What is the capital of Japan?",
    "Write a haiku about the sea.",
    "Who are you?",
    "How do I boil an egg?",
    "What is 12 times 7?",
    "Translate 'Good morning, how are you?' into Spanish.",
    "Write a Python function that adds two numbers.",
    "What should I cook for dinner tonight?",
    "Explain in two sentences what a computer is.",
)
WORDS = 4
TOO_REPETITIVE = 0.2
LONGEST_SECONDS = 1800.0


@dataclass(frozen=True)
class Answer:
    """One answer; `repeated` is the share of its runs of four words that it has had before."""

    question: str
    text: str
    tokens: int
    seconds: float
    finish: str

    @property
    def repeated(self) -> float:
        """Nought for text that never repeats itself, near one for a loop."""
        words = self.text.lower().split()
        runs = [tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)]
        return 1 - len(set(runs)) / len(runs) if runs else 0.0


def questions() -> list[str]:
    """Return what is asked: ours, the page's suggestions, and what README's request asks."""
    ideas = re.search(r"const IDEAS = \[(.*?)\];", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    readme = re.search(
        r'"role": "user", "content": "([^"]+)"', (ROOT / "README.md").read_text(encoding="utf-8")
    )
    if ideas is None or readme is None:
        raise SystemExit("first_answers: no IDEAS in chat.js, or no request in README.md")
    return list(dict.fromkeys([*QUESTIONS, *re.findall(r'"([^"]+)"', ideas[1]), readme[1]]))


def ask(url: str, model: str, question: str, sampling: Mapping[str, object]) -> Answer:
    """Ask one question."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], **sampling}
    began = time.monotonic()
    response = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=LONGEST_SECONDS)
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    choice, tokens = found["choices"][0], found["usage"]["completion_tokens"]
    return Answer(
        question, choice["message"]["content"], tokens, time.monotonic() - began, choice["finish_reason"]
    )


def row(name: str, answers: list[Answer]) -> str:
    """Return a line of the table."""
    count, loops = len(answers), [each for each in answers if each.repeated > TOO_REPETITIVE]
    cut = [each for each in answers if each.finish == "length"]
    mean = sum(each.repeated for each in answers) / count
    tokens, slowest = sum(each.tokens for each in answers) / count, max(each.seconds for each in answers)
    return f"| {name} | {len(loops)} of {count} | {mean:.2f} | {tokens:.0f} | {len(cut)} of {count} | {slowest:.1f} |"


def main() -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--sampling", action="append", type=json.loads, metavar="JSON")
    parser.add_argument("--at-once", type=int, default=1, metavar="N")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    model = httpx2.get(f"{url}/v1/models", timeout=10).raise_for_status().json()["data"][0]["id"]
    rows = []
    with ThreadPoolExecutor(options.at_once) as pool:
        for sampling in options.sampling or [{}]:
            name = f"`{json.dumps(sampling)}`" if sampling else "the server's defaults"
            answers = list(pool.map(lambda question: ask(url, model, question, sampling), questions()))  # noqa: B023 - mapped at once
            for each in answers:
                told = (
                    f"{each.tokens} tokens, {each.seconds:.1f} s, {each.finish}, repeated {each.repeated:.2f}"
                )
                print(f"--- {name}: {each.question} ({told})\n{each.text}\n", flush=True)
            rows.append(row(name, answers))
    print(f"{model}, {options.at_once} at once; {describe()}\n")
    print("| sampling | answers that loop | repeated | tokens | cut off | slowest s |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
