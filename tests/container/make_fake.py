"""While the image `fake` is built: make /opt/engine, whose vLLM is the fake, and a model for it."""

import json
from pathlib import Path

from tests.support.fake.fake_engine import make_fake_engine_python

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
# The scenario lies where any user of a read-only container can change it, and a test finds it: the engine's own folder for
# temporary files has another name in each run.
MAIN = """import os, shutil
from pathlib import Path
from tests.support.fake.fake_main import main

scenario = Path("/tmp/scenario.json")
if not scenario.exists():
    shutil.copyfile("/opt/engine/scenario.json", scenario)
os.environ["FAKE_ENGINE_SCENARIO"] = str(scenario)
if __name__ == "__main__":
    main()
"""

python = make_fake_engine_python(Path("/opt/engine"), {"tokens": 16})
(main,) = Path("/opt/engine").glob("lib/*/site-packages/vllm/entrypoints/cli/main.py")
main.write_text(MAIN)
model = Path("/opt/fake/model")
model.mkdir()
(model / "config.json").write_text(json.dumps(CONFIG))
