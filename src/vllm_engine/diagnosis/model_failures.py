"""Known failures of the model itself: its files, its architecture, its quantisation, its tokenizer.

Texts of vLLM (`config/model.py`, `model_executor`, `renderers`, `tokenizers`), transformers and safetensors.
"""

from __future__ import annotations

from vllm_engine.diagnosis.known_failure import Advice, Groups, KnownFailure, setting
from vllm_engine.diagnosis.run_facts import Facts


def _trust(_groups: Groups, facts: Facts) -> Advice:
    name = facts.model or "the model"
    return Advice(
        f"read the Python files of {name}, and if you trust them set TRUST_REMOTE_CODE=1; pin "
        "MODEL_REVISION so that they stay what you read",
        {"TRUST_REMOTE_CODE": "1"},
    )


def _architecture(_groups: Groups, facts: Facts) -> Advice:
    version = f" than {facts.vllm_version}" if facts.vllm_version else ""
    return Advice(f"use an image with a newer vLLM{version}, or another model")


def _fetch_again(_groups: Groups, facts: Facts) -> Advice:
    if facts.is_local:
        return Advice(
            f"copy the weights to {facts.model} again (with Git: `git lfs pull`), and compare their sizes"
        )
    where = f"{facts.cache_dir}/huggingface/hub" if facts.cache_dir else "the cache"
    return Advice(f"delete the model's folder below {where} and start again: it is then downloaded again")


def _length(groups: Groups, _facts: Facts) -> Advice:
    most = groups.get("most")
    if most is None:
        return Advice("set MAX_MODEL_LEN to the model's maximum or less, or auto")
    return setting("MAX_MODEL_LEN", most, " or less, or auto")


MODEL = (
    KnownFailure(
        code="needs-trust-remote-code",
        seen="`The repository … contains custom code which must be executed to correctly load the model`.",
        cause="the model {model} has Python code of its own, which is not run without consent",
        remedy=_trust,
        patterns=(
            r"contains custom code which must be executed",
            r"requires you to execute the \w+ file",
            r"consider setting `trust_remote_code=True`|Please pass the argument `trust_remote_code=True`",
        ),
    ),
    KnownFailure(
        code="unknown-architecture",
        seen="`Model architectures ['…'] are not supported for now`; `Transformers does not recognize this "
        "architecture`.",
        cause="this vLLM does not know the model's architecture {name}",
        remedy=_architecture,
        patterns=(
            r"Model architectures? \[?'?(?P<name>[\w, ']+?)'?\]? (?:are|is) not supported",
            r"has model type `(?P<name>[\w.-]+)` but Transformers does not recognize",
            r"Model architecture (?P<name>\w+) was supported in vLLM until",
            r"\b(?P<name>\w+) has no vLLM implementation",
        ),
    ),
    KnownFailure(
        code="quantization-not-supported",
        seen="`Unknown quantization method: …`; `bitsandbytes quantization is currently not supported in "
        "cpu`; `The quantization method awq is not supported for the current GPU`.",
        cause="the model's quantisation {name} is not supported on this hardware",
        remedy=lambda _groups, facts: Advice(
            "serve the model unquantised, or in a quantisation that this "
            + ("CPU" if facts.device == "cpu" else "GPU")
            + " runs"
        ),
        patterns=(
            r"Unknown quantization method: (?P<name>[\w.-]+?)\.",
            r"\b(?P<name>\w[\w-]*) quantization is currently not supported in",
            r"quantization method (?P<name>[\w-]+) is not supported for the current GPU",
            r"Quantization scheme is not supported for (?:', ')?the current GPU",
        ),
    ),
    KnownFailure(
        code="quantization-mismatch",
        seen="`Cannot find the config file for awq`; `Quantization method specified in the model config "
        "(…) does not match`.",
        cause="QUANTIZATION names a method that the model was not quantised with",
        remedy="unset QUANTIZATION: vLLM reads the method from the model",
        patterns=(
            r"Cannot find the config file for \w+",
            r"Quantization method specified in the model config",
        ),
    ),
    KnownFailure(
        code="corrupt-weights",
        seen="`SafetensorError: Error while deserializing header`; `MemoryError` while a header is read; a "
        "file that begins with `version https://git-lfs.github.com`.",
        cause="a weight file is damaged, cut short, or a Git LFS pointer instead of the file",
        remedy=_fetch_again,
        patterns=(
            r"Error while deserializing header|SafetensorError|InvalidHeaderDeserialization|HeaderTooLarge",
            r"PytorchStreamReader failed|invalid load key, 'v'",
            r"in parse_safetensors_file_metadata",
            r"[Cc]onsistency check failed: file should be of size",
        ),
    ),
    KnownFailure(
        code="weights-missing",
        seen="`Cannot find any model weights with …`.",
        cause="{model} holds no weights (*.safetensors, *.bin or *.gguf)",
        remedy=_fetch_again,
        patterns=(
            r"Cannot find any model weights with",
            r"Following weights were not initialized from checkpoint",
        ),
    ),
    KnownFailure(
        code="weights-do-not-fit-config",
        seen="an `AssertionError` or `size mismatch` in a `weight_loader`.",
        cause="the weights do not have the shapes that config.json says",
        remedy="take config.json and the weights from the same revision of the same model; drop "
        "HF_OVERRIDES if it is set",
        patterns=(
            r"size mismatch for |Attempted to load weight \(|loaded_weight\.shape\[output_dim\] == ",
            r"There is no module or parameter named",
        ),
    ),
    KnownFailure(
        code="tokenizer-missing",
        seen="`Couldn't instantiate the backend tokenizer`; `Can't load tokenizer for …`.",
        cause="{model} holds no tokenizer that can be read",
        remedy="add tokenizer.json and tokenizer_config.json to the model's folder, or name a repository "
        "that has them with TOKENIZER",
        patterns=(
            r"Couldn't instantiate the backend tokenizer",
            r"Can't load tokenizer for",
            r"Failed to load the tokenizer",
            r"Tokenizer class \w+ does not exist or is not currently imported",
        ),
    ),
    KnownFailure(
        code="chat-template-missing",
        seen="`The supplied chat template string (…) appears path-like, but doesn't exist`; later, of a "
        "request: `default chat template is no longer allowed`.",
        cause="the chat template {path} cannot be read",
        remedy="correct CHAT_TEMPLATE (a file in the container, mounted there), or unset it for the "
        "model's own",
        patterns=(
            r"supplied chat template(?: string)? \((?P<path>[^)]*)\)",
            r"the supplied chat template path doesn't exist",
        ),
    ),
    KnownFailure(
        code="max-model-len-too-large",
        seen="`User-specified max_model_len (100000) is greater than the derived max_model_len`.",
        cause="MAX_MODEL_LEN={asked} is more than the {most} tokens that the model was made for",
        remedy=_length,
        patterns=(
            r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
            r"\(\w+=(?P<most>\d+)",
        ),
    ),
    KnownFailure(
        code="tokenizer-shim",
        seen="`AttributeError: Qwen2Tokenizer has no attribute all_special_tokens_extended`.",
        cause="this vLLM is older than its transformers, which no longer has all_special_tokens_extended",
        remedy="install vLLM 0.12 or newer, or transformers below 5; a vLLM of that age is patched when "
        "it starts, so check that PYTHONPATH is not replaced",
        patterns=(r"has no attribute '?all_special_tokens_extended",),
    ),
    KnownFailure(
        code="tqdm-shim",
        seen="`TypeError: … got multiple values for keyword argument 'disable'`.",
        cause="this vLLM is older than its huggingface_hub: both set the progress bar's argument disable",
        remedy="install vLLM 0.11.1 or newer, or huggingface_hub below 1; a vLLM of that age is "
        "patched when it starts, so check that PYTHONPATH is not replaced",
        patterns=(r"got multiple values for keyword argument 'disable'",),
    ),
)
