"""Use tuned timesteps in plain PyTorch and diffusers; needs nothing but these two packages.

    schedule = load("timetuner.json")
    attach(pipeline.unet, schedule)                 # or pipeline.transformer; every scheduler
    pipeline.scheduler = tuned_scheduler(schedule)  # or this: no hook, one scheduler

tau[k] takes the place of the time that the network is told at its k-th evaluation. The noise
levels of the sampler stay what they were.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Schedule = dict[str, Any]
"""The content of a timetuner.json."""

_PICKED = 16


def load(path: str | Path) -> Schedule:
    """The schedule in a timetuner.json, checked. Raises ValueError if it is none."""
    schedule = json.loads(Path(path).read_text(encoding="utf-8"))
    version = schedule.get("version") if isinstance(schedule, dict) else None
    if version != 1:
        raise ValueError(f"{path}: version must be 1, got {version!r}")
    nfe = schedule.get("nfe")
    for name in ("tau", "timesteps"):
        if not _are_numbers(schedule.get(name), nfe):
            raise ValueError(f"{path}: {name} must have nfe = {nfe} finite numbers")
    return dict(schedule)


def _are_numbers(values: Any, n: Any) -> bool:
    if not isinstance(values, list) or len(values) != n:
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers' schedulers make numpy warn of, and call deprecated of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # DPM-Solver in eps
        yield


def place(
    scheduler: Any,
    schedule: Schedule,
    set_timesteps: Callable[..., Any] | None = None,
    device: Any = None,
) -> None:
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


def restate(output: Any, x: Any, prediction_type: str, told: Any, nominal: Any) -> Any:
    """An output at the time that the network was told, as the nominal time's with the same eps.

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

    def __init__(self, *handles: Any) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class _Told:
    """Counts a denoiser's evaluations and tells it tau instead of the timestep."""

    def __init__(self, schedule: Schedule, calls_per_step: int) -> None:
        self.schedule, self.calls_per_step = schedule, calls_per_step
        self.calls = 0

    def before(self, module: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = list(args), dict(kwargs)
        given = kwargs["timestep"] if "timestep" in kwargs else args[1]
        x = _seen(args, kwargs)
        # a float32 tensor: networks cast Python floats to integers, and half precision rounds
        value = self.schedule["tau"][self._slot(given)]
        tau = torch.tensor(value, dtype=torch.float32, device=x.device)
        if isinstance(given, torch.Tensor):
            tau = tau.expand(given.shape)
        if "timestep" in kwargs:
            kwargs["timestep"] = tau
        else:
            args[1] = tau
        self.calls += 1
        return tuple(args), kwargs

    def after(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        scales = self.schedule["scales"][(self.calls - 1) // self.calls_per_step]
        x = _seen(args, kwargs)
        kind = self.schedule["prediction_type"]
        if isinstance(output, tuple):
            return (restate(output[0], x, kind, *scales), *output[1:])
        return type(output)(sample=restate(output.sample, x, kind, *scales))

    def _slot(self, given: Any) -> int:
        """The evaluation that asks for this time: the next one, or the first that asks for it."""
        times = self.schedule["timesteps"]
        slot = self.calls // self.calls_per_step
        if slot >= len(times) or not _same(given, times[slot]):
            found = [k for k, time in enumerate(times) if _same(given, time)]
            if not found:
                asked = float(torch.as_tensor(given).flatten()[0])
                raise ValueError(
                    f"the sampler must ask for the timesteps that were tuned for, {times}, "
                    f"got {asked:g}"
                )
            slot = found[0]
            self.calls = slot * self.calls_per_step
        return slot


def _seen(args: Any, kwargs: Any) -> Any:
    """What the denoiser is given to look at, which transformers call hidden_states."""
    names = [name for name in ("sample", "hidden_states") if name in kwargs]
    return kwargs[names[0]] if names else args[0]


def _same(given: Any, time: float) -> bool:
    """Whether a pipeline's timestep is this one, as far as its number format tells."""
    given = torch.as_tensor(given).flatten()[0]
    if not given.is_floating_point():
        return float(given) == time
    return float(given) == float(torch.tensor(time, dtype=torch.float32).to(given.dtype))


def attach(denoiser: Any, schedule: Schedule, *, calls_per_step: int = 1) -> Handle:
    """Make `denoiser` see tau in every scheduler and pipeline; the result's `remove` undoes it.

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


def fingerprint(denoiser: Any) -> dict[str, Any]:
    """What tells one network from another, in any number format: its size and some weights."""
    parameters = [p for p in denoiser.parameters() if p.numel()]
    chosen = parameters[:: max(1, len(parameters) // _PICKED)][:_PICKED]
    return {
        "class": type(denoiser).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "weights": [float(p.detach().flatten()[p.numel() // 2]) for p in chosen],
    }


def check(denoiser: Any, schedule: Schedule) -> None:
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

    schedule: Schedule
    timesteps: torch.Tensor

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, **options: Any
    ) -> None:
        schedule = self.schedule
        if options or num_inference_steps != schedule["num_steps"]:
            raise ValueError(
                f"num_inference_steps must be {schedule['num_steps']}, which was tuned for, "
                f"got {num_inference_steps} {options or ''}".rstrip()
            )
        place(self, schedule, super().set_timesteps, device)  # type: ignore[misc]
        self.nominal, self.slot = self.timesteps, 0
        self.timesteps = torch.tensor(schedule["tau"], dtype=torch.float32, device=device)

    def step(
        self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any
    ) -> Any:
        tau, nominal = self.timesteps, self.nominal
        self.timesteps = nominal  # some classes look a timestep up
        try:
            time = int(nominal[self.slot]) if self.schedule["sigmas"] is None else timestep
            self.slot += 1
            return super().step(model_output, time, sample, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.timesteps = tau


def _signed(base: Any) -> Any:
    """`step` with the signature of a scheduler's own, which pipelines ask for what it takes."""

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _TunedScheduler.step(self, *args, **kwargs)

    return step


def scheduler(schedule: Schedule) -> Any:
    """diffusers' own scheduler, with the settings that the schedule was tuned for."""
    import diffusers

    saved = schedule["scheduler"]
    if saved is None:
        raise ValueError("diffusers has no such scheduler: attach the schedule to your own")
    with quiet():
        return getattr(diffusers, saved["class"]).from_config(saved["config"])


def tuned_scheduler(schedule: Schedule) -> Any:
    """A scheduler that hands a pipeline tau; only for tau_scope = embedding.

    Set it as `pipeline.scheduler` and sample with num_inference_steps = schedule["num_steps"].
    """
    if schedule["tau_scope"] != "embedding":
        raise ValueError("a scheduler cannot do tau_scope = full: attach the schedule instead")
    made = scheduler(schedule)
    base = type(made)
    own = {"step": _signed(base)}
    made.__class__ = type(f"Tuned{base.__name__}", (_TunedScheduler, base), own)
    made.schedule = schedule
    made.set_timesteps(schedule["num_steps"])
    return made
