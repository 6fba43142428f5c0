"""vLLM's flags: what the catalogue says, and what is refused of an environment and a command line."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_engine.config.flags import ENV_NAMES_NOT_TAKEN, SECRET_FLAGS, Flag, FlagCatalogue, mask

OLD_VLLM = FlagCatalogue.load("0.26.0")
VLLM = FlagCatalogue.load("0.32.0")
NEXT_VLLM = FlagCatalogue.load("0.33.0")
UNKNOWN_VLLM = FlagCatalogue.load("0.99.0")
FEW = settings(deadline=None, max_examples=25)
RESERVED = {"port": "PORT", "--max-model-len": "MAX_MODEL_LEN", "served_model_name": "SERVED_MODEL_NAME"}


def extra(raw: str) -> list[str]:
    """Return what is wrong with a raw command line, whose words are kept."""
    checked = VLLM.check_extra_args(raw, reserved=RESERVED)
    assert checked.warnings == []
    return [str(problem) for problem in checked.problems]


def table(text: str) -> list[list[str]]:
    """Return the cells of lines, which ` => ` separates."""
    return [line.strip().split(" => ") for line in text.strip().splitlines()]


def test_nearest_known_version_is_loaded() -> None:
    for asked, version, exact in (
        ("0.32.1", "0.32.0", True), ("0.32.0+cpu", "0.32.0", True), ("0.33.1rc2", "0.33.0", True),
        ("0.26.0", "0.26.0", True), ("0.11.0", "0.26.0", False), ("0.29.0", "0.32.0", False),
        ("0.31.0", "0.32.0", False), ("1.0.0", "0.33.0", False), ("dev", "0.33.0", False), ("", "0.33.0", False),
    ):  # fmt: skip
        catalogue = FlagCatalogue.load(asked)
        assert (catalogue.version, catalogue.exact) == (version, exact), asked


@pytest.mark.parametrize("catalogue", [OLD_VLLM, VLLM, NEXT_VLLM], ids=["0.26", "0.32", "0.33"])
def test_catalogue_is_whole(catalogue: FlagCatalogue) -> None:
    names = [each.name for each in catalogue.flags]
    aliases = [alias for each in catalogue.flags for alias in each.aliases]
    assert names == sorted(set(names))
    assert len(aliases) == len(set(aliases))
    assert len(names) > 250
    for each in catalogue.flags:
        assert f"--{each.name}" in each.aliases
        assert set(each.negatives) < set(each.aliases)
        assert (each.kind == "bool") == bool(each.negatives)
        assert (each.type == "bool") == (each.kind in ("bool", "switch"))
        assert (catalogue.by_env_name.get(each.env_name) == each) != (each.env_name in ENV_NAMES_NOT_TAKEN)
    absent = {"GRPC_PORT", "LOG_LEVEL"} if catalogue is OLD_VLLM else set()
    assert {each.env_name for each in catalogue.flags} >= ENV_NAMES_NOT_TAKEN - absent
    assert {name for name in names if name.endswith(("-key", "token", "password"))} == SECRET_FLAGS


TAKEN_FROM_ENVIRONMENT: list[tuple[dict[str, str], list[str]]] = [
    ({"ENABLE_PREFIX_CACHING": " False "}, ["--no-enable-prefix-caching"]),
    ({"NO_ENABLE_PREFIX_CACHING": "1"}, ["--no-enable-prefix-caching"]),
    ({"NO_ENABLE_PREFIX_CACHING": "0"}, ["--enable-prefix-caching"]),
    ({"DISABLE_LOG_STATS": "0"}, []),
    ({"MAX_NUM_SEQS": ""}, []),
    ({"DEVICE_MEMORY_UTILIZATION": ".5"}, ["--gpu-memory-utilization", ".5"]),
    ({"MAX_LOG_LEN": "None"}, ["--max-log-len", "None"]),
    ({"MM_PROCESSOR_CACHE_GB": "-0.5"}, ["--mm-processor-cache-gb=-0.5"]),
    ({"CHAT_TEMPLATE": "--x"}, ["--chat-template=--x"]),
    ({"MOE_BACKEND": "Deep-GEMM"}, ["--moe-backend", "Deep-GEMM"]),
    ({"COMPILATION_CONFIG": '{"mode": 3}'}, ["--compilation-config", '{"mode": 3}']),
    ({"SERVED_MODEL_NAME": "one 'two words'"}, ["--served-model-name", "one", "two words"]),
    ({"SERVED_MODEL_NAME": '["one", "two words"]'}, ["--served-model-name", "one", "two words"]),
    ({"IGNORE_PATTERNS": "[ab]*.bin"}, ["--ignore-patterns", "[ab]*.bin"]),
    ({"IGNORE_PATTERNS": "-x"}, ["--ignore-patterns=-x"]),
    ({"CUDAGRAPH_CAPTURE_SIZES": "[1, 2, 4]"}, ["--cudagraph-capture-sizes", "1", "2", "4"]),
    ({"MIDDLEWARE": "a.b c.d"}, ["--middleware", "a.b", "--middleware", "c.d"]),
    ({"LORA_MODULES": '{"name": "a", "path": "/a"}'}, ["--lora-modules", '{"name": "a", "path": "/a"}']),
    ({"SEED": "1", "HOST": "box", "PORT": "x", "MODEL": "y", "HELP": "1", "PATH": "/bin"}, []),
    ({"MAX_NUM_SEQS": "1", "DTYPE": "half", "ENFORCE_EAGER": "1"}, ["--dtype", "half", "--enforce-eager", "--max-num-seqs", "1"]),
]  # fmt: skip


def test_upper_case_names_are_flags() -> None:
    for env, argv in TAKEN_FROM_ENVIRONMENT:
        checked = VLLM.from_environment(env, reserved={})
        assert (checked.argv, checked.problems, checked.warnings) == (argv, [], []), env
    for name in ("--max-num-seqs", "max_num_seqs"):
        checked = VLLM.from_environment({"MAX_NUM_SEQS": "junk"}, reserved={name: "MAX_NUM_SEQS"})
        assert (checked.argv, checked.problems) == ([], [])
    checked = NEXT_VLLM.from_environment({"DISABLE_PREFIX_CACHING": "1"}, reserved={})
    assert (checked.argv, checked.problems) == (["--no-enable-prefix-caching"], [])


REFUSED_FROM_ENVIRONMENT = table(
    """
    ENFORCE_EAGER => yes => expected 1/0/true/false
    MAX_NUM_SEQS => 8k => expected an integer from 1
    MAX_NUM_SEQS => -1 => expected an integer from 1
    MAX_NUM_BATCHED_TOKENS => 0 => expected an integer from 1, such as 8192, 8k or 8K
    WATERMARK => 1 => expected a number from 0 and below 1
    WATERMARK => nan => expected a number from 0 and below 1
    KV_CACHE_METRICS_SAMPLE => 0 => expected a number above 0 and up to 1
    MAX_MODEL_LEN => 1.5K => expected an integer such as 8192, 8k or 8K, or auto
    SCHEDULING_POLICY => fcsf => expected one of fcfs, priority; did you mean fcfs?
    POOLER_CONFIG => [] => expected a JSON object
    COMPILATION_CONFIG => {"moed": 3} => unknown key 'moed' in this JSON object; did you mean mode?
    CUDAGRAPH_CAPTURE_SIZES => 1,2 => expected an integer for each word
    SERVED_MODEL_NAME => it's => expected words quoted as for a shell, or a JSON array; no closing quotation
    SERVED_MODEL_NAME => [] => expected one or more words, each of them text
    SERVED_MODEL_NAME => a -b => expected values that do not start with a dash; vLLM takes them for flags
    """
)


def test_what_cannot_be_used_is_said() -> None:
    for key, value, sentence in REFUSED_FROM_ENVIRONMENT:
        checked = VLLM.from_environment({key: value}, reserved={})
        found = [(problem.key, problem.value, problem.message) for problem in checked.problems]
        assert (checked.argv, found) == ([], [(key, value, sentence)])


def test_every_problem_is_reported_beside_what_is_right() -> None:
    checked = VLLM.from_environment({"MAX_NUM_SEQS": "x", "DTYPE": "y", "ENFORCE_EAGER": "1"}, reserved={})
    assert checked.argv == ["--enforce-eager"]
    assert [problem.key for problem in checked.problems] == ["DTYPE", "MAX_NUM_SEQS"]
    # Two names of one flag contradict each other.
    env = {"GPU_MEMORY_UTILIZATION": ".5", "DEVICE_MEMORY_UTILIZATION": ".6"}
    (problem,) = VLLM.from_environment(env, reserved={}).problems
    assert "expected one of GPU_MEMORY_UTILIZATION and DEVICE_MEMORY_UTILIZATION, not both" in problem.cause


def test_of_an_unknown_version_a_list_decides_nothing() -> None:
    env = {"SCHEDULING_POLICY": "new", "MAX_NUM_SEQS": "junk"}
    named = UNKNOWN_VLLM.from_environment(env, reserved={})
    assert named.argv == ["--scheduling-policy", "new"]
    assert [problem.key for problem in named.problems] == ["MAX_NUM_SEQS"]
    assert [warning.key for warning in named.warnings] == ["SCHEDULING_POLICY"]
    words = "--new-flag 1 2 --dtype new -cc.new=1 --new.key=2 --max-num-seqs x --port 8 --"
    raw = UNKNOWN_VLLM.check_extra_args(words, reserved=RESERVED)
    assert raw.argv == shlex.split(words)
    assert [problem.value for problem in raw.problems] == ["--max-num-seqs x", "--port 8", "--"]
    doubtful = ["--new-flag 1 2", "--dtype new", '-cc {"new": 1}', '--new {"key": 2}']
    assert [warning.value for warning in raw.warnings] == doubtful


def test_names_that_are_almost_flags_get_a_warning() -> None:
    env = {
        **dict.fromkeys(("MAX_MODEL_LENGTH", "MAX_NUM_SEQ", "ENABLE_CHUNKED_PREFIL"), "1"),
        **dict.fromkeys(("SSL_CERT_FILE", "VLLM_ATTENTION_BACKEND", "OMP_NUM_THREADS"), "1"),
        **dict.fromkeys(("MAX_NUM_SEQS", "MODEL_REVISION", "HOSTNAME", "PORTS", "CUDA_HOME"), "1"),
    }
    assert [(each.key, each.remedy) for each in VLLM.near_misses(env, known={"MODEL_REVISION"})] == [
        ("ENABLE_CHUNKED_PREFIL", "did you mean ENABLE_CHUNKED_PREFILL?"),
        ("MAX_MODEL_LENGTH", "did you mean MAX_MODEL_LEN?"),
        ("MAX_NUM_SEQ", "did you mean MAX_NUM_SEQS?"),
    ]


def test_names_that_are_left_to_other_programs_get_a_warning_if_vllm_could_be_meant() -> None:
    env = {
        **{"SEED": "5", "BLOCK_SIZE": "16", "CONFIG": "vllm.yaml", "TOKENIZER": "org/x", "RUNNER": "pooling"},
        **{"PORT": "80", "HOST": "::", "NNODES": "2", "MASTER_PORT": "1", "HEADLESS": "1", "REVISION": "v1"},
    }
    found = VLLM.not_taken(env, known={"REVISION", "TOKENIZER"})
    assert {each.key for each in found} == {"SEED", "BLOCK_SIZE", "CONFIG", "RUNNER"}
    assert 'VLLM_EXTRA_ARGS="--seed 5" or run `vllm-engine serve --seed 5`' in "".join(map(str, found))
    others = {
        "SEED": "random",
        "BLOCK_SIZE": "1k",
        "CONFIG": "Release",
        "RUNNER": "ubuntu-24.04",
        "MODEL": "",
    }
    assert VLLM.not_taken(others, known=()) == []


# What vLLM's parser itself takes and refuses: tests/e2e/test_flags_drift.py has such lines too.
TAKEN = """
    --enforce_eager --no-enable-prefix-caching --no_enforce_eager
    --max-num-seqs 64 --max_num_seqs=64 --max-num-batched-tokens 8K
    --seed -1 --mm-processor-cache-gb=-0.5 --max-num-seqs ' 64 ' --max-log-len ''
    --gpu-mem .9 --no-enable-pre --mm-processor-device cuda
    -tp 2 -q awq -qawq -n2 -r=0 -ep -t 2
    -O2 -O 2 -O=2
    -cc.mode=3 -cc.pass_config.fuse_norm_quant true
    --compilation-config.mode 3 --compilation_config.cudagraph_capture_sizes+=1,2
    --compilation-config.max_cudagraph_capture_size 1k
    --compilation-config '{"max_cudagraph_capture_size": 1k, "cache_dir": "1k"}'
    --hf-overrides.a.b.c -1 --hf-overrides.d+ 1 --hf-overrides.d+=2,3 --hf-overrides.a.d 1
    --hf-overrides some.function
    --lora-modules a=/a --lora-modules '{"name": "a", "path": "/a"}'
    --lora-modules.name a --lora-modules.path /a
    --ignore-patterns a b c --middleware a --middleware b --ignore-patterns a -1
    --hf-token --enforce-eager --hf-token abc
    --chat-template=--x --chat-template '-a b' --config file.yaml
    --device-ids 0,GPU-1 --max-lora-rank ' 16' --collect-detailed-traces all None
    --linear-backend FLASHINFER-CUTLASS
"""  # fmt: skip


def test_what_vllm_takes_is_passed_on() -> None:
    for raw in ("", *TAKEN.strip().splitlines()):
        assert extra(raw) == []
        assert VLLM.check_extra_args(raw, reserved=RESERVED).argv == shlex.split(raw)


REFUSED = table(
    """
    --max-num-sequences 4 => --max-num-sequences 4 => is not a flag of vllm serve 0.32.0; did you mean --max-num-seqs?
    -tp4 => -tp4 => is not a flag of vllm serve 0.32.0; put a space after -tp
    --max-num-s 4 => --max-num-s 4 => could be --max-num-scheduled-tokens, --max-num-seqs; write it in full
    model => model => is not a flag; expected flags such as --max-num-seqs 64
    -- => -- => is not a flag; vllm serve takes nothing after it
    --enforce-eager=true => --enforce-eager=true => expected no value; write --enforce-eager or --no-enforce-eager
    --headless=1 => --headless=1 => expected no value; write --headless
    --response-role two words => --response-role two words => expected one value; quote it if it has spaces
    --hf-token two words => --hf-token *** *** => expected one value; quote it if it has spaces
    --max-num-seqs => --max-num-seqs => expected a value after it: an integer from 1; write --max-num-seqs=VALUE if it starts with a dash
    --ignore-patterns --enforce-eager => --ignore-patterns => expected a value after it: text; write --ignore-patterns=VALUE if it starts with a dash
    --mm-processor-cache-gb x => --mm-processor-cache-gb x => expected a number
    --mm-processor-cache-gb -0.5 => -0.5 => is a dotted key to vLLM, as it starts with a dash and has a dot; write --mm-processor-cache-gb=-0.5
    --scheduling-policy fcsf => --scheduling-policy fcsf => expected one of fcfs, priority; did you mean fcfs?
    --max-lora-rank 17 => --max-lora-rank 17 => expected one of 1, 8, 16, 32, 64, 128, 256, 320, 512
    --allowed-origins a => --allowed-origins a => expected JSON
    -cc.moed=3 => -cc {"moed": 3} => unknown key 'moed' in this JSON object; did you mean mode?
    -cc.mode => -cc.mode => expected a value after it; write it as --flag.key=VALUE
    --hf-overrides.a --enforce-eager => --hf-overrides.a => expected a value after it; write it as --flag.key=VALUE
    --hf-token.x=1 => --hf-token *** => --hf-token has no keys; its value is not JSON
    --lora-modules.name a => --lora-modules {"name": "a"} => expected name=path, or a JSON object with name and path
    --por=80 => --por=80 => is not taken here; set PORT instead
    --model x => --model x => is not taken here; set MODEL_ID instead
    --help=all => --help=all => is not taken here; it prints vLLM's help and ends
    --config=a.yaml => --config=a.yaml => expected --config and the file as two words; vLLM ignores the file otherwise
    --config a.json => --config a.json => expected a file whose name ends in .yaml or .yml
    --response-role 'a => --response-role 'a => expected words quoted as for a shell; no closing quotation
    --hf_token 'a => *** => expected words quoted as for a shell; no closing quotation
    --response-role 'http://u:p@h => --response-role 'http://***@h => expected words quoted as for a shell; no closing quotation
    """
)


@pytest.mark.parametrize(("raw", "shown", "sentence"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_vllm_refuses_is_said(raw: str, shown: str, sentence: str) -> None:
    (problem,) = VLLM.check_extra_args(raw, reserved=RESERVED).problems
    assert (problem.key, problem.value, problem.message) == ("VLLM_EXTRA_ARGS", shown, sentence)


def test_every_problem_of_a_command_line_is_reported() -> None:
    checked = VLLM.check_extra_args(
        "--nonsense 1 --max-num-seqs x stray --port 80", key="MORE", reserved=RESERVED
    )
    shown = [("MORE", words) for words in ("--nonsense 1", "--max-num-seqs x stray", "--port 80")]
    assert [(problem.key, problem.value) for problem in checked.problems] == shown


def test_mask() -> None:
    for argv, shown in (
        ("serve m --port 80", "serve m --port 80"),
        ("--api-key x y --port 80", "--api-key *** *** --port 80"),
        ("--api-key=x --port=80 --api-k=x", "--api-key=*** --port=80 --api-k=***"),
        ("--hf-token --port", "--hf-token --port"),
        ("--hf-token -5 '-a b' -- -", "--hf-token *** *** *** ***"),
        ("--hf-token='x y' --hf_token.a=b", "--hf-token=*** --hf_token.a=***"),
        ("--x http://u:p@h:1 --y=http://u:p@h", "--x http://***@h:1 --y=http://***@h"),
    ):
        assert " ".join(mask(shlex.split(argv))) == shown


@FEW
@given(st.text())
def test_any_text_has_a_verdict(raw: str) -> None:
    assert all(map(str.isprintable, extra(raw)))


@FEW
@given(st.sampled_from(VLLM.flags), st.text() | st.from_regex(r"[-\[{\"' .0-9a-zA-Z:,}\]]{0,12}"))
def test_what_the_environment_gives_is_taken_on_a_command_line(each: Flag, value: str) -> None:
    checked = VLLM.from_environment({each.env_name: value}, reserved={})
    assert all(str(problem).isprintable() for problem in checked.problems)
    assert not (checked.argv and checked.problems)
    assert VLLM.check_extra_args(shlex.join(checked.argv), reserved={}).problems == []


@FEW
@given(st.sampled_from(sorted(SECRET_FLAGS)), st.lists(st.text(min_size=1).map(lambda text: f"§{text}")))
def test_no_secret_is_shown(name: str, secrets: list[str]) -> None:
    argv = [f"--{name}", *secrets, "--port", "80", *(f"--{name}={secret}" for secret in secrets)]
    assert "§" not in "".join(mask(argv))
    assert not any("§" in sentence for sentence in extra(shlex.join(argv)))
