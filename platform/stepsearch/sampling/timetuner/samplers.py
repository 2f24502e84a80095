"""The samplers whose timesteps can be tuned, and which trajectories each of them can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field
from torch import Tensor

from stepsearch.config import Config
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.analytic import AnalyticScheduler
from stepsearch.sampling.timetuner.consistency import ConsistencySolver
from stepsearch.sampling.timetuner.solver import Solver
from stepsearch.sampling.timetuner.trajectories import (
    ENDS_ABOVE_ZERO,
    TRAJECTORIES,
    UNIFORM,
    Knots,
    Trajectory,
    given,
    knots,
)
from stepsearch.sampling.timetuner.tuned_timesteps import quiet
from stepsearch.strategies.base import FloatArray

Kind = Literal[
    "ddim",
    "ddpm",
    "analytic_ddim",
    "analytic_ddpm",
    "euler",
    "heun",
    "dpm_solver_2",
    "dpmpp_2m",
    "unipc",
    "cm",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TARGETS = ("epsilon", "v_prediction", "sample")
"""What diffusers' schedulers for variance-preserving processes take."""
_INTEGERS = ("leading", "leading_1", "trailing", "linspace", "quadratic")
_FROM_BELOW = ("leading", "leading_1", "linspace", "quadratic")
"""Trajectories whose first point is the least noisy one: of one step, it is the only one."""
_CLIPPING = ("ddpm", "analytic_ddim", "analytic_ddpm")
ANALYTIC = ("analytic_ddim", "analytic_ddpm")
_STOCHASTIC = ("ddpm", "analytic_ddim", "analytic_ddpm", "cm")


class SolverConfig(Config):
    """A sampler whose timesteps are tuned: everything that tau depends on, but the network."""

    kind: Kind = "ddim"
    num_steps: int = Field(default=10, ge=1)
    """Steps K; `heun` evaluates the network 2K - 1 times, the others K times."""
    trajectory: Literal[Trajectory, "given"] = "trailing"
    """Without effect on `cm`, which has levels of its own, rho = 7. given: `levels`."""
    levels: tuple[float, ...] = ()
    """sigma / alpha of the K steps, falling, and of where they end, 0 for no noise."""
    clip_sample: bool = False
    """Clip each step's prediction of x0 to [-1, 1]; ddim on uniform ones, ddpm, analytic."""
    guidance: float = Field(default=1.0, ge=0, le=100)
    """Of a denoiser with classes, classifier-free; 1 is none. tau is for this one."""
    eta: float = Field(default=0.0, ge=0, le=1)
    """DDIM's noise, on a uniform trajectory, and Analytic-DDIM's."""
    variance: Literal["small", "large"] = "large"
    """DDPM's noise in a step: beta ("large", the paper's choice) or the posterior's ("small")."""

    @property
    def evaluations_a_slot(self) -> int:
        """Of the network: twice with guidance, in one batch that is told one time."""
        return 1 if self.guidance == 1 else 2

    def check(self, T: int) -> None:
        """Raise UserError unless this sampler can run this trajectory on T timesteps."""
        own = self.kind == "ddim" and self.trajectory in UNIFORM
        if self.num_steps > T:
            raise UserError(f"sampler.num_steps must be at most {T} (T), got {self.num_steps}")
        if self.num_steps == 1 and self.trajectory in _FROM_BELOW:
            raise UserError(
                f"sampler.num_steps must be at least 2 on {self.trajectory}, whose one step would "
                "begin at the least noise, got 1"
            )
        if self.kind in _CLIPPING:
            self._runs(_INTEGERS)
        elif self.kind == "dpm_solver_2":  # in eps it has no step to sigma = 0
            self._runs((*ENDS_ABOVE_ZERO, "given"))
            if self.trajectory == "given" and not all(self.levels):
                raise UserError("sampler.levels must end above 0 for dpm_solver_2, got 0 at last")
        elif self.kind == "cm":
            self._runs(TRAJECTORIES)
        if len(self.levels) != (self.num_steps + 1 if self.trajectory == "given" else 0):
            raise UserError(
                "sampler.levels must be num_steps + 1 numbers for trajectory given and none for "
                f"others, got {len(self.levels)} for {self.num_steps} steps on {self.trajectory}"
            )
        if self.clip_sample and not (own or self.kind in _CLIPPING):
            raise UserError(
                "sampler.clip_sample must be false except for ddim on a uniform trajectory, ddpm "
                f"and analytic samplers, got true for {self.kind} on {self.trajectory}"
            )
        if self.eta and not (own or self.kind == "analytic_ddim"):
            raise UserError(
                "sampler.eta must be 0 except for ddim on a uniform trajectory and analytic_ddim, "
                f"got {self.eta:g} for {self.kind} on {self.trajectory}"
            )

    def check_latents(self) -> None:
        """Raise UserError for what only images in [-1, 1] can have."""
        if self.clip_sample:
            raise UserError(
                "sampler.clip_sample must be false for latents, which are not in [-1, 1], got true"
            )
        if self.kind in ANALYTIC:
            raise UserError(
                "sampler.kind must not be analytic for latents, as its variances are bounded by "
                f"those of pixels in [-1, 1], got {self.kind!r}"
            )

    def _runs(self, allowed: tuple[str, ...]) -> None:
        if self.trajectory not in allowed:
            raise UserError(
                f"sampler.trajectory must be one of {', '.join(allowed)} for {self.kind}, "
                f"got {self.trajectory!r}"
            )

    def times(self, alpha_bar: FloatArray) -> FloatArray:
        """[S], what the network is told untuned, one time an evaluation; `cm` has its own.

        Raises UserError if this sampler cannot run on the process.
        """
        self.check(len(alpha_bar))
        times = self._knots(alpha_bar).times
        return np.repeat(times, 2)[1:] if self.kind == "heun" else times

    def _knots(self, alpha_bar: FloatArray) -> Knots:
        if alpha_bar[-1] <= 0:
            raise UserError("noise must leave some signal at T - 1, got zero terminal SNR")
        if self.trajectory == "given":
            return given(self.levels, alpha_bar)
        return knots(self.trajectory, self.num_steps, alpha_bar)

    def at(self, levels: Sequence[float]) -> SolverConfig:
        """This sampler with noise levels [K + 1] of one's own."""
        changes = {"trajectory": "given", "levels": tuple(levels), "num_steps": len(levels) - 1}
        return self.model_copy(update=changes)

    @property
    def stochastic(self) -> bool:
        """Whether its steps add noise, so that two runs from one x_T differ."""
        return self.kind in _STOCHASTIC or self.eta > 0

    def build(
        self, noise: Mapping[str, Any], prediction_type: str, gamma: Tensor | None = None
    ) -> Solver:
        """The solver on the process that `noise`, as keyword arguments, gives diffusers.

        `gamma` is what `measure_gamma` says of the network, for analytic samplers. Raises
        UserError if the sampler cannot run.
        """
        from diffusers import CMStochasticIterativeScheduler, DDPMScheduler

        if prediction_type not in _TARGETS:
            raise UserError(
                f"prediction_type must be one of {', '.join(_TARGETS)}, got {prediction_type!r}"
            )
        if self.kind == "cm":
            self.check(self.num_steps)
            return ConsistencySolver(CMStochasticIterativeScheduler(**noise), self.num_steps)
        alpha_bar = DDPMScheduler(**noise).alphas_cumprod
        self.check(len(alpha_bar))
        table = alpha_bar.double().numpy()
        found = self._knots(table)
        if self.kind in ANALYTIC:
            scheduler: Any = self._analytic(alpha_bar, prediction_type, gamma)
        else:
            process = {**noise, "prediction_type": prediction_type}
            with quiet():
                scheduler = _scheduler(self, process, found.sigmas[-1] == 0)
        return Solver(scheduler, found, prediction_type, table, eta=self.eta)

    def _analytic(
        self, alpha_bar: Tensor, prediction_type: str, gamma: Tensor | None
    ) -> AnalyticScheduler:
        if gamma is None or len(gamma) != self.num_steps:
            raise UserError(
                f"{self.kind} needs gamma, E||eps||^2 / d of the network at each of the "
                f"{self.num_steps} timesteps (measure_gamma)"
            )
        return AnalyticScheduler(
            alpha_bar,
            gamma,
            prediction_type,
            "ddim" if self.kind == "analytic_ddim" else "ddpm",
            clip_sample=self.clip_sample,
        )


def _scheduler(config: SolverConfig, process: Mapping[str, Any], ends_at_zero: bool) -> Any:
    """The class that runs this sampler exactly, on this process."""
    import diffusers

    kind = config.kind
    final = "zero" if ends_at_zero else "sigma_min"
    # so that a pipeline that asks for K steps gets the nominal ones where the class knows them
    spacing = {"timestep_spacing": "leading", "steps_offset": 0}
    if config.trajectory in (*UNIFORM, "linspace"):
        offset = config.trajectory == "leading_1"
        name = config.trajectory.removesuffix("_1")
        spacing = {"timestep_spacing": name, "steps_offset": int(offset)}
    if kind == "ddim" and config.trajectory in UNIFORM:
        return diffusers.DDIMScheduler(**process, **spacing, clip_sample=config.clip_sample)
    if kind == "ddpm":
        variance = f"fixed_{config.variance}"
        return diffusers.DDPMScheduler(
            **process, **spacing, clip_sample=config.clip_sample, variance_type=variance
        )
    if kind in ("ddim", "dpmpp_2m"):  # of order 1, it is DDIM
        order = 1 if kind == "ddim" else 2
        return diffusers.DPMSolverMultistepScheduler(
            **process, **spacing, solver_order=order, final_sigmas_type=final
        )
    if kind == "unipc":
        return diffusers.UniPCMultistepScheduler(**process, **spacing, final_sigmas_type=final)
    if kind == "dpm_solver_2":
        return diffusers.DPMSolverSinglestepScheduler(
            **process,
            algorithm_type="dpmsolver",
            final_sigmas_type=final,
            lower_order_final=bool(config.num_steps % 2),
        )
    named = {"euler": diffusers.EulerDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler}
    # "leading" makes init_noise_sigma 1 / alpha, which x ~ N(0, I) needs
    return named[kind](**process, timestep_spacing="leading")
