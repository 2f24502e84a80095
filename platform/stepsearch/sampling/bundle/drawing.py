"""The part of a bundle's README.md that draws images with diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from stepsearch.sampling.bundle.strategy_file import StrategyFile
from stepsearch.sampling.sampler import SamplerConfig

SCHEDULER_NAMES = {
    ("vp", "ddim"): "DDIMScheduler",
    ("vp", "ddpm"): "DDPMScheduler",
    ("edm", "euler"): "EDMEulerScheduler",
    ("edm", "dpm"): "EDMDPMSolverMultistepScheduler",
    ("flow", "euler"): "FlowMatchEulerDiscreteScheduler",
}
"""diffusers' classes, by the noise process and the sampler."""

_DRAW_VP = Template("""\
```python
from diffusers import DDIMPipeline
pipeline = DDIMPipeline.from_pretrained($where)
images = pipeline(batch_size=16, num_inference_steps=$ddim_steps, eta=$eta).images
```

`DDPMPipeline` loads the same folder:

```python
from diffusers import DDPMPipeline
pipeline = DDPMPipeline.from_pretrained($where)
images = pipeline(batch_size=16, num_inference_steps=$ddpm_steps).images
```""")

_DRAW = Template("""\
```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained($where)
images = pipeline(batch_size=16, num_inference_steps=$steps).images
```

The noise is removed by diffusers' `$scheduler`.""")

_DRAW_OWN = Template("""\
```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("pipeline", trust_remote_code=True)
images = pipeline(
    $asked, num_inference_steps=$steps$eta
).images
```

$about The noise is removed by diffusers' `$scheduler`. No pipeline of diffusers does just this:
`pipeline/denoiser_pipeline.py` does, which `trust_remote_code=True` lets run.""")

_ABOUT_CLASSES = Template("""\
The classes are 0 to $last, and $null is none. `guidance_scale=1` is no guidance, and evaluates the
denoiser once a step instead of twice.""")

_ABOUT_LATENTS = """\
The denoiser draws latents, which the `AutoencoderKL` in `pipeline/vae` decodes."""

_OWN_CODE = {
    "multistage": """

The denoiser has an encoder for all timesteps and a decoder for each stage of them. diffusers has
no such class: it is in `pipeline/unet/multistage.py`, which `trust_remote_code=True` lets run.""",
    "unconditional_dit": """

The denoiser is a `DiTTransformer2DModel` of diffusers, which fails when it is given no class, as
by these pipelines. `pipeline/unet/unconditional_dit.py`, which `trust_remote_code=True` lets run,
gives it the null class; `DiTTransformer2DModel` itself loads `pipeline/unet` as it is.""",
}
"""By the file of the class that diffusers lacks."""

_OWN_CODE_WITH_CLASSES = {
    "unconditional_dit": """

The denoiser is a `DiTTransformer2DModel` of diffusers whose labels nothing drops in training, in
`pipeline/unet/unconditional_dit.py`; `DiTTransformer2DModel` itself loads `pipeline/unet` as it
is.""",
}
"""The same for denoisers with classes."""

_AVERAGES = Template("""

`averages/` has the same denoiser with other averages of its weights, by the images in which a
weight's share halves ($halflives). They were not judged:

```python
pipeline.unet = type(pipeline.unet).from_pretrained("averages/$first")
```""")


def how_to_draw(
    file: StrategyFile, sampler: SamplerConfig, own_code: str | None, classes: int, latents: bool
) -> str:
    """How diffusers draws images as `sampler` does, for a bundle's README.md.

    `own_code` names the file of a class that diffusers lacks; `classes` and `latents` say what the
    denoiser is told and what it draws.
    """
    steps, kind = sampler.num_steps, file.schedule.kind
    if classes or latents:
        return _drawing_own(file, sampler, own_code, classes, latents)
    where = '"pipeline", trust_remote_code=True' if own_code else '"pipeline"'
    after = _OWN_CODE[own_code] if own_code else ""
    if kind != "vp":
        scheduler = SCHEDULER_NAMES[kind, sampler.kind]
        return _DRAW.substitute(where=where, steps=steps, scheduler=scheduler) + after
    text = _DRAW_VP.substitute(
        where=where,
        ddim_steps=steps,
        ddpm_steps=steps if sampler.kind == "ddpm" else file.schedule.timesteps,
        eta=sampler.eta,
    )
    return text + after


def _drawing_own(
    file: StrategyFile, sampler: SamplerConfig, own_code: str | None, classes: int, latents: bool
) -> str:
    """The same by the pipeline that is in the bundle."""
    asked, about = "batch_size=16", [_ABOUT_LATENTS] if latents else []
    if classes:
        asked = f"class_labels=[0] * 8 + [1] * 8, guidance_scale={sampler.guidance:g}"
        about.append(_ABOUT_CLASSES.substitute(last=classes - 1, null=classes))
    text = _DRAW_OWN.substitute(
        asked=asked,
        about=" ".join(about),
        steps=sampler.num_steps,
        eta=f", eta={sampler.eta}" if sampler.kind == "ddim" else "",
        scheduler=SCHEDULER_NAMES[file.schedule.kind, sampler.kind],
    )
    others = _OWN_CODE_WITH_CLASSES if classes else _OWN_CODE
    return text + others.get(own_code or "", "")


def how_to_load(averages: Sequence[int]) -> str:
    """The averages of these half-lives, which are in the bundle beside the judged one."""
    if not averages:
        return ""
    halflives = ", ".join(f"{halflife:,}" for halflife in averages)
    return _AVERAGES.substitute(halflives=halflives, first=averages[0])
