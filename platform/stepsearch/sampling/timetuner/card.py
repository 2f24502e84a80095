"""README.md of an exported tau."""

from __future__ import annotations

from string import Template

from stepsearch.sampling.timetuner.tuned_file import TunedFile
from stepsearch.sampling.timetuner.tuned_timesteps import quiet, scheduler

_CARD = Template("""\
# Tuned timesteps for $scheduler in $num_steps steps

What a network is told at each of the $nfe evaluations that draw an image. The sampler's noise
levels stay what they are; only the time that goes into the network changes (TimeTuner,
arXiv 2310.09469). On images that the tuning has not seen: $verdict.

They belong to one denoiser (`$denoiser`, $parameters parameters), one sampler (`$kind`,
`$trajectory` trajectory, $num_steps steps), $guidance, and `$prediction_type` prediction.
$note
| evaluation | t | tau |
| --- | --- | --- |
$rows

## Use

`timetuner.json` has the numbers, `tuned_timesteps.py` needs torch and diffusers only.

```python
from tuned_timesteps import attach, load, tuned_scheduler

schedule = load("timetuner.json")
handle = attach(pipeline.unet, schedule)  # with any pipeline that runs the timesteps t
handle.remove()                           # as before; some have a transformer instead of a unet
```
$alone$scheduler_use""")

_NOT_ALONE = """
No pipeline asks for these timesteps by itself. In a loop of your own, `place(scheduler, schedule)`
of the same file sets them{elsewhere}.
"""

_SCHEDULER = """
or, without a hook, for this scheduler alone:

```python
pipeline.scheduler = tuned_scheduler(schedule)
```

A pipeline then takes num_inference_steps={num_steps} and hands on tau as its timesteps: the right
thing for plain sampling, not for img2img or inpainting, which add noise by them.
"""


def runs_alone(file: TunedFile) -> bool:
    """Whether the scheduler runs the timesteps where a pipeline asks it for so many steps."""
    saved = scheduler(file.model_dump(by_alias=True))
    with quiet():
        saved.set_timesteps(file.num_steps)
    return bool(saved.timesteps.tolist() == list(file.timesteps))


def card(file: TunedFile, verdict: str) -> str:
    """The text of README.md."""
    known = file.scheduler is not None and file.tau_scope == "embedding"
    guidance = "no guidance"
    if file.guidance_scale is not None:
        guidance = f"guidance scale {file.guidance_scale:g}"
    rows = zip(file.timesteps, file.tau, strict=True)
    alone = file.scheduler is None or runs_alone(file)
    elsewhere = "; in a pipeline, take the scheduler below" if known else ""
    return _CARD.substitute(
        scheduler=file.scheduler.cls if file.scheduler else "Analytic-DPM",
        num_steps=file.num_steps,
        nfe=file.nfe,
        verdict=verdict,
        denoiser=file.denoiser["class"],
        parameters=f"{file.denoiser['parameters']:,}",
        kind=file.sampler.kind,
        trajectory=file.sampler.trajectory,
        guidance=guidance,
        prediction_type=file.prediction_type,
        note=f"\n{file.note}\n" if file.note else "",
        rows="\n".join(f"| {k} | {t:.6g} | {tau:.6g} |" for k, (t, tau) in enumerate(rows)),
        alone="" if alone else _NOT_ALONE.format(elsewhere=elsewhere),
        scheduler_use=_SCHEDULER.format(num_steps=file.num_steps) if known else "",
    )
