"""TimeTuner: the times that a trained network is told while it draws images."""

from stepsearch.sampling.timetuner.analytic import measure_gamma
from stepsearch.sampling.timetuner.draw import Verdict, compare, draw, gap_to
from stepsearch.sampling.timetuner.end_to_end import EndToEndConfig, tune_end_to_end
from stepsearch.sampling.timetuner.export import write_tuned
from stepsearch.sampling.timetuner.gradient import GradientConfig, Tuned, losses, tune, tune_slot
from stepsearch.sampling.timetuner.joint import Moved, tune_jointly
from stepsearch.sampling.timetuner.network import (
    Network,
    by_class,
    check_times,
    evaluate,
    guided,
)
from stepsearch.sampling.timetuner.samplers import KINDS, SolverConfig
from stepsearch.sampling.timetuner.shifts import ShiftedTimes
from stepsearch.sampling.timetuner.trajectories import TRAJECTORIES, knots
from stepsearch.sampling.timetuner.tuned_file import TunedFile, load_tuned

__all__ = [
    "KINDS",
    "TRAJECTORIES",
    "EndToEndConfig",
    "GradientConfig",
    "Moved",
    "Network",
    "ShiftedTimes",
    "SolverConfig",
    "Tuned",
    "TunedFile",
    "Verdict",
    "by_class",
    "check_times",
    "compare",
    "draw",
    "evaluate",
    "gap_to",
    "guided",
    "knots",
    "load_tuned",
    "losses",
    "measure_gamma",
    "tune",
    "tune_end_to_end",
    "tune_jointly",
    "tune_slot",
    "write_tuned",
]
