"""A mock engine core: vLLM's frontends are real, the tokens behind them cost next to nothing.

It saturates a frontend without a GPU. vLLM's own launch code runs as always; only the function that the process of
EngineCore runs is another one (`core_hook.py`). It speaks EngineCore's protocol with vLLM's own message types, so that
every frontend of that version is served: any number of Python API servers, the Rust frontend, both.
"""
