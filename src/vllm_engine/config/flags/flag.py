"""What one flag of `vllm serve` is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

SECRET_FLAGS = frozenset({"api-key", "hf-token"})
"""Names of the flags whose values are never shown."""

ENV_NAMES_NOT_TAKEN = frozenset(
    {
        *("API_KEY", "HF_TOKEN"),  # secrets do not belong on a command line, which every process can read
        *("HOST", "PORT", "GRPC_PORT"),  # set by login shells, hosting platforms, and Kubernetes for Services
        *("MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK"),  # torchrun's and Slurm's, for their own job
        # build and CI systems, browsers, coreutils
        *("CONFIG", "REVISION", "RUNNER", "HEADLESS", "BLOCK_SIZE"),
        *("MODEL", "SEED", "TOKENIZER"),  # training scripts
        "LOG_LEVEL",  # most programs' verbosity, in lower case, which vLLM refuses
    }
)
"""Upper-case flag names too general to be taken from an environment.

Those that no setting replaces can be given in `VLLM_EXTRA_ARGS`.
"""

ENV_NAMES_OF_OTHERS = frozenset(
    {"API_KEY", "GRPC_PORT", "HEADLESS", "HF_TOKEN", "HOST", "LOG_LEVEL", "PORT"}
    | {"MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK"}
)
"""Those of them that machines set by themselves, or that have a meaning here: they are not meant for vLLM."""


@dataclass(frozen=True)
class Flag:
    """One flag of `vllm serve`, as vLLM's own parser describes it.

    `type` names what one value must be: `bool`, `str`, `int`, `float`, `ids` (a comma-separated list),
    `human_int` (also `8k` or `8K`), `human_int_or_auto`, `json` (any JSON), `json_object`,
    `json_or_str`, or `lora` (`name=path` or a JSON object).
    """

    name: str
    """The long form without its dashes: `max-num-seqs`."""
    aliases: tuple[str, ...]
    """Every option string the parser takes, short and negative ones included."""
    kind: Literal["bool", "switch", "value", "list"]
    """`bool` can be turned off by a flag, `switch` only on; `value` takes one value, `list` one or more."""
    type: str
    choices: tuple[str, ...] | None = None
    negatives: tuple[str, ...] = ()
    """The aliases that turn a `bool` off."""
    platform_choices: tuple[str, ...] = ()
    """Further choices, each of which vLLM takes on one kind of device only."""
    fold_choices: bool = False
    """Whether vLLM lower-cases the value and reads `-` as `_` before it looks at the choices."""
    optional: bool = False
    """Whether the values `None` and the empty string mean that the flag is not set."""
    bare: bool = False
    """Whether a `value` flag may stand without its value."""
    repeat: bool = False
    """Whether a `list` is given by repeating the flag instead of by several values."""
    dotted: bool = False
    """Whether JSON keys may be given one by one, as in `--compilation-config.mode 3`."""
    keys: tuple[str, ...] | None = None
    """The only keys vLLM takes in the JSON object; None where it takes any."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    """The bounds of a number, as pydantic calls them."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Build a flag from one entry that `tools/vllm_flags.py` wrote."""
        fields: dict[str, Any] = dict(entry)
        for key, value in fields.items():
            if isinstance(value, list):
                fields[key] = tuple(value)
        return cls(**fields)

    @property
    def env_name(self) -> str:
        """The upper-case name that sets this flag from an environment."""
        return env_name(f"--{self.name}")

    def switched(self, on: bool) -> list[str]:
        """Return the arguments that turn a `bool` or a `switch` on or off; a `switch` is off when absent."""
        if on:
            return [f"--{self.name}"]
        plain_no = f"--no-{self.name}"
        return [plain_no if plain_no in self.negatives else self.negatives[0]] if self.negatives else []


def env_name(option: str) -> str:
    """Return the upper-case name of a long option: `--max-num-seqs` is `MAX_NUM_SEQS`."""
    return option.removeprefix("--").replace("-", "_").upper()


def bare_name(name: str) -> str:
    """Return a flag's name as `Flag.name` spells it, from `--api-key`, `api_key` or `api-key`."""
    return name.removeprefix("--").replace("_", "-")
