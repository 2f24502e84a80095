"""diffusers' diffusion transformer without classes, and with classes that nothing drops.

This file needs torch and diffusers only: it goes with every exported pipeline, which diffusers
loads with `trust_remote_code=True`.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn


class UnconditionalDiT(DiTTransformer2DModel):
    """DiTTransformer2DModel (Peebles & Xie 2023), called as diffusers' unconditional pipelines do.

    Those call `denoiser(x, t)`, t a number or one an image. DiTTransformer2DModel answers with a
    TypeError: it looks its class up in a table whatever happens, and wants one time an image.
    DiTPipeline gives it both, but knows latents of an autoencoder only. Here the class is always
    the null one of classifier-free guidance, the last row of the table, also in a network that
    was trained with classes. Weights and config are those of DiTTransformer2DModel, which loads
    them as they are: `num_embeds_ada_norm=0` is a table of the null class alone.

    New weights are those of the authors' code, adaLN-Zero: diffusers leaves torch's. As always in
    diffusers, each block has an embedding of the time for itself, where the authors' share one.
    """

    # diffusers looks the fields of config.json up in the signature
    @wraps(DiTTransformer2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apply(_initialise)
        for block in self.transformer_blocks:
            embedding = block.norm1.emb
            embedding.class_embedder.dropout_prob = 0  # there is no class to be dropped
            nn.init.normal_(embedding.class_embedder.embedding_table.weight, std=0.02)
            nn.init.normal_(embedding.timestep_embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedding.timestep_embedder.linear_2.weight, std=0.02)
            nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(self.proj_out_1.weight)
        nn.init.zeros_(self.proj_out_2.weight)

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        class_labels: None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The output for images [N, C, H, W] at `timestep`, a number or one an image."""
        time = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        null = torch.full_like(time, self.config.num_embeds_ada_norm, dtype=torch.int64)
        return super().forward(sample, time, null, return_dict=return_dict)


class ClassConditionalDiT(UnconditionalDiT):
    """The same, told the class of each image; without one, or with `null_class`, the null one.

    In training, DiTTransformer2DModel drops a tenth of the labels itself, by torch's global
    generator and differently in every block. Here they stay what they are: whoever trains it drops
    labels, or does not.
    """

    @property
    def null_class(self) -> int:
        """The label of the null class; those below it are the classes."""
        classes: int = self.config.num_embeds_ada_norm
        return classes

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Any,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The output for images [N, C, H, W] of classes [N]."""
        if class_labels is None:
            return super().forward(sample, timestep, return_dict=return_dict)
        time = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return DiTTransformer2DModel.forward(
            self, sample, time, class_labels, return_dict=return_dict
        )


def _initialise(module: nn.Module) -> None:
    """Glorot's uniform weights, of a patch's pixels too, and no biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
