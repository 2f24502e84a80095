"""A trained trial as a folder that plain PyTorch and diffusers can use."""

from stepsearch.sampling.bundle.strategy_file import Provenance, StrategyFile, load_strategy
from stepsearch.sampling.bundle.write import Bundle, write_bundle

__all__ = ["Bundle", "Provenance", "StrategyFile", "load_strategy", "write_bundle"]
