"""Runs the command line: `python -m vllm_engine.cli`."""

from vllm_engine.cli import main

main(prog_name="vllm-engine")
