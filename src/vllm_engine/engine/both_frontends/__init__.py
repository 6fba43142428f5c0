"""What runs in the engine's Python to start one engine with both of vLLM's frontends.

The modules import the standard library and each other at the top, and vLLM where they need it.
"""
