"""Our program with a fake engine: a real child process on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import Program, running

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}

StartProgram = Callable[..., Program]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A local model as far as our program looks into one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def start(tmp_path: Path, model_folder: Path) -> Iterator[StartProgram]:
    """Start the program with a fake engine of the given scenario and further variables."""
    with ExitStack() as stack:

        def start_program(
            scenario: dict[str, Any] | None = None,
            *arguments: str,
            wrapper: tuple[str, ...] = (),
            **variables: str,
        ) -> Program:
            python = make_fake_engine_python(tmp_path / "engine", scenario or {})
            environ = {
                "ENGINE_PYTHON": str(python),
                "MODEL_ID": str(model_folder),
                "SERVED_MODEL_NAME": "fake",
                "EXTRA_ROUTES": "/v1/_echo, PUT /v1/_echo, /v1/_upload",
            }
            context: AbstractContextManager[Program] = running(
                environ | variables, folder=tmp_path, arguments=arguments, wrapper=wrapper
            )
            return stack.enter_context(context)

        yield start_program
