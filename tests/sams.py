"""A small random SAM, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch

from cellweave.predict import sam

SIDE = 64


def save_small_sam(path: Path) -> Path:
    """Its weights in a new folder."""
    transformers = sam._transformers()
    torch.manual_seed(0)
    vision = transformers.SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE, patch_size=8,
        mlp_dim=16, window_size=4, global_attn_indexes=[0], num_pos_feats=8, initializer_range=0.5,
    )  # fmt: skip
    prompt = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=8, mask_input_channels=4)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
    )
    net = transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    for name, parameter in net.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    net.save_pretrained(path)
    return path
