"""The stateless weight that may stand beside a learned density."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepsearch.strategies.min_snr import MinSnrConfig
from stepsearch.strategies.p2 import P2Config
from stepsearch.strategies.speed import SpeedConfig
from stepsearch.strategies.uniform import UniformConfig

Weighting = Annotated[
    UniformConfig | P2Config | MinSnrConfig | SpeedConfig, Field(discriminator="kind")
]
"""Only the weight of such a strategy counts, not its density."""
Unweighted = UniformConfig()
