"""What runs in the engine's Python: the hub client, and the converter of the bundled model.

The gateway runs these modules through `models/engine_script.py`. They import the standard library and each
other at the top, so that the gateway may share their definitions, and the engine's packages where they need
them. They run on every Python that vLLM runs on.
"""
