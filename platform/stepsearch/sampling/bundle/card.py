"""README.md of a bundle: what it is, how well it does, and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from string import Template
from typing import Any

from stepsearch.sampling.bundle.drawing import how_to_draw, how_to_load
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

_TAGS = {"vp": "ddpm", "edm": "edm", "flow": "flow-matching"}
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
        drawing=how_to_draw(file, sampler, own_code, classes, latents) + how_to_load(averages),
        folders=", in one folder a class" if classes else "",
        provenance=_table(("", ""), _origin(origin).items()),
    )


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
