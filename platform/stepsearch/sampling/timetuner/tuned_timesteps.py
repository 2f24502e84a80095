"""Use tuned timesteps in plain PyTorch and diffusers; needs nothing but these two packages.

    schedule = load("timetuner.json")
    attach(pipeline.unet, schedule)                 # works with every scheduler
    pipeline.scheduler = tuned_scheduler(schedule)  # or this: no hook, one scheduler

tau[k] takes the place of the time that the network is told at its k-th evaluation. The noise
levels of the sampler stay what they were.
"""

import inspect
import json
import math
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

_PICKED = 16


def load(path):
    """The schedule in a timetuner.json, checked. Raises ValueError if it is none."""
    schedule = json.loads(Path(path).read_text(encoding="utf-8"))
    if schedule.get("version") != 1:
        raise ValueError(f"{path}: version must be 1, got {schedule.get('version')!r}")
    for name in ("tau", "timesteps"):
        values = schedule[name]
        if len(values) != schedule["nfe"] or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{path}: {name} must have nfe = {schedule['nfe']} finite numbers")
    return schedule


@contextmanager
def quiet():
    """Without what diffusers' schedulers make numpy warn of, and call deprecated of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # DPM-Solver in eps
        yield


def place(scheduler, schedule, set_timesteps=None, device=None):
    """Set a scheduler's nominal timesteps and noise levels: those that were tuned for."""
    set_timesteps = set_timesteps or scheduler.set_timesteps
    times, sigmas = schedule["timesteps"], schedule["sigmas"]
    if sigmas is None and "timesteps" in inspect.signature(set_timesteps).parameters:
        set_timesteps(timesteps=[int(t) for t in times])
        return
    with quiet():
        set_timesteps(schedule["num_steps"])
    if sigmas is not None:
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        scheduler.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        scheduler.set_begin_index(0)
    elif scheduler.timesteps.tolist() != times:
        raise ValueError(f"the scheduler must run {times}, got {scheduler.timesteps.tolist()}")


def restate(output, x, prediction_type, told, nominal):
    """A network's output at the time it was told, as the one at the nominal time with the same eps.

    `told` and `nominal` are (alpha, sigma) at these times. Only for tau_scope = full.
    """
    (a, s), (alpha, sigma) = told, nominal
    if prediction_type == "v_prediction":
        return (a * output + s * x - sigma * x) / alpha
    if prediction_type == "sample":
        return (x - sigma * (x - a * output) / s) / alpha
    return output


class Handle:
    """Undoes `attach`."""

    def __init__(self, *handles):
        self._handles = handles

    def remove(self):
        for handle in self._handles:
            handle.remove()


class _Told:
    """Counts a denoiser's evaluations and tells it tau instead of the timestep."""

    def __init__(self, schedule, calls_per_step):
        self.schedule, self.calls_per_step = schedule, calls_per_step
        self.calls = 0

    def before(self, module, args, kwargs):
        args, kwargs = list(args), dict(kwargs)
        given = kwargs["timestep"] if "timestep" in kwargs else args[1]
        x = kwargs["sample"] if "sample" in kwargs else args[0]
        tau = torch.tensor(
            self.schedule["tau"][self._slot(given)], dtype=torch.float32, device=x.device
        )
        if isinstance(given, torch.Tensor):
            tau = tau.expand(given.shape)
        if "timestep" in kwargs:
            kwargs["timestep"] = tau
        else:
            args[1] = tau
        self.calls += 1
        return tuple(args), kwargs

    def after(self, module, args, kwargs, output):
        slot = (self.calls - 1) // self.calls_per_step
        scales = self.schedule["scales"]
        x = kwargs["sample"] if "sample" in kwargs else args[0]
        kind = self.schedule["prediction_type"]
        if isinstance(output, tuple):
            return (restate(output[0], x, kind, *scales[slot]), *output[1:])
        return type(output)(sample=restate(output.sample, x, kind, *scales[slot]))

    def _slot(self, given):
        """The evaluation that asks for this time: the next one, or the first that asks for it."""
        times = self.schedule["timesteps"]
        slot = self.calls // self.calls_per_step
        if slot >= len(times) or not _same(given, times[slot]):
            slot = next((k for k, time in enumerate(times) if _same(given, time)), None)
            if slot is None:
                raise ValueError(
                    f"the sampler asks for t = {float(torch.as_tensor(given).flatten()[0]):g}, "
                    f"which was not tuned for: the schedule has {times}"
                )
            self.calls = slot * self.calls_per_step
        return slot


def _same(given, time):
    """Whether a pipeline's timestep is this one, as far as its number format tells."""
    given = torch.as_tensor(given).flatten()[0]
    if not given.is_floating_point():
        return float(given) == time
    return float(given) == float(torch.tensor(time, dtype=torch.float32).to(given.dtype))


def attach(denoiser, schedule, *, calls_per_step=1):
    """Make `denoiser` see tau in every scheduler and pipeline; `.remove()` on the result undoes it.

    The scheduler must run the schedule's nominal timesteps: other ones are refused as they come.
    A pipeline that evaluates the network twice a step, with and without a condition, needs
    calls_per_step=2. Raises ValueError if the schedule was tuned for another network.
    """
    check(denoiser, schedule)
    told = _Told(schedule, calls_per_step)
    handles = [denoiser.register_forward_pre_hook(told.before, with_kwargs=True)]
    if schedule["tau_scope"] == "full":
        handles.append(denoiser.register_forward_hook(told.after, with_kwargs=True))
    return Handle(*handles)


def fingerprint(denoiser):
    """What tells one network from another, in any number format: its size and some weights."""
    parameters = [p for p in denoiser.parameters() if p.numel()]
    chosen = parameters[:: max(1, len(parameters) // _PICKED)][:_PICKED]
    return {
        "class": type(denoiser).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "weights": [float(p.detach().flatten()[p.numel() // 2]) for p in chosen],
    }


def check(denoiser, schedule):
    """Raise ValueError if the schedule was tuned for another network than `denoiser`."""
    ours, theirs = schedule["denoiser"], fingerprint(denoiser)
    same = ours["parameters"] == theirs["parameters"] and all(
        math.isclose(a, b, rel_tol=0.02, abs_tol=1e-6)
        for a, b in zip(ours["weights"], theirs["weights"], strict=True)
    )
    if not same:
        raise ValueError(
            f"the schedule was tuned for other weights: {ours['class']} of {ours['parameters']:,} "
            f"parameters, got {theirs['class']} of {theirs['parameters']:,}"
        )


class _TunedScheduler:
    """Mixed into a scheduler of diffusers: its timesteps are tau, its noise levels the nominal."""

    def set_timesteps(self, num_inference_steps=None, device=None, **options):
        schedule = self.schedule
        if options or num_inference_steps != schedule["num_steps"]:
            raise ValueError(
                f"num_inference_steps must be {schedule['num_steps']}, which was tuned for, "
                f"got {num_inference_steps} {options or ''}"
            )
        place(self, schedule, super().set_timesteps, device)
        self.nominal, self.slot = self.timesteps, 0
        self.timesteps = torch.tensor(schedule["tau"], dtype=torch.float32, device=device)

    def step(self, model_output, timestep, sample, *args, **kwargs):
        tau, nominal = self.timesteps, self.nominal
        self.timesteps = nominal  # some classes look a timestep up
        try:
            time = int(nominal[self.slot]) if self.schedule["sigmas"] is None else timestep
            self.slot += 1
            return super().step(model_output, time, sample, *args, **kwargs)
        finally:
            self.timesteps = tau


def scheduler(schedule):
    """diffusers' own scheduler with the nominal timesteps, as the schedule was tuned for."""
    import diffusers

    saved = schedule["scheduler"]
    with quiet():
        return getattr(diffusers, saved["class"]).from_config(saved["config"])


def tuned_scheduler(schedule):
    """A scheduler that hands a pipeline tau; only for tau_scope = embedding.

    Set it as `pipeline.scheduler` and sample with num_inference_steps = schedule["num_steps"].
    """
    if schedule["tau_scope"] != "embedding":
        raise ValueError("a scheduler cannot do tau_scope = full: attach the schedule instead")
    made = scheduler(schedule)
    base = type(made)
    made.__class__ = type(f"Tuned{base.__name__}", (_TunedScheduler, base), {})
    made.schedule = schedule
    made.set_timesteps(schedule["num_steps"])
    return made
