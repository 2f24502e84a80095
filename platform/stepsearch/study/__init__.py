"""The search's trials, through Optuna's ask and tell; the only package that imports Optuna."""

from stepsearch.study.records import Direction, Objective, Outcome, Proposal, TrialRecord
from stepsearch.study.samplers import (
    OPTUNA_SAMPLERS,
    AnyOptunaSampler,
    CmaEsConfig,
    GpConfig,
    GridConfig,
    Nsga2Config,
    Nsga3Config,
    OptunaSamplerConfig,
    QmcConfig,
    RandomConfig,
    TpeConfig,
)
from stepsearch.study.settings import StudySettings
from stepsearch.study.spaces import Space, Suggest
from stepsearch.study.storage import snapshot
from stepsearch.study.stored import StoredStudy
from stepsearch.study.study import Study

__all__ = [
    "OPTUNA_SAMPLERS",
    "AnyOptunaSampler",
    "CmaEsConfig",
    "Direction",
    "GpConfig",
    "GridConfig",
    "Nsga2Config",
    "Nsga3Config",
    "Objective",
    "OptunaSamplerConfig",
    "Outcome",
    "Proposal",
    "QmcConfig",
    "RandomConfig",
    "Space",
    "StoredStudy",
    "Study",
    "StudySettings",
    "Suggest",
    "TpeConfig",
    "TrialRecord",
    "snapshot",
]
