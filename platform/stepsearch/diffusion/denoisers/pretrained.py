"""A network that diffusers has saved, to train on from."""

from __future__ import annotations

from typing import Literal

import torch

from stepsearch.config import AbsolutePath
from stepsearch.diffusion.autoencoder import latents_of
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers.base import DenoiserConfig, initial_weights
from stepsearch.diffusion.denoisers.saved import load_network, network_folder, read_saved
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.weights import WEIGHTS
from stepsearch.errors import UserError

_FIELD = "denoiser.path"


class PretrainedConfig(DenoiserConfig):
    """The U-Net or the diffusion transformer in a folder; its weights are the same for all seeds.

    No code in the folder is run, and weights are read from safetensors only.
    """

    kind: Literal["pretrained"] = "pretrained"
    path: AbsolutePath
    """What diffusers' `save_pretrained` wrote, wherever the worker runs: a model, or a pipeline
    with one in `unet/` or `transformer/`."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise UserError unless the folder has a network for images of `shape` (C, H, W)."""
        folder = network_folder(self.path, _FIELD)
        read_saved(folder, _FIELD).check(shape, folder)

    def classes(self, data: Dataset) -> int:
        folder = network_folder(self.path, _FIELD)
        return read_saved(folder, _FIELD).told(data, folder)

    def check_latents(self, data: Dataset) -> None:
        own = self.path / "vae"
        if data.vae is None or not (own / WEIGHTS).is_file():
            return
        if latents_of(own, _FIELD) != latents_of(data.vae, "dataset.path"):
            raise UserError(
                f"denoiser.path must draw latents of the data set's autoencoder, {data.vae}, "
                f"got a pipeline with another one, or with another scale: {own}"
            )

    def build_for(self, data: Dataset, process: NoiseProcess, seed: int) -> torch.nn.Module:
        folder = network_folder(self.path, _FIELD)
        saved = read_saved(folder, _FIELD)
        saved.check(data.shape, folder)
        with initial_weights(seed):  # diffusers draws some before it reads them
            return load_network(folder, saved, _FIELD)
