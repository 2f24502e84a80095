"""What the guides show must run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import SpeedSpace
from stepsearch.diffusion.noise import NoiseConfig
from stepsearch.search.trial import TrainerFacts

ROOT = Path(__file__).parents[1]


def blocks(file: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_the_readme_example_describes_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("README.md")
    assert len(example.splitlines()) <= 15
    launched: list[Any] = []

    class Stop(Exception):
        """Raised instead of launching: whole searches are run in tests/search."""

    def instead(config: Any) -> None:
        launched.append(config)
        raise Stop

    monkeypatch.setattr("stepsearch.search.driver.launch", instead)
    with pytest.raises(Stop):
        exec(compile(example, "README.md", "exec", dont_inherit=True), {})
    (config,) = launched
    assert isinstance(config.space, SpeedSpace)
    assert config.space.k == (1, 25)
    config.trainer.check(workers=1)


def test_the_page_on_stages_finds_some(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("docs/stages.md")
    exec(compile(example, "docs/stages.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out == "(0.226, 0.476, 0.726) (0.222, 0.523, 0.78)\n"


def test_the_guide_adds_a_strategy_with_the_numbers_of_its_paper() -> None:
    """methods/strategies.md section 9, B-TTDM with a = 0.8."""
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(blocks("docs/extend.md")[0], "docs/extend.md", "exec", dont_inherit=True), names)
    built = names["BetaConfig"]().build(NoiseConfig().build().alpha_bar)
    expected = {0: 3.981072e-3, 1: 2.950377e-3, 10: 1.990176e-3, 500: 9.18775e-4, 999: 8.0008e-4}
    for t, p in expected.items():
        assert built.p[t] == pytest.approx(p, rel=1e-5)
    assert np.all(built.w == 1)


def test_the_guide_adds_a_space_that_holds_the_baseline() -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(blocks("docs/extend.md")[2], "docs/extend.md", "exec", dont_inherit=True), names)
    facts = TrainerFacts("denoising", NoiseConfig().build().alpha_bar)
    space = names["BetaSpace"]()
    space.check(facts)
    assert [point.label for point in space.fixed(facts)] == ["uniform", "B-TTDM (paper)"]
