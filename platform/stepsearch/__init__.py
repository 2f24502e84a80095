"""Find, by real trials, how a diffusion model should use its timesteps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepsearch.diffusion.noise import VPConfig
    from stepsearch.errors import UserError
    from stepsearch.search.config import SearchConfig
    from stepsearch.search.driver import launch, resume
    from stepsearch.search.result import SearchResult
    from stepsearch.strategies import strategy

_HOME = {
    "VPConfig": "stepsearch.diffusion.noise",
    "SearchConfig": "stepsearch.search.config",
    "SearchResult": "stepsearch.search.result",
    "UserError": "stepsearch.errors",
    "launch": "stepsearch.search.driver",
    "resume": "stepsearch.search.driver",
    "strategy": "stepsearch.strategies",
}

__all__ = [
    "SearchConfig",
    "SearchResult",
    "UserError",
    "VPConfig",
    "launch",
    "resume",
    "strategy",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch, Ray and MLflow take seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'stepsearch' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
