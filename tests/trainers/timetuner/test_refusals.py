"""Trials of tuned times that cannot be: refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stepsearch.errors import UserError


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sampler": {"num_steps": 1200}},
         "sampler.num_steps must be at most 1000 (T), got 1200"),
        ({"sampler": {"num_steps": 3}},
         "sampler.num_steps must divide T = 1000 for trailing, got 3"),
        ({"sampler": {"kind": "dpm_solver_2", "trajectory": "edm"}},
         "sampler.trajectory must be one of quadratic_continuous, log_snr, ays, gits, "
         "score_optimal, dmn, dmn_latent, given for dpm_solver_2, got 'edm'"),
        ({"times": {"r": (0.1,)}}, "times.r must have 4 numbers, got 1"),
        ({"score": "teacher", "teacher": {"num_steps": 7}},
         "teacher.num_steps must divide T = 1000 for trailing, got 7"),
        ({"score": "teacher", "teacher": {"num_steps": 10, "levels": [1, 0]}},
         "teacher.levels must be num_steps + 1 numbers for trajectory given and none for others, "
         "got 2 for 10 steps on trailing"),
        ({"score": "teacher", "teacher": {"trajectory": "dmn", "num_steps": 500}},
         "teacher.num_steps must be at most 100 for dmn, got 500"),
        ({"checkpoint": {"kind": "folder", "path": "/no/where"}},
         "checkpoint.path must be an existing folder, got '/no/where'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_one_line(config: Any, fields: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        config(**fields).check(workers=1)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sampler": {"kind": "cm"}},
         "trainer.sampler must be another than cm, which has levels of its own"),
        ({"sampler": {"kind": "ddpm"}, "score": "teacher"},
         "trainer.score must be frechet, kid or energy for ddpm, whose steps add noise, "
         "got 'teacher'"),
        ({"score": "fid"},
         "trainer.score must be one of 'frechet', 'kid', 'energy' or 'teacher', got 'fid'"),
        ({"sampler": "ddim"}, "trainer.sampler must be a mapping, got 'ddim'"),
        ({"sampler": {"guidance": 101}}, "trainer.sampler.guidance must be at most 100, got 101"),
        ({"tau_scope": "half"},
         "trainer.tau_scope must be one of 'embedding' or 'full', got 'half'"),
        ({"gradient": {"strategy": "end_to_end"}},
         "trainer.gradient.strategy must be one of 'sequential' or 'parallel', got 'end_to_end'"),
        ({"teacher": {"num_steps": 0}}, "trainer.teacher.num_steps must be at least 1, got 0"),
        ({"judge": {"samples": 0}}, "trainer.judge.samples must be at least 2, got 0"),
        ({"times": {"sequential": 1.5}}, "trainer.times.sequential must be at most 1, got 1.5"),
        ({"times": {"parallel": -1}}, "trainer.times.parallel must be at least 0, got -1"),
        ({"times": {"end_to_end": 2}}, "trainer.times.end_to_end must be at most 1, got 2"),
        ({"end_to_end": {"iterations": 0}},
         "trainer.end_to_end.iterations must be at least 1, got 0"),
        ({"dataset": {"kind": "videos", "path": "a"}},
         "trainer.dataset.kind must be one of 'digits', 'images', 'latents', got 'videos'"),
        ({"times": {"r": 3}}, "trainer.times.r must be a list, got 3"),
        ({"checkpoint": {"kind": "pickle"}},
         "trainer.checkpoint.kind must be one of 'search', 'folder', got 'pickle'"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_with_one_line(config: Any, fields: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        config(**fields)
    assert str(error.value) == line


def test_several_workers_are_welcome_and_missing_labels_are_refused(
    config: Any, tmp_path: Path
) -> None:
    config().check(workers=2)
    for index in range(20):
        Image.fromarray(np.full((8, 8), 12 * index, dtype=np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    unsorted = {"kind": "images", "path": str(tmp_path), "size": 8, "channels": 1}
    with pytest.raises(UserError, match=r"has no labels.*, or take score energy$"):
        config(dataset=unsorted).check(workers=1)
    colour = {"kind": "images", "path": str(tmp_path), "size": 8}
    message = (
        r"^dataset must have images \[1, 8, 8\], which the checkpoint draws, got \[3, 8, 8\]$"
    )
    with pytest.raises(UserError, match=message):
        config(dataset=colour, score="teacher").check(workers=1)
