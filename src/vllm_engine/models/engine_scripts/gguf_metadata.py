"""The metadata of a GGUF file as the configuration and tokenizer files that Hugging Face's libraries read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_CONTROL_TOKEN: Final = 3  # GGUF's token type for <|im_start|> and its like


def special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return generation_config.json."""
    return {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        # What the model was trained and published in: float16 has the finer steps, far below what four bits
        # lost, but its range stops at 65504, and activations that grew up in bfloat16 may pass it.
        "dtype": "bfloat16",
        "head_dim": metadata["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        # GGUF holds it as a float32: seven digits are all it has, and give 1e-05 back.
        "rms_norm_eps": float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": metadata["llama.vocab_size"],
        **special_ids(metadata),
    }


def tokenizer(metadata: Mapping[str, Any]) -> str:
    """Return the text of tokenizer.json."""
    import tokenizers

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    merges: list[str] = metadata["tokenizer.ggml.merges"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    # GGUF only names this rule ("smollm"): the digits and the options are those of SmolLM2's own tokenizer.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    text: str = tokenizer.to_str()
    return text


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json."""
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "model_max_length": metadata["llama.context_length"],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        # Not GPT2Tokenizer, as upstream says: Transformers 5 would rebuild it without the split into digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
    }
