"""Model families of Hugging Face, each from a small configuration. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from support.listed import BATCH, CLASSES, Listed, images

VOCABULARY = 64
LENGTH = 8

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = SPECIAL | LAYERS | {"max_position_embeddings": 32}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}  # grouped-query attention
IMAGE = LAYERS | {"image_size": 32, "patch_size": 8}
SEQUENCE = SPECIAL | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 1,
}  # fmt: skip


def _tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, length))


def _text() -> dict[str, Tensor]:
    return {"input_ids": _tokens()}


def _translated() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(5)}


def _captioned() -> dict[str, Tensor]:
    return images(32, "pixel_values")() | _text()


def _family(
    model: str, config: str, settings: dict[str, Any], inputs: Callable[[], dict[str, Tensor]] = _text, remark: str = ""
) -> Listed:
    def build() -> nn.Module:
        import transformers  # takes seconds

        configuration = getattr(transformers, config)(num_labels=CLASSES, **settings)
        built: nn.Module = getattr(transformers, model)(configuration)
        return built

    return Listed(model, "transformers", build, inputs, remark=remark)


def _images(size: int = 32) -> Callable[[], dict[str, Tensor]]:
    return images(size, "pixel_values")


HUGGING_FACE = [
    _family("BertForSequenceClassification", "BertConfig", TEXT),
    _family("RobertaForMaskedLM", "RobertaConfig", TEXT, remark="output tied to the embedding"),
    _family(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        SPECIAL | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32},
    ),
    _family("AlbertForSequenceClassification", "AlbertConfig", TEXT | {"embedding_size": 16}, remark="shared layers"),
    _family("ElectraForSequenceClassification", "ElectraConfig", TEXT | {"embedding_size": 16}),
    _family(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        remark="disentangled attention",
    ),
    _family(
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        TEXT | {"cls_token_id": 1, "sep_token_id": 2},
        remark="rotary embedding, GeGLU",
    ),
    _family(
        "GPT2LMHeadModel",
        "GPT2Config",
        SPECIAL | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
        remark="output tied to the embedding",
    ),
    _family("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    _family("OPTForCausalLM", "OPTConfig", TEXT | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    _family(
        "BloomForCausalLM", "BloomConfig", SPECIAL | {"hidden_size": 32, "n_layer": 2, "n_head": 4}, remark="ALiBi"
    ),
    _family("LlamaForCausalLM", "LlamaConfig", GROUPED, remark="RMSNorm, rotary embedding, SwiGLU"),
    _family("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 4}, remark="sliding window"),
    _family("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 2}, remark="mixture of experts"),
    _family("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    _family("Qwen3ForCausalLM", "Qwen3Config", GROUPED, remark="queries and keys normalised"),
    _family(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        GROUPED
        | {"layer_types": ["linear_attention", "full_attention"], "mlp_only_layers": [0, 1]}
        | {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        remark="gated delta rule",
    ),
    _family("GemmaForCausalLM", "GemmaConfig", GROUPED),
    _family("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED),
    _family("Phi3ForCausalLM", "Phi3Config", GROUPED),
    _family(
        "T5ForConditionalGeneration",
        "T5Config",
        SPECIAL | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        _translated,
        "relative positions",
    ),
    _family("BartForConditionalGeneration", "BartConfig", SEQUENCE | {"max_position_embeddings": 32}, _translated),
    _family("FNetForSequenceClassification", "FNetConfig", TEXT, remark="Fourier transforms for attention"),
    _family(
        "MambaForCausalLM",
        "MambaConfig",
        SPECIAL | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        remark="selective scan, in PyTorch",
    ),
    _family(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        SPECIAL
        | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "expand": 2}
        | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
        remark="state spaces in chunks, in PyTorch",
    ),
    _family("ViTForImageClassification", "ViTConfig", IMAGE, _images()),
    _family("DeiTForImageClassification", "DeiTConfig", IMAGE, _images()),
    _family("Dinov2ForImageClassification", "Dinov2Config", IMAGE | {"use_mask_token": False}, _images()),
    _family(
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        _images(),
    ),
    _family(
        "SegformerForImageClassification",
        "SegformerConfig",
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]},
        _images(64),
    ),
    _family(
        "TimesformerForVideoClassification",
        "TimesformerConfig",
        IMAGE | {"num_hidden_layers": 1, "num_frames": 2},
        lambda: {"pixel_values": torch.randn(BATCH, 2, 3, 32, 32)},
        "video",
    ),
    _family(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16},
        _captioned,
        "images against texts",
    ),
    _family("ViltForQuestionAnswering", "ViltConfig", TEXT | IMAGE, _captioned, "images and text in one"),
    _family(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        SEQUENCE | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
        lambda: {"input_features": torch.randn(BATCH, 8, 32), "decoder_input_ids": _tokens(5)},
        "spectrograms to text",
    ),
    _family(
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        LAYERS
        | {
            "conv_dim": (16, 16),
            "conv_stride": (5, 4),
            "conv_kernel": (10, 4),
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "mask_time_prob": 0.5,
            "mask_time_length": 2,
            "classifier_proj_size": 16,
        },
        lambda: {"input_values": torch.randn(BATCH, 400)},
        "weight normalisation",
    ),
]
