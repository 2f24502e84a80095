"""Denoisers with one encoder for all timesteps and a decoder for each stage of them.

The multi-stage framework of Zhang et al. (CVPR 2024). This file needs torch and diffusers only: it
goes with every exported pipeline, which diffusers loads with `trust_remote_code=True`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UNetMidBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

Features = list[Tensor]
"""What the encoder hands to a decoder: [N, ...] each, the time's embedding first."""


class MultistageModel(ModelMixin, ConfigMixin, ABC):
    """Stage k is the times b_k <= t < b_(k+1) of the config's `boundaries`, counted from clean.

    A subclass has `decoders`, everything else of it is the encoder.
    """

    decoders: nn.ModuleList

    @abstractmethod
    def encode(self, sample: Tensor, time: Tensor) -> Features:
        """The features of images [N, C, H, W] at times [N]."""

    def stage(self, time: Tensor) -> Tensor:
        """The stage of each time, int64."""
        stage = torch.zeros_like(time, dtype=torch.int64)
        for boundary in self.config.boundaries:
            stage += time >= boundary
        return stage

    def __call__(self, sample: Tensor, timestep: Any, **options: Any) -> Any:
        """The caller's time chooses the decoder, whatever a forward hook makes of `timestep`."""
        return super().__call__(sample, timestep=timestep, **{"nominal": timestep} | options)

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        class_labels: None = None,
        return_dict: bool = True,
        nominal: Any = None,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The denoiser's output for images [N, C, H, W] at `timestep`, a number or one an image.

        Each image goes through the decoder of the stage of its `nominal` time, or of `timestep`.
        """
        time = _times(timestep, sample)
        stage = self.stage(time if nominal is None else _times(nominal, sample))
        output = self._decode(self.encode(sample, time), stage)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _decode(self, features: Features, stage: Tensor) -> Tensor:
        present = torch.unique(stage).tolist()
        if len(present) == 1:
            decoded: Tensor = self.decoders[present[0]](features)
            return decoded
        rows = [torch.nonzero(stage == k).flatten() for k in present]
        parts = [
            self.decoders[k]([f.index_select(0, own) for f in features])
            for k, own in zip(present, rows, strict=True)
        ]
        order = torch.argsort(torch.cat(rows))
        return torch.cat(parts).index_select(0, order)


class MultistageUNet(MultistageModel):
    """The DDPM U-Net: the way down and its middle are shared, each stage has a way up.

    A decoder has widths of its own at every level; its blocks take the encoder's skips as they
    are, which diffusers' UpBlock2D cannot. One decoder of the encoder's widths is UNet2DModel.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (128, 256, 256, 256),
        decoder_channels: Sequence[Sequence[int]] = ((192, 384), (128, 256), (16, 32)),
        boundaries: Sequence[float] = (442, 631),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        add_attention: bool = True,
        num_class_embeds: None = None,
    ) -> None:
        """Widths of each level, the full resolution first; of the decoders stage by stage."""
        super().__init__()
        widths, groups = block_out_channels, norm_num_groups
        embedding = 4 * widths[0]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.down_blocks = nn.ModuleList(
            DownBlock2D(
                before,
                width,
                embedding,
                num_layers=layers_per_block,
                resnet_eps=1e-5,
                resnet_groups=groups,
                add_downsample=level < len(widths) - 1,
            )
            for level, (before, width) in enumerate(
                zip((widths[0], *widths[:-1]), widths, strict=True)
            )
        )
        self.mid_block = UNetMidBlock2D(
            widths[-1],
            embedding,
            resnet_eps=1e-5,
            resnet_groups=groups,
            attention_head_dim=widths[-1],
            add_attention=add_attention,
        )
        skips = [widths[0]]
        for level, width in enumerate(widths):
            skips += [width] * (layers_per_block + (level < len(widths) - 1))
        self.decoders = nn.ModuleList(
            UNetDecoder(own, skips, widths[-1], embedding, out_channels, groups)
            for own in decoder_channels
        )

    def encode(self, sample: Tensor, time: Tensor) -> Features:
        emb = self.time_embedding(self.time_proj(time).to(self.dtype))
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, emb)
            skips += more
        return [emb, self.mid_block(x, emb), *skips]


class UNetDecoder(nn.Module):
    """The way up, from the middle's features to the output."""

    def __init__(
        self,
        widths: Sequence[int],
        skips: Sequence[int],
        middle: int,
        embedding: int,
        out_channels: int,
        groups: int,
    ) -> None:
        """`skips` are the channels of the encoder's features, in the order of their making."""
        super().__init__()
        left, each = list(skips), len(skips) // len(widths)
        self.up_blocks, current = nn.ModuleList(), middle
        for level in reversed(range(len(widths))):
            own = [left.pop() for _ in range(each)]
            block = UpBlock(current, widths[level], own, embedding, groups, up=level > 0)
            self.up_blocks.append(block)
            current = widths[level]
        self.conv_norm_out = nn.GroupNorm(math.gcd(groups, current), current, eps=1e-5)
        self.conv_out = nn.Conv2d(current, out_channels, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        emb, x, *skips = features
        block: Any
        for block in self.up_blocks:
            for resnet in block.resnets:
                x = resnet(torch.cat([x, skips.pop()], dim=1), emb)
            for upsampler in block.upsamplers:
                x = upsampler(x)
        output: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return output


class UpBlock(nn.Module):
    """The parts of one level of a decoder, named as those of diffusers' UpBlock2D."""

    def __init__(
        self,
        before: int,
        width: int,
        skips: Sequence[int],
        embedding: int,
        groups: int,
        *,
        up: bool,
    ) -> None:
        super().__init__()
        entering = [before, *[width] * (len(skips) - 1)]
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=current + skip,
                out_channels=width,
                temb_channels=embedding,
                eps=1e-5,
                groups=math.gcd(groups, current + skip),
                groups_out=math.gcd(groups, width),
            )
            for current, skip in zip(entering, skips, strict=True)
        )
        self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)] if up else [])


class MultistageDiT(MultistageModel):
    """The diffusion transformer (Peebles & Xie 2023): first blocks shared, a tail for each stage.

    A tail has as many blocks as its stage needs; one tail alone is diffusers'
    DiTTransformer2DModel with a single class. New weights are those of the authors' code,
    adaLN-Zero: diffusers leaves torch's.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int = 2,
        num_attention_heads: int = 6,
        attention_head_dim: int = 64,
        trunk_layers: int = 6,
        tail_layers: Sequence[int] = (6, 4, 2),
        boundaries: Sequence[float] = (442, 631),
        num_class_embeds: None = None,
    ) -> None:
        super().__init__()
        heads, width = num_attention_heads, num_attention_heads * attention_head_dim
        self.pos_embed = PatchEmbed(sample_size, sample_size, patch_size, in_channels, width)
        self.transformer_blocks = _blocks(trunk_layers, width, heads)
        self.decoders = nn.ModuleList(
            DiTDecoder(layers, width, heads, patch_size, out_channels) for layers in tail_layers
        )
        _adaln_zero(self)

    def encode(self, sample: Tensor, time: Tensor) -> Features:
        x = self.pos_embed(sample)
        for block in self.transformer_blocks:
            x = _through(block, x, time)
        # the output is conditioned by the first block's embedding, as DiTTransformer2DModel's
        first: Any = self.transformer_blocks[0]
        emb = first.norm1.emb
        return [emb(time, torch.zeros_like(time, dtype=torch.int64), x.dtype), time, x]


class DiTDecoder(nn.Module):
    """The last blocks and the output, from tokens [N, L, D] to images."""

    def __init__(self, layers: int, width: int, heads: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.transformer_blocks = _blocks(layers, width, heads)
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, patch * patch * channels)

    def forward(self, features: Features) -> Tensor:
        emb, time, x = features
        for block in self.transformer_blocks:
            x = _through(block, x, time)
        shift, scale = self.proj_out_1(F.silu(emb)).unsqueeze(1).chunk(2, dim=2)
        x = self.proj_out_2(self.norm_out(x) * (1 + scale) + shift)
        side = math.isqrt(x.shape[1])
        # diffusers has the channels last inside a patch, PixelShuffle first
        patches = x.unflatten(2, (self.patch**2, -1)).permute(0, 3, 2, 1)
        grid = patches.flatten(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(grid, self.patch)


def _blocks(layers: int, width: int, heads: int) -> nn.ModuleList:
    blocks = nn.ModuleList(
        BasicTransformerBlock(
            width,
            heads,
            width // heads,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1,
            attention_bias=True,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        )
        for _ in range(layers)
    )
    block: Any
    for block in blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0  # there is no class to be dropped
    return blocks


def _adaln_zero(network: nn.Module) -> None:
    """Glorot's weights and no biases; blocks pass their input on, and decoders answer 0."""
    module: Any
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, BasicTransformerBlock):
            embedding: Any = module.norm1.emb
            nn.init.normal_(embedding.class_embedder.embedding_table.weight, std=0.02)
            nn.init.normal_(embedding.timestep_embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedding.timestep_embedder.linear_2.weight, std=0.02)
            nn.init.zeros_(module.norm1.linear.weight)
        elif isinstance(module, DiTDecoder):
            nn.init.zeros_(module.proj_out_1.weight)
            nn.init.zeros_(module.proj_out_2.weight)


def _through(block: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    labels = torch.zeros_like(time, dtype=torch.int64)
    output: Tensor = block(x, timestep=time, class_labels=labels)
    return output


def _times(timestep: Any, sample: Tensor) -> Tensor:
    """One time for each image, [N]."""
    return torch.as_tensor(timestep, device=sample.device).expand(len(sample))
