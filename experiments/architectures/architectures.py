"""The architectures of transformers and timm, each built as small as it can be without knowing it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 130_000_000  # parameters
CLASSES = 3
VOCABULARY = 64

# Settings of configurations in transformers, by the names that most of them share.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("ffn_hidden_size", "hidden_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "image_size"), 64),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "state_size", "patch_size", "q_lora_rank"), 8),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "mamba_d_state"), 8),
    **dict.fromkeys(("moe_intermediate_size", "mamba_d_head", "num_mel_bins", "embed_dim"), 16),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "num_conv_pos_embedding_groups"), 2),
    **dict.fromkeys(("num_feat_extract_layers", "num_frames", "type_vocab_size"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "first_k_dense_replace", "tubelet_size"), 1),
    **dict.fromkeys(("attention_window", "sliding_window", "block_size", "num_queries", "mamba_n_heads"), 4),
    **{"conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (4, 4), "num_conv_pos_embeddings": 8},
    **{"vocab_size": VOCABULARY, "num_labels": CLASSES, "num_channels": 3, "num_random_blocks": 1},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False},
}
ROTARY = {"rotary_dim": 4}
RECURRENT = {"layer_types": ["linear_attention", "full_attention"]}
# What some need besides.
FURTHER: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("codegen", "gptj"), ROTARY),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text"), RECURRENT),
    "bamba": {"attn_layer_indices": [1], "mamba_chunk_size": 8},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_head": 8, "d_inner": 48, "num_hidden_layers": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "mamba2": {"head_dim": 16, "num_heads": 4, "expand": 2, "chunk_size": 8},
    "prophetnet": {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_hidden_layers": None},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 4}
    | {"lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "max_position_embeddings": 16},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "mamba_headdim": 16, "n_mamba_heads": 4}
    | {"adapter_rank": 4, "attention_head_dim": 16, "num_mem_blocks": 1, "chunk_size": 8},
}
# The settings that are left where all of them together make no model.
FEW = ("vocab_size", "num_labels", "image_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
FEW += ("intermediate_size", "d_model", "n_embd", "n_layer", "n_head", "pad_token_id", "decoder_start_token_id")

# Those that some derive from others, and refuse or misread where they are given.
HEADS = ("head_dim", "num_key_value_heads")
MAIN = ("pixel_values", "input_values")  # inputs that some models have under another name

Step = Callable[[], Tensor]


class NotBuiltError(Exception):
    """An architecture that cannot be built small; says why."""


@dataclass(frozen=True)
class Architecture:
    """One that `build` builds: it returns a model and what computes its loss."""

    library: str
    task: str
    name: str
    build: Callable[[], tuple[nn.Module, Step]]


def of_transformers() -> Iterator[Architecture]:
    """Yield the architectures of transformers, each under the first task in TASKS that it has a model for."""
    from transformers.models.auto import modeling_auto

    seen: set[str] = set()
    for task, (mapping, inputs) in TASKS.items():
        for name, models in getattr(modeling_auto, mapping).items():
            model = models if isinstance(models, str) else models[0]
            if name not in seen:
                seen.add(name)
                yield Architecture("transformers", task, name, _transformer(name, model, inputs))


def _transformer(name: str, model: str, inputs: Callable[[], dict[str, Any]]) -> Callable[[], tuple[nn.Module, Step]]:
    def build() -> tuple[nn.Module, Step]:
        import transformers

        kind = transformers.CONFIG_MAPPING[name]
        further = FURTHER.get(name, {})
        small = {key: value for key, value in (_known(kind) | further).items() if value is not None}
        given = inputs()

        def attempt(settings: dict[str, Any]) -> tuple[nn.Module, Step]:
            make = getattr(transformers, model)
            _refuse_large(_number_of_parameters(lambda: make(kind(**settings))))
            built = make(kind(**settings))
            named = {built.main_input_name if key in MAIN else key: value for key, value in given.items()}
            return built, lambda: _loss(built(**named))

        one_size = {key: value for key, value in small.items() if key not in HEADS or key in further}
        few = {key: value for key, value in small.items() if key in FEW or key in further}
        return _first([lambda settings=settings: attempt(settings) for settings in (small, one_size, few, {})])

    return build


def _known(kind: Any) -> dict[str, Any]:
    """Return the small settings that a configuration has: of the same kind, and not computed from others."""
    default = kind()
    known = {
        key: value
        for key, value in SMALL.items()
        if hasattr(default, key)
        and not isinstance(getattr(kind, key, None), property)
        and isinstance(value, tuple) == isinstance(getattr(default, key), (tuple, list))
    }
    return known | {"decoder_start_token_id": 1}


def of_timm() -> Iterator[Architecture]:
    """Yield the smallest model of each module of timm."""
    import timm

    for module in sorted(timm.list_modules()):
        names = timm.list_models(module=module)
        if names:
            yield Architecture("timm", "images", module, _of_timm(names))


def _of_timm(names: list[str]) -> Callable[[], tuple[nn.Module, Step]]:
    def build() -> tuple[nn.Module, Step]:
        import timm

        def model_of(name: str, **settings: Any) -> nn.Module:
            made: nn.Module = timm.create_model(name, num_classes=CLASSES, **settings)
            return made

        sizes = {name: _number_of_parameters(lambda name=name: model_of(name)) for name in names}
        smallest = min(sizes, key=lambda name: sizes[name])
        _refuse_large(sizes[smallest])

        def attempt(size: int, **settings: Any) -> tuple[nn.Module, Step]:
            built, images = model_of(smallest, **settings), torch.randn(2, 3, size, size)
            return built, lambda: _loss(built(images))

        default = timm.get_pretrained_cfg(smallest).input_size[-1]
        return _first([lambda: attempt(64, img_size=64), lambda: attempt(96), lambda: attempt(default)])

    return build


def _first(attempts: list[Callable[[], tuple[nn.Module, Step]]]) -> tuple[nn.Module, Step]:
    """Return the first model that can be built and computes a loss in training mode.

    Raises the error of the first attempt where none can.
    """
    errors: list[Exception] = []
    for attempt in attempts:
        try:
            model, step = attempt()
            model.train()
            step()
        except TimeoutError:
            raise
        except Exception as error:  # whatever the library says of these settings
            errors.append(error)
        else:
            return model, step
    raise errors[0]


def _number_of_parameters(build: Callable[[], nn.Module]) -> int:
    """Return how many a model has, without their memory."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        return sum(parameter.numel() for parameter in build().parameters())


def _refuse_large(number: int) -> None:
    if number > LARGEST:
        raise NotBuiltError(f"more than {LARGEST // 10**6} million parameters")


def _loss(outputs: Any) -> Tensor:
    """Return the loss that a model returns, or else the mean square error of each of its outputs from 1, summed."""
    if isinstance(loss := getattr(outputs, "loss", None), Tensor):
        return loss.sum()
    values = outputs.to_tuple() if hasattr(outputs, "to_tuple") else outputs
    values = values if isinstance(values, (tuple, list)) else (values,)
    tensors = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    return torch.stack([(value.float() - 1).square().mean() for value in tensors]).sum()


def _tokens(length: int = 16) -> Tensor:
    return torch.randint(3, VOCABULARY, (2, length))


def _text() -> dict[str, Any]:
    tokens = _tokens()
    return {"input_ids": tokens, "labels": tokens}


def _images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 64, 64)}


def _labelled(inputs: Tensor, name: str) -> dict[str, Any]:
    return {name: inputs, "labels": torch.arange(len(inputs)) % CLASSES}


def _boxed() -> dict[str, Any]:
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4) * 0.3 + 0.3} for _ in range(2)]
    return _images() | {"labels": labels}


TASKS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "next token": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", _text),
    "masked tokens": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", _text),
    "text to text": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", _text),
    "images": (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        lambda: _labelled(torch.randn(2, 3, 64, 64), "pixel_values"),
    ),
    "segmentation": (
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
        lambda: _images() | {"labels": torch.randint(CLASSES, (2, 64, 64))},
    ),
    "detection": ("MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES", _boxed),
    "depth": ("MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES", _images),
    "sounds": (
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        lambda: _labelled(torch.randn(2, 800), "input_values"),
    ),
    "speech to text": (
        "MODEL_FOR_CTC_MAPPING_NAMES",
        lambda: {"input_values": torch.randn(2, 800), "labels": _tokens(4)},
    ),
    "video": (
        "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
        lambda: _labelled(torch.randn(2, 2, 3, 64, 64), "pixel_values"),
    ),
}
LIBRARIES = {"transformers": of_transformers, "timm": of_timm}
