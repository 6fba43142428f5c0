"""`python3 -m vllm.entrypoints.cli.main ARGUMENTS` is `vllm ARGUMENTS`."""

import os
import sys

if __name__ == "__main__":
    os.execvp("vllm", ["vllm", *sys.argv[1:]])
