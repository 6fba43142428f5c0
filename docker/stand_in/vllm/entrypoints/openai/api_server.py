"""`python3 -m vllm.entrypoints.openai.api_server ARGUMENTS` is `vllm serve ARGUMENTS`."""

import os
import sys

if __name__ == "__main__":
    os.execvp("vllm", ["vllm", "serve", *sys.argv[1:]])
