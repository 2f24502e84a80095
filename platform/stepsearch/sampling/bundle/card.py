"""README.md of a bundle: what it is, how well it does, and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from string import Template
from typing import Any

from stepsearch.sampling.bundle.strategy_file import Provenance, StrategyFile
from stepsearch.sampling.sampler import SamplerConfig

_CARD = Template("""\
---
${task}tags: [diffusers, $tag, timestep-strategy]
---

# $search, trial $trial: timesteps by `$family`

![Samples](samples.png)

A denoiser and the timestep strategy that it was trained with, found by the search `$search`.
Nothing here needs stepsearch: the denoiser is a diffusers pipeline, the strategy two lists of
numbers.

## The strategy

`strategy.json` holds, for each of the $T timesteps of the `$schedule` noise process (t = 0 is
the least noisy), the probability `p` of drawing t in training and the weight `w` on the
loss (the mean squared error of the denoiser's `$prediction_type` prediction).

$parameters
$note
![The strategy over the timesteps](strategy.png)

## How it did

$verdict

$metrics

Judged on images drawn with $sampler, the settings of `samples.png`. `leaderboard.csv` and
`leaderboard.parquet` hold all trials of the search.

## Draw images

$drawing

## Train with the strategy

`train_with_strategy.py` trains the same denoiser from new weights, on scikit-learn's digits or
on your images$folders:

```sh
python train_with_strategy.py --data my_images --out retrained
```

In your own loop, two lines change. They are made for the noise process in
`pipeline/scheduler` and for `$prediction_type` prediction, not for others:

```python
import json, torch
strategy = json.load(open("strategy.json"))
p, w = torch.tensor(strategy["p"]), torch.tensor(strategy["w"])
t = torch.multinomial(p, 64, replacement=True)  # instead of torch.randint($T, (64,))
# loss = (w[t] * mse).mean()                    # mse: one value an image
```

## Where it comes from

$provenance

`search.yaml` is the whole configuration of the search.
""")


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

_TAGS = {"vp": "ddpm", "edm": "edm", "flow": "flow-matching"}
_SCHEDULERS = {
    ("vp", "ddim"): "DDIMScheduler",
    ("vp", "ddpm"): "DDPMScheduler",
    ("edm", "euler"): "EDMEulerScheduler",
    ("edm", "dpm"): "EDMDPMSolverMultistepScheduler",
    ("flow", "euler"): "FlowMatchEulerDiscreteScheduler",
}
_SAMPLERS = {"ddim": "DDIM", "ddpm": "DDPM", "euler": "Euler", "dpm": "DPM-Solver++"}


def card(
    file: StrategyFile,
    sampler: SamplerConfig,
    *,
    own_code: str | None = None,
    classes: int = 0,
    latents: bool = False,
    averages: Sequence[int] = (),
) -> str:
    """The text of README.md; `own_code` names the file of a class that diffusers lacks.

    `classes` is how many the denoiser is told apart, 0 if it is told none; `latents` says that it
    draws latents, which the pipeline decodes. `averages` are the
    half-lives of those that are in the bundle beside the judged one.
    """
    origin = file.provenance
    return _CARD.substitute(
        search=origin.search,
        trial=origin.trial,
        family=file.family,
        T=file.schedule.timesteps,
        schedule=file.schedule.name,
        prediction_type=file.prediction_type,
        parameters=_parameters(file.parameters),
        note=f"\n{file.note}\n" if file.note else "",
        verdict=_verdict(origin),
        metrics=_metrics(origin),
        sampler=_sampler(sampler),
        task="" if classes else "pipeline_tag: unconditional-image-generation\n",
        tag=_TAGS[file.schedule.kind],
        drawing=_drawing(file, sampler, own_code, classes, latents) + _others(averages),
        folders=", in one folder a class" if classes else "",
        provenance=_table(("", ""), _origin(origin).items()),
    )


def _drawing(
    file: StrategyFile, sampler: SamplerConfig, own_code: str | None, classes: int, latents: bool
) -> str:
    """How diffusers draws images as `sampler` does."""
    steps, kind = sampler.num_steps, file.schedule.kind
    if classes or latents:
        return _drawing_own(file, sampler, own_code, classes, latents)
    where = '"pipeline", trust_remote_code=True' if own_code else '"pipeline"'
    after = _OWN_CODE[own_code] if own_code else ""
    if kind != "vp":
        scheduler = _SCHEDULERS[kind, sampler.kind]
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
        scheduler=_SCHEDULERS[file.schedule.kind, sampler.kind],
    )
    others = _OWN_CODE_WITH_CLASSES if classes else _OWN_CODE
    return text + others.get(own_code or "", "")


def _others(averages: Sequence[int]) -> str:
    if not averages:
        return ""
    halflives = ", ".join(f"{halflife:,}" for halflife in averages)
    return _AVERAGES.substitute(halflives=halflives, first=averages[0])


def _parameters(parameters: Mapping[str, Any]) -> str:
    given = ((name, value) for name, value in parameters.items() if value is not None)
    return _table(("parameter", "value"), given)


def _verdict(origin: Provenance) -> str:
    goal = "low" if origin.direction == "minimize" else "high"
    text = f"The search looked for a {goal} `{origin.objective}`."
    if origin.speed_up is not None:
        text += f" Speed-up over uniform timesteps, in training images: {origin.speed_up}."
    if len(origin.values) > 1:
        text += f" Trained on {len(origin.values)} seeds, it came to {_spread(origin.values)}"
        if len(origin.baseline_values) > 1:
            text += f", and uniform timesteps to {_spread(origin.baseline_values)}"
        text += ". The table is of the first seed, whose denoiser this is."
    return text


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3g} ± {stdev(values):.2g}"


def _metrics(origin: Provenance) -> str:
    """The metrics beside the baseline's, the objective first."""
    names = sorted(origin.metrics, key=lambda name: name != origin.objective)
    columns = {"this trial": origin.metrics}
    if origin.baseline:
        columns["uniform timesteps"] = origin.baseline
    rows = ([name, *(column.get(name) for column in columns.values())] for name in names)
    return _table(("metric", *columns), rows)


def _sampler(sampler: SamplerConfig) -> str:
    text = f"{_SAMPLERS[sampler.kind]} in {sampler.num_steps} steps"
    if sampler.guidance != 1:
        text += f" with guidance {sampler.guidance:g}"
    if sampler.kind in ("euler", "dpm"):
        return text
    eta = f", eta {sampler.eta:g}" if sampler.kind == "ddim" else ""
    clipped = "clipped" if sampler.clip_sample else "not clipped"
    return f"{text} (x0 {clipped}{eta})"


def _origin(origin: Provenance) -> dict[str, Any]:
    return {
        "search": origin.search,
        "trial": origin.trial,
        "seed": origin.seed,
        "training images seen": f"{origin.images_seen:,}",
        "git commit": origin.git_commit or "unknown",
        **origin.versions,
    }


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    names = list(header)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
