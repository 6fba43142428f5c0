"""vLLM's flags: what `vllm serve` takes, from the environment and from a raw command line.

Pure: the lists in `*.json` come from the real parser (`tools/vllm_flags.py`), and neither vLLM nor the
process's environment is needed to check against them.
"""

from vllm_engine.config.flags.flag import ENV_NAMES_NOT_TAKEN, SECRET_FLAGS, Flag, env_name
from vllm_engine.config.flags.flag_catalogue import CheckedFlags, FlagCatalogue
from vllm_engine.config.flags.flag_parser import mask

__all__ = ["ENV_NAMES_NOT_TAKEN", "SECRET_FLAGS", "CheckedFlags", "Flag", "FlagCatalogue", "env_name", "mask"]
