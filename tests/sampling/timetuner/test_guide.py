"""What docs/timetuner.md shows must run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMPipeline, DDIMScheduler

from stepsearch.diffusion.noise import VPConfig
from stepsearch.sampling.timetuner import load_tuned

GUIDE = Path(__file__).parents[3] / "docs" / "timetuner.md"


def test_the_guide_tunes_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a denoiser after ten steps, with a few iterations."""
    first, levels, second = re.findall(
        r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.M
    )
    monkeypatch.chdir(tmp_path)
    for long, short in (
        ("38_400", "640"),
        (" EndToEndConfig()", " EndToEndConfig(iterations=2, batch_size=8, real=16, held_out=16)"),
        ("[1, 2, 3], 256", "[1, 2], 4"),
        ("tuned, verdict)", "tuned, verdict, force=True)"),
    ):
        assert long in first
        assert long in levels or long == "38_400"
        first, levels = first.replace(long, short), levels.replace(long, short)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(first, "timetuner.md", "exec", dont_inherit=True), names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert load_tuned(tmp_path / "tuned" / "timetuner.json").num_steps == 10
    exec(compile(levels, "timetuner.md", "exec", dont_inherit=True), names)
    assert load_tuned(tmp_path / "moved" / "timetuner.json").sampler.kind == "dpmpp_2m"
    exec(compile(second, "timetuner.md", "exec", dont_inherit=True), names)
    noise = VPConfig().build().scheduler_config()
    found = names["noise_of"](DDIMPipeline(names["denoiser"], DDIMScheduler(**noise)))
    assert found == noise | {"trained_betas": None}
