"""vLLM's flags: what the catalogue says, and what is refused of an environment and a command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_engine.config.flags import (
    ENV_NAMES_NOT_TAKEN,
    SECRET_FLAGS,
    Flag,
    FlagCatalogue,
    FlagError,
    mask,
)
from vllm_engine.config.flags.flag_values import refusal

VLLM = FlagCatalogue.load("0.32.0")
NEXT_VLLM = FlagCatalogue.load("0.33.0")
UNKNOWN_VLLM = FlagCatalogue.load("0.99.0")
EVERY_FLAG = [pytest.param(flag, id=flag.name) for flag in VLLM.flags]
RESERVED = {"port": "PORT", "--max-model-len": "MAX_MODEL_LEN", "served_model_name": "SERVED_MODEL_NAME"}


def environment(env: Mapping[str, str]) -> list[str]:
    """Return the arguments of an environment in which nothing is wrong."""
    argv, errors = VLLM.from_environment(env, reserved={})
    assert errors == []
    return argv


def extra(raw: str) -> list[str]:
    """Return the words of a raw command line in which nothing is wrong."""
    argv, errors = VLLM.check_extra_args(raw, reserved=RESERVED)
    assert [str(error) for error in errors] == []
    return argv


def complaint(raw: str) -> str:
    """Return the one sentence about a raw command line."""
    (error,) = VLLM.check_extra_args(raw, reserved=RESERVED)[1]
    assert error.severity == "error"
    return str(error)


def environment_complaint(env: Mapping[str, str]) -> str:
    """Return the one sentence about an environment that yields no arguments."""
    argv, (error,) = VLLM.from_environment(env, reserved={})
    assert argv == []
    assert error.severity == "error"
    return str(error)


def flag(catalogue: FlagCatalogue, name: str) -> Flag:
    """Return one flag by its name."""
    return next(each for each in catalogue.flags if each.name == name)


class TestCatalogue:
    @pytest.mark.parametrize(
        ("asked", "version", "exact"),
        [
            ("0.32.0", "0.32.0", True),
            ("0.32.1", "0.32.0", True),
            ("0.32.0+cpu", "0.32.0", True),
            ("0.33.0", "0.33.0", True),
            ("0.33.1rc2", "0.33.0", True),
            ("0.31.0", "0.32.0", False),
            ("0.34.0", "0.33.0", False),
            ("1.0.0", "0.33.0", False),
            ("dev", "0.33.0", False),
            ("", "0.33.0", False),
        ],
    )
    def test_nearest_known_version_is_loaded(self, asked: str, version: str, exact: bool) -> None:
        catalogue = FlagCatalogue.load(asked)
        assert (catalogue.version, catalogue.exact) == (version, exact)

    @pytest.mark.parametrize("catalogue", [VLLM, NEXT_VLLM], ids=["0.32", "0.33"])
    def test_flags_are_sorted_and_named_once(self, catalogue: FlagCatalogue) -> None:
        names = [each.name for each in catalogue.flags]
        aliases = [alias for each in catalogue.flags for alias in each.aliases]
        assert names == sorted(set(names))
        assert len(aliases) == len(set(aliases))
        assert len(names) > 300

    @pytest.mark.parametrize("catalogue", [VLLM, NEXT_VLLM], ids=["0.32", "0.33"])
    def test_entries_are_whole(self, catalogue: FlagCatalogue) -> None:
        for each in catalogue.flags:
            assert f"--{each.name}" in each.aliases
            assert set(each.negatives) < set(each.aliases)
            assert (each.kind == "bool") == bool(each.negatives)
            assert (each.type == "bool") == (each.kind in ("bool", "switch"))

    def test_flags_of_each_kind(self) -> None:
        assert flag(VLLM, "enable-prefix-caching").kind == "bool"
        assert flag(VLLM, "disable-log-stats").kind == "switch"
        assert flag(VLLM, "served-model-name").kind == "list"
        seqs = flag(VLLM, "max-num-seqs")
        assert (seqs.kind, seqs.type, seqs.env_name) == ("value", "int", "MAX_NUM_SEQS")
        assert flag(VLLM, "max-model-len").type == "human_int_or_auto"
        assert flag(VLLM, "tensor-parallel-size").aliases == ("--tensor-parallel-size", "-tp")
        assert flag(VLLM, "compilation-config").aliases == ("--compilation-config", "-cc")
        assert flag(VLLM, "compilation-config").dotted

    def test_choices_of_the_device_name_each_device(self) -> None:
        device = flag(VLLM, "mm-processor-device")
        assert device.choices == ("auto", "cpu")
        assert device.platform_choices == ("cuda", "xpu")
        assert extra("--mm-processor-device cuda")

    def test_0_33_pairs_enable_with_disable(self) -> None:
        caching = flag(NEXT_VLLM, "enable-prefix-caching")
        assert caching.negatives == ("--disable-prefix-caching", "--no-enable-prefix-caching")

    @pytest.mark.parametrize("each", EVERY_FLAG)
    def test_every_flag_is_taken_from_the_environment_unless_its_name_is_too_general(
        self, each: Flag
    ) -> None:
        assert (VLLM.by_env_name().get(each.env_name) == each) != (each.env_name in ENV_NAMES_NOT_TAKEN)

    def test_names_not_taken_are_flags_with_a_reason(self) -> None:
        names = {each.env_name for each in VLLM.flags}
        for name, reason in ENV_NAMES_NOT_TAKEN.items():
            assert name in names
            assert reason

    def test_secret_flags_are_flags(self) -> None:
        names = {each.name for each in VLLM.flags}
        assert names >= SECRET_FLAGS
        assert {name for name in names if name.endswith(("-key", "token", "password"))} == SECRET_FLAGS


class TestEnvironment:
    @pytest.mark.parametrize(
        ("env", "argv"),
        [
            ({"ENABLE_AUTO_TOOL_CHOICE": "1"}, ["--enable-auto-tool-choice"]),
            ({"MAX_NUM_SEQS": "64"}, ["--max-num-seqs", "64"]),
            ({"ENABLE_PREFIX_CACHING": "0"}, ["--no-enable-prefix-caching"]),
            ({"ENABLE_PREFIX_CACHING": "true"}, ["--enable-prefix-caching"]),
            ({"ENABLE_PREFIX_CACHING": " False "}, ["--no-enable-prefix-caching"]),
            ({"NO_ENABLE_PREFIX_CACHING": "1"}, ["--no-enable-prefix-caching"]),
            ({"NO_ENABLE_PREFIX_CACHING": "0"}, ["--enable-prefix-caching"]),
            ({"DISABLE_LOG_STATS": "1"}, ["--disable-log-stats"]),
            ({"DISABLE_LOG_STATS": "0"}, []),
            ({"MAX_NUM_SEQS": ""}, []),
            ({"DEVICE_MEMORY_UTILIZATION": ".5"}, ["--gpu-memory-utilization", ".5"]),
            ({"MAX_NUM_BATCHED_TOKENS": "8k"}, ["--max-num-batched-tokens", "8k"]),
            ({"MAX_MODEL_LEN": "auto"}, ["--max-model-len", "auto"]),
            ({"MAX_LOG_LEN": "None"}, ["--max-log-len", "None"]),
            ({"WATERMARK": "-0.5"}, ["--watermark=-0.5"]),
            ({"CHAT_TEMPLATE": "--x"}, ["--chat-template=--x"]),
            ({"MOE_BACKEND": "Deep-GEMM"}, ["--moe-backend", "Deep-GEMM"]),
            ({"COMPILATION_CONFIG": '{"mode": 3}'}, ["--compilation-config", '{"mode": 3}']),
            ({"SERVED_MODEL_NAME": "one two"}, ["--served-model-name", "one", "two"]),
            ({"SERVED_MODEL_NAME": "'one two'"}, ["--served-model-name", "one two"]),
            ({"SERVED_MODEL_NAME": '["one", "two words"]'}, ["--served-model-name", "one", "two words"]),
            ({"IGNORE_PATTERNS": "[ab]*.bin"}, ["--ignore-patterns", "[ab]*.bin"]),
            ({"IGNORE_PATTERNS": "-x"}, ["--ignore-patterns=-x"]),
            ({"CUDAGRAPH_CAPTURE_SIZES": "[1, 2, 4]"}, ["--cudagraph-capture-sizes", "1", "2", "4"]),
            ({"MIDDLEWARE": "a.b c.d"}, ["--middleware", "a.b", "--middleware", "c.d"]),
            ({"LORA_MODULES": "a=/a b=/b"}, ["--lora-modules", "a=/a", "b=/b"]),
            (
                {"LORA_MODULES": '{"name": "a", "path": "/a"}'},
                ["--lora-modules", '{"name": "a", "path": "/a"}'],
            ),
            (
                {"LORA_MODULES": '[{"name": "a", "path": "/a"}]'},
                ["--lora-modules", '{"name": "a", "path": "/a"}'],
            ),
            ({"SEED": "1", "HOST": "box", "PORT": "x", "MODEL": "y", "HELP": "1", "PATH": "/bin"}, []),
        ],
    )
    def test_upper_case_names_are_flags(self, env: dict[str, str], argv: list[str]) -> None:
        assert environment(env) == argv

    def test_0_33_takes_the_inverse_name(self) -> None:
        taken = NEXT_VLLM.from_environment({"DISABLE_PREFIX_CACHING": "1"}, reserved={})
        assert taken == (["--no-enable-prefix-caching"], [])

    def test_arguments_come_in_the_order_of_their_names(self) -> None:
        env = {"MAX_NUM_SEQS": "1", "DTYPE": "half", "ENFORCE_EAGER": "1"}
        assert environment(env) == ["--dtype", "half", "--enforce-eager", "--max-num-seqs", "1"]

    @pytest.mark.parametrize(
        ("env", "sentence"),
        [
            ({"ENFORCE_EAGER": "yes"}, 'ENFORCE_EAGER="yes": wanted 1/0/true/false'),
            ({"DISABLE_LOG_STATS": "2"}, 'DISABLE_LOG_STATS="2": wanted 1/0/true/false'),
            ({"MAX_NUM_SEQS": "many"}, 'MAX_NUM_SEQS="many": wanted an integer'),
            ({"MAX_NUM_SEQS": "8k"}, 'MAX_NUM_SEQS="8k": wanted an integer'),
            (
                {"MAX_MODEL_LEN": "1.5K"},
                'MAX_MODEL_LEN="1.5K": wanted an integer such as 8192, 8k or 8K, or auto',
            ),
            (
                {"SCHEDULING_POLICY": "fcsf"},
                'SCHEDULING_POLICY="fcsf": wanted one of fcfs, priority; did you mean fcfs?',
            ),
            ({"POOLER_CONFIG": "[]"}, 'POOLER_CONFIG="[]": wanted a JSON object'),
            (
                {"COMPILATION_CONFIG": '{"moed": 3}'},
                'COMPILATION_CONFIG="{\\"moed\\": 3}": wanted no key \'moed\' in this JSON object;'
                " did you mean mode?",
            ),
            (
                {"CUDAGRAPH_CAPTURE_SIZES": "1,2"},
                'CUDAGRAPH_CAPTURE_SIZES="1,2": wanted words, each of them an integer',
            ),
            (
                {"SERVED_MODEL_NAME": "it's"},
                'SERVED_MODEL_NAME="it\'s": wanted words quoted as for a shell, or a JSON array;'
                " no closing quotation",
            ),
            ({"SERVED_MODEL_NAME": " "}, 'SERVED_MODEL_NAME="": wanted one or more words, each of them text'),
            (
                {"SERVED_MODEL_NAME": "a -b"},
                'SERVED_MODEL_NAME="a -b": wanted values that do not start with a dash;'
                " vLLM takes them for flags",
            ),
        ],
    )
    def test_what_cannot_be_used_is_said(self, env: dict[str, str], sentence: str) -> None:
        assert environment_complaint(env) == sentence

    def test_every_error_is_reported_beside_what_is_right(self) -> None:
        env = {"MAX_NUM_SEQS": "x", "DTYPE": "y", "ENFORCE_EAGER": "1"}
        argv, errors = VLLM.from_environment(env, reserved={})
        assert argv == ["--enforce-eager"]
        assert [error.key for error in errors] == ["DTYPE", "MAX_NUM_SEQS"]

    def test_two_names_of_one_flag_contradict(self) -> None:
        env = {"GPU_MEMORY_UTILIZATION": ".5", "DEVICE_MEMORY_UTILIZATION": ".6"}
        argv, (error,) = VLLM.from_environment(env, reserved={})
        assert argv == ["--gpu-memory-utilization", ".5"]
        assert error.wanted == "one of GPU_MEMORY_UTILIZATION and DEVICE_MEMORY_UTILIZATION, not both"

    @pytest.mark.parametrize("name", ["max-num-seqs", "--max-num-seqs", "max_num_seqs"])
    def test_flags_of_our_own_settings_are_left_out(self, name: str) -> None:
        assert VLLM.from_environment({"MAX_NUM_SEQS": "junk"}, reserved={name: "MAX_NUM_SEQS"}) == ([], [])

    def test_an_unknown_version_doubts_only_what_a_list_decided(self) -> None:
        env = {"SCHEDULING_POLICY": "new", "MAX_NUM_SEQS": "junk"}
        argv, errors = UNKNOWN_VLLM.from_environment(env, reserved={})
        assert argv == ["--scheduling-policy", "new"]
        assert [(error.key, error.severity) for error in errors] == [
            ("MAX_NUM_SEQS", "error"),
            ("SCHEDULING_POLICY", "warning"),
        ]

    def test_names_that_are_almost_flags_are_doubted(self) -> None:
        env = {
            **dict.fromkeys(("MAX_MODEL_LENGTH", "MAX_NUM_SEQ", "ENABLE_CHUNKED_PREFIL"), "1"),
            **dict.fromkeys(("SSL_CERT_FILE", "VLLM_ATTENTION_BACKEND", "OMP_NUM_THREADS"), "1"),
            **dict.fromkeys(("MAX_NUM_SEQS", "MODEL_REVISION", "HOSTNAME", "PORTS", "CUDA_HOME"), "1"),
        }
        doubts = VLLM.near_misses(env, known={"MODEL_REVISION"})
        assert [(doubt.key, doubt.remedy, doubt.severity) for doubt in doubts] == [
            ("ENABLE_CHUNKED_PREFIL", "did you mean ENABLE_CHUNKED_PREFILL?", "warning"),
            ("MAX_MODEL_LENGTH", "did you mean MAX_MODEL_LEN?", "warning"),
            ("MAX_NUM_SEQ", "did you mean MAX_NUM_SEQS?", "warning"),
        ]


class TestExtraArguments:
    @pytest.mark.parametrize(
        "raw",
        [
            "",
            "--enforce-eager",
            "--enforce_eager",
            "--no-enable-prefix-caching --no_enforce_eager",
            "--max-num-seqs 64",
            "--max-num-seqs=64",
            "--max_num_seqs=64",
            "--max-num-batched-tokens 8K",
            "--seed -1",
            "--seed=-1",
            "--watermark=-0.5",
            "--max-num-seqs ' 64 '",
            "--max-log-len ''",
            "--gpu-mem .9",
            "--no-enable-pre",
            "-tp 2 -q awq -qawq -n2 -r=0 -ep",
            "-t 2",
            "-O2",
            "-O 2",
            "-O=2",
            "-cc.mode=3 -cc.pass_config.fuse_norm_quant true",
            "--compilation-config.mode 3 --compilation_config.cudagraph_capture_sizes+=1,2",
            "--compilation-config.max_cudagraph_capture_size 1k",
            """--compilation-config '{"max_cudagraph_capture_size": 1k, "cache_dir": "1k"}'""",
            "--override-generation-config.temperature 0.5",
            "--override-generation-config '{\"temperature\": 0.5}'",
            "--hf-overrides.a.b.c -1",
            "--hf-overrides some.function",
            '--lora-modules a=/a --lora-modules \'{"name": "a", "path": "/a"}\'',
            "--lora-modules.name a --lora-modules.path /a",
            "--ignore-patterns a b c --middleware a --middleware b",
            "--ignore-patterns a -1",
            "--hf-token --enforce-eager",
            "--hf-token abc",
            "--chat-template=--x",
            "--chat-template '-a b'",
            "--config file.yaml",
            "--device-ids 0,GPU-1",
            "--max-lora-rank ' 16'",
            "--collect-detailed-traces all None",
            "--linear-backend FLASHINFER-CUTLASS",
        ],
    )
    def test_what_vllm_takes_is_passed_on(self, raw: str) -> None:
        assert extra(raw) == shlex.split(raw)

    @pytest.mark.parametrize(
        ("raw", "sentence"),
        [
            (
                "--max-num-sequences 4",
                '"--max-num-sequences": wanted a flag of vllm serve 0.32.0; did you mean --max-num-seqs?',
            ),
            (
                "--no-enforce-eagr",
                '"--no-enforce-eagr": wanted a flag of vllm serve 0.32.0; did you mean --no-enforce-eager?',
            ),
            (
                "--task embed",
                '"--task": wanted a flag of vllm serve 0.32.0; `vllm serve --help=all` lists them',
            ),
            (
                "--compilation-confg.mode 3",
                '"--compilation-confg": wanted a flag of vllm serve 0.32.0;'
                " did you mean --compilation-config?",
            ),
            ("-tp4", '"-tp4": wanted a flag of vllm serve 0.32.0; write -tp 4'),
            (
                "--max-num-s 4",
                '"--max-num-s": wanted one flag; it could be --max-num-scheduled-tokens, --max-num-seqs',
            ),
            ("model", '"model": wanted a flag'),
            ("--enforce-eager true", '"true": wanted a flag; --enforce-eager takes no value'),
            (
                "--response-role two words",
                '"words": wanted a flag; --response-role takes one value, to be quoted if it has spaces',
            ),
            (
                "--hf-token two words",
                '"***": wanted a flag; --hf-token takes one value, to be quoted if it has spaces',
            ),
            (
                "--enforce-eager=true",
                '"--enforce-eager=true": wanted no value; write --enforce-eager or --no-enforce-eager',
            ),
            ("--headless=1", '"--headless=1": wanted no value; write --headless'),
            (
                "--max-num-seqs",
                '"--max-num-seqs": wanted a value after it: an integer;'
                " write --max-num-seqs=VALUE if it starts with a dash",
            ),
            (
                "--ignore-patterns --enforce-eager",
                '"--ignore-patterns": wanted a value after it: text;'
                " write --ignore-patterns=VALUE if it starts with a dash",
            ),
            ("--max-num-seqs 4.5", '"--max-num-seqs 4.5": wanted an integer'),
            ("--max-num-seqs=", '"--max-num-seqs=": wanted an integer'),
            ("--watermark x", '"--watermark x": wanted a number'),
            (
                "--watermark -0.5",
                '"-0.5": wanted no word that starts with a dash and has a dot, which vLLM reads as a'
                " dotted key; write --watermark=-0.5",
            ),
            (
                "--scheduling-policy fcsf",
                '"--scheduling-policy fcsf": wanted one of fcfs, priority; did you mean fcfs?',
            ),
            (
                "--max-lora-rank 17",
                '"--max-lora-rank 17": wanted one of 1, 8, 16, 32, 64, 128, 256, 320, 512',
            ),
            ("--compilation-config 3", '"--compilation-config 3": wanted a JSON object'),
            ("--allowed-origins a", '"--allowed-origins a": wanted JSON'),
            ("--hf-overrides '{a}'", '"--hf-overrides {a}": wanted text or a JSON object'),
            ("-cc.moed=3", "\"-cc.moed=3\": wanted no key 'moed' in this JSON object; did you mean mode?"),
            (
                "--engram-config.zzz 3",
                "\"--engram-config.zzz 3\": wanted no key 'zzz' in this JSON object;"
                " its keys are cpu_offload, dp_shared_memory, embedding_across_dp, use_thp",
            ),
            ("-cc.mode", '"-cc.mode": wanted a value after it; write -cc.mode=VALUE'),
            (
                "--hf-overrides.a --enforce-eager",
                '"--hf-overrides.a": wanted a value after it; write --hf-overrides.a=VALUE',
            ),
            ("--tokenizer.x=1", '"--tokenizer.x=1": wanted no key after --tokenizer; its value is not JSON'),
            ("--hf-token.x=1", '"--hf-token ***": wanted no key after --hf-token; its value is not JSON'),
            (
                "--lora-modules.name a",
                '"--lora-modules.name a": wanted name=path, or a JSON object with name and path',
            ),
            (
                "--lora-modules a",
                '"--lora-modules a": wanted name=path, or a JSON object with name and path',
            ),
            ("--port 80", '"--port": wanted no --port here; set PORT instead'),
            ("--por=80", '"--port": wanted no --port here; set PORT instead'),
            (
                "--max_model_len=8k",
                '"--max-model-len": wanted no --max-model-len here; set MAX_MODEL_LEN instead',
            ),
            (
                "--served-model-name a b c",
                '"--served-model-name": wanted no --served-model-name here; set SERVED_MODEL_NAME instead',
            ),
            (
                "--model x",
                '"--model": wanted no --model here; the model is already the first argument of vllm serve',
            ),
            ("--help", '"--help": wanted flags that serve; it prints vLLM\'s help and ends'),
            ("--help=all", '"--help": wanted flags that serve; it prints vLLM\'s help and ends'),
            ("-h", '"-h": wanted flags that serve; it prints vLLM\'s help and ends'),
            ("--", '"--": wanted a flag of vllm serve 0.32.0; vllm serve takes nothing after it'),
            ("-O", '"-O": wanted a flag of vllm serve 0.32.0; `vllm serve --help=all` lists them'),
            (
                "--config=a.yaml",
                '"--config=a.yaml": wanted a space instead of =; vLLM ignores the file otherwise',
            ),
            ("--config a.json", '"--config a.json": wanted a file whose name ends in .yaml or .yml'),
            (
                "--response-role 'a",
                '"--response-role \'a": wanted words quoted as for a shell; no closing quotation',
            ),
            ("--hf_token 'a", '"***": wanted words quoted as for a shell; no closing quotation'),
        ],
    )
    def test_what_vllm_refuses_is_said(self, raw: str, sentence: str) -> None:
        assert complaint(raw) == f"VLLM_EXTRA_ARGS={sentence}"

    def test_every_error_is_reported_and_the_words_are_kept(self) -> None:
        raw = "--nonsense 1 2 --max-num-seqs x stray --port 80 -cc.moed 3"
        argv, errors = VLLM.check_extra_args(raw, reserved=RESERVED)
        assert argv == shlex.split(raw)
        assert [error.value for error in errors] == [
            "--nonsense",
            "--max-num-seqs x",
            "stray",
            "--port",
            "-cc.moed 3",
        ]

    def test_the_setting_is_named_as_asked(self) -> None:
        (error,) = VLLM.check_extra_args("x", key="MORE_FLAGS", reserved={})[1]
        assert error.key == "MORE_FLAGS"

    def test_an_unknown_version_doubts_only_what_a_list_decided(self) -> None:
        raw = "--new-flag 1 2 --dtype new -cc.new=1 --new.key=2 --max-num-seqs x --port 8 --"
        argv, errors = UNKNOWN_VLLM.check_extra_args(raw, reserved=RESERVED)
        assert argv == shlex.split(raw)
        assert [(error.value, error.severity) for error in errors] == [
            ("--new-flag", "warning"),
            ("--dtype new", "warning"),
            ("--max-num-seqs x", "error"),
            ("--port", "error"),
            ("--", "error"),
            ("-cc.new=1", "warning"),
            ("--new", "warning"),
        ]

    def test_dotted_keys_of_one_flag_are_one_value(self) -> None:
        raw = "--lora-modules.name a --enforce-eager --lora-modules.path=/a --lora-modules.zzz b"
        assert complaint(raw).startswith('VLLM_EXTRA_ARGS="--lora-modules.name a --lora-modules.path=/a ')

    def test_lists_of_dotted_keys_add_up(self) -> None:
        assert extra("--hf-overrides.a+ 1 --hf-overrides.a+=2,3 --hf-overrides.a.b 1 --hf-overrides.a.c 2")


class TestMask:
    @pytest.mark.parametrize(
        ("argv", "shown"),
        [
            (["serve", "m", "--port", "80"], ["serve", "m", "--port", "80"]),
            (["--api-key", "x", "y", "--port", "80"], ["--api-key", "***", "***", "--port", "80"]),
            (["--api-key=x", "--port=80"], ["--api-key=***", "--port=80"]),
            (["--api_key", "x"], ["--api_key", "***"]),
            (["--api-k=x"], ["--api-k=***"]),
            (["--hf-token", "--port"], ["--hf-token", "--port"]),
            (["--hf-token", "-5", "-a b", "--c d", "--", "-"], ["--hf-token", *["***"] * 5]),
            (["--hf-token=x y"], ["--hf-token=***"]),
            (["-tp", "2", "--", "a"], ["-tp", "2", "--", "a"]),
            ([], []),
        ],
    )
    def test_only_secrets_are_hidden(self, argv: list[str], shown: list[str]) -> None:
        assert mask(argv) == shown


class TestFlagError:
    def test_a_sentence_is_one_line(self) -> None:
        error = FlagError("KEY", 'a"\n\\\u2028\udcff', "an\nend")
        assert str(error) == 'KEY="a\\"\\n\\\\\\u2028\\udcff": wanted an\\nend'

    def test_a_long_value_is_shortened(self) -> None:
        assert len(str(FlagError("KEY", "x" * 9999, "less"))) < 250

    def test_the_parts_are_kept(self) -> None:
        error = FlagError("KEY", "x", "less", "take less")
        assert isinstance(error, ValueError)
        assert (error.key, error.value, error.wanted, error.remedy) == ("KEY", "x", "less", "take less")
        assert str(error) == 'KEY="x": wanted less; take less'


class TestProperties:
    # A shared machine may stall any example.
    UNTIMED = settings(deadline=None)

    @UNTIMED
    @given(st.text())
    def test_any_text_has_a_verdict(self, raw: str) -> None:
        for error in VLLM.check_extra_args(raw, reserved=RESERVED)[1]:
            assert str(error).isprintable()

    @UNTIMED
    @given(st.sampled_from(VLLM.flags), st.text() | st.from_regex(r"[-\[{\"' .0-9a-zA-Z:,}\]]{0,12}"))
    def test_what_the_environment_gives_is_taken_on_a_command_line(self, each: Flag, value: str) -> None:
        argv, errors = VLLM.from_environment({each.env_name: value}, reserved={})
        for error in errors:
            assert str(error).isprintable()
        assert not (argv and errors)
        assert extra_errors(argv) == []

    @UNTIMED
    @given(st.sampled_from(sorted(SECRET_FLAGS)), st.lists(st.text(min_size=1).map(lambda text: f"§{text}")))
    def test_no_secret_is_shown(self, name: str, secrets: list[str]) -> None:
        argv = [f"--{name}", *secrets, "--port", "80", *(f"--{name}={secret}" for secret in secrets)]
        assert "§" not in "".join(mask(argv))

    @UNTIMED
    @given(st.data())
    def test_argparse_agrees(self, data: st.DataObject) -> None:
        words = data.draw(st.lists(st.one_of(OPTIONS, VALUES), max_size=5))
        raw = shlex.join(words)
        verdict = not VLLM.check_extra_args(raw, reserved={})[1]
        assert verdict == is_taken(words), raw


def extra_errors(argv: list[str]) -> list[str]:
    """Return what is wrong with arguments of our own making."""
    return [str(error) for error in VLLM.check_extra_args(shlex.join(argv), reserved={})[1]]


PLAIN = [each for each in VLLM.flags if not each.dotted and each.name not in ("config", "model")]
OPTION_STRINGS = [alias for each in PLAIN for alias in each.aliases]
VALUES = st.sampled_from(["1", "-1", "x", "", "a b", "-a b", "8k", "None", "auto", "-", "fcfs"])
OPTIONS = st.one_of(
    st.sampled_from(OPTION_STRINGS),
    st.sampled_from([alias for alias in OPTION_STRINGS if alias.startswith("--")]).flatmap(
        lambda alias: st.integers(min_value=5, max_value=len(alias)).map(lambda length: alias[:length])
    ),
    st.tuples(st.sampled_from(OPTION_STRINGS), VALUES).map("=".join),
)


class Refused(Exception):
    """What argparse says instead of ending the process."""


class QuietParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def reference_parser() -> argparse.ArgumentParser:
    """Build a plain argparse parser that has the catalogue's flags."""
    parser = QuietParser()
    for each in VLLM.flags:
        if each.kind in ("bool", "switch"):
            parser.add_argument(*each.aliases, action="store_true")
        elif each.repeat:
            parser.add_argument(*each.aliases, action="append")
        else:
            nargs = "+" if each.kind == "list" else "?" if each.bare else None
            parser.add_argument(*each.aliases, type=converter(each), nargs=nargs)
    return parser


def converter(each: Flag) -> Callable[[str], str]:
    """Return a converter that refuses what `refusal` refuses: the property is about words, not values."""

    def convert(text: str) -> str:
        if refusal(each, text) is not None:
            raise ValueError(text)
        return text

    return convert


REFERENCE = reference_parser()


def is_taken(words: list[str]) -> bool:
    """Whether plain argparse takes these words."""
    try:
        REFERENCE.parse_args(words)
    except Refused:
        return False
    return True
