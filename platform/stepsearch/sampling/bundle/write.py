"""Writing a bundle: the whole folder or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import ConsistencyModelPipeline, DDPMPipeline, DiffusionPipeline, ModelMixin
from torch import Tensor

from stepsearch.diffusion.autoencoder import load_autoencoder
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.denoisers import unconditional_dit
from stepsearch.diffusion.labels import null_class
from stepsearch.diffusion.multistage import networks
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.training import TrainingConfig
from stepsearch.diffusion.workers import Workers
from stepsearch.figures import strategy_curves
from stepsearch.pictures import sample_grid
from stepsearch.sampling.bundle import denoiser_pipeline
from stepsearch.sampling.bundle.card import card
from stepsearch.sampling.bundle.denoiser_pipeline import DenoiserPipeline
from stepsearch.sampling.bundle.strategy_file import Provenance, StrategyFile, strategy_file
from stepsearch.sampling.files import new_folder
from stepsearch.sampling.sampler import SamplerConfig, diffusion_scheduler, generate
from stepsearch.strategies import Strategy, StrategyConfig

_SCRIPT = Path(__file__).with_name("train_with_strategy.py")
_SAMPLES = 64


@dataclass(frozen=True)
class Bundle:
    """What a bundle is made from."""

    process: NoiseProcess
    sampler: SamplerConfig
    """How the denoiser's images were drawn when it was judged."""
    training: TrainingConfig
    config: StrategyConfig
    strategy: Strategy
    """What `config` built, in its last state."""
    denoiser: ModelMixin
    """With averaged weights."""
    recipe: str
    """The resolved configuration, as YAML."""
    leaderboard: pd.DataFrame
    provenance: Provenance
    averages: Mapping[int, ModelMixin] = field(default_factory=dict)
    """The denoiser with the weights' other averages, by their half-lives in images."""
    class_shares: Tensor | None = None
    """Those of its data [classes], for a denoiser with classes."""
    vae: Path | None = None
    """The folder of the autoencoder that decodes what the denoiser draws."""


def write_bundle(folder: Path, bundle: Bundle, *, seed: int = 0) -> Path:
    """Write strategy.json, search.yaml, pipeline/, averages/ if there are others, the leaderboard,
    a training script, pictures and a README.md to `folder`; returns `folder`. `seed` is that of
    the pictured samples.

    The files are written to a hidden folder beside it, which takes its name at the very end.
    Raises UserError if `folder` exists or cannot be written, or if the parts do not fit together.
    """
    file = strategy_file(
        bundle.process, bundle.training, bundle.config, bundle.strategy, bundle.provenance
    )
    with new_folder(folder) as temporary:
        _fill(temporary, bundle, file, seed)
    return folder


def _fill(folder: Path, bundle: Bundle, file: StrategyFile, seed: int) -> None:
    file.write(folder)
    (folder / "search.yaml").write_text(bundle.recipe, encoding="utf-8")
    _write_pipeline(folder / "pipeline", bundle)
    for halflife, denoiser in bundle.averages.items():
        denoiser.save_pretrained(folder / "averages" / str(halflife))
    _open_to_all(folder)
    _draw(folder, bundle, file, seed)
    _write_leaderboard(folder, bundle.leaderboard)
    shutil.copyfile(_SCRIPT, folder / _SCRIPT.name)
    averages = tuple(bundle.averages)
    text = card(
        file,
        bundle.sampler,
        own_code=_own_code(bundle.denoiser),
        classes=null_class(bundle.denoiser) or 0,
        latents=bundle.vae is not None,
        averages=averages,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


_PIPELINES: dict[str, type[DiffusionPipeline]] = {
    "vp": DDPMPipeline,
    "edm": ConsistencyModelPipeline,
    "flow": DDPMPipeline,
}
"""Of these, ConsistencyModelPipeline scales the denoiser's input as EDM's schedulers ask for."""


def _write_pipeline(folder: Path, bundle: Bundle) -> None:
    """The denoiser with the sampler's scheduler; with DDPM's for DDIM, which takes it over, unless
    the pipeline is one that takes any."""
    sampler, target = bundle.sampler, bundle.training.prediction_type
    own = bundle.vae is not None or null_class(bundle.denoiser) is not None
    kind = DenoiserPipeline if own else _PIPELINES[bundle.process.kind]
    if sampler.kind == "ddim" and not own:
        sampler = sampler.model_copy(update={"kind": "ddpm"})
    parts = {
        "unet": bundle.denoiser,
        "scheduler": diffusion_scheduler(bundle.process, sampler, target),
    }
    if bundle.vae is not None:
        parts["vae"] = load_autoencoder(bundle.vae, "vae").network
    kind(**parts).save_pretrained(folder)
    if bundle.vae is not None:
        shutil.copytree(bundle.vae, folder / "vae", dirs_exist_ok=True)  # to the last bit
    if own:
        shutil.copy(denoiser_pipeline.__file__, folder)
        _enter(folder, "_class_name", "denoiser_pipeline", kind.__name__)
    name = _own_code(bundle.denoiser)
    if name is not None:
        shutil.copyfile(_CODE[name][1], folder / "unet" / f"{name}.py")
        _enter(folder, "unet", name, type(bundle.denoiser).__name__)


def _open_to_all(folder: Path) -> None:
    """safetensors lets nobody but the owner read its files."""
    for weights in folder.rglob("*.safetensors"):
        weights.chmod((folder / "search.yaml").stat().st_mode)


_CODE: dict[str, tuple[type[ModelMixin], str]] = {
    "multistage": (networks.MultistageModel, networks.__file__),
    "unconditional_dit": (unconditional_dit.UnconditionalDiT, unconditional_dit.__file__),
}
"""Classes that diffusers lacks, and the files that go with a pipeline, under these names."""


def _own_code(denoiser: ModelMixin) -> str | None:
    """The name of the file that the denoiser's class is in, unless diffusers has it."""
    return next((name for name, (kind, _) in _CODE.items() if isinstance(denoiser, kind)), None)


def _enter(folder: Path, key: str, code: str, name: str) -> None:
    """Say where a class is that diffusers lacks; it looks there with `trust_remote_code=True`."""
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content[key] = [code, name]
    index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _draw(folder: Path, bundle: Bundle, file: StrategyFile, seed: int) -> None:
    images = generate(
        bundle.denoiser,
        bundle.process,
        bundle.sampler,
        _SAMPLES,
        shape=_shape(bundle.denoiser),
        prediction_type=bundle.training.prediction_type,
        seed=seed,
        class_shares=bundle.class_shares,
        workers=Workers(device=bundle.denoiser.device),
        decode=decoder(bundle.vae, bundle.denoiser.device),
    )
    sample_grid(images.numpy(), _SAMPLES).save(folder / "samples.png")
    strategy_curves(np.array(file.p), np.array(file.w)).savefig(folder / "strategy.png", dpi=110)


def _shape(denoiser: ModelMixin) -> tuple[int, int, int]:
    """(C, H, W) of the images or latents that it draws."""
    size = denoiser.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return denoiser.config.in_channels, height, width


def _write_leaderboard(folder: Path, leaderboard: pd.DataFrame) -> None:
    table = leaderboard.apply(_one_type)
    table.to_csv(folder / "leaderboard.csv", index=False)
    table.to_parquet(folder / "leaderboard.parquet", index=False)


def _one_type(column: pd.Series) -> pd.Series:
    """As Parquet needs it: values of several types become text, and so CSV has them too.

    Empty text becomes a missing value, which it is for whoever reads the CSV.
    """
    if pd.api.types.infer_dtype(column, skipna=True) in ("mixed", "mixed-integer"):
        column = column.map(str, na_action="ignore")
    return column.replace("", None)
