"""What a stretch of training reports of its losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stepsearch.diffusion.loss import combine
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training
from stepsearch.strategies import strategy

Build = Callable[..., Training]


def test_the_summary_bins_unweighted_losses_by_log_snr(build_training: Build) -> None:
    process = VPConfig().build()
    seen: list[tuple[int, float]] = []
    timesteps = strategy("p2", gamma=1.0).build(process.alpha_bar)
    timesteps.after_update = lambda step: seen.extend(  # type: ignore[method-assign]
        zip(step.t.tolist(), step.losses().tolist(), strict=True)
    )
    summary = build_training(timesteps=timesteps).run(480)

    t, loss = map(np.array, zip(*seen, strict=True))
    edges = np.linspace(process.log_snr.min(), process.log_snr.max(), 21)
    np.testing.assert_allclose(summary.log_snr, (edges[1:] + edges[:-1]) / 2)
    counts, _ = np.histogram(process.log_snr[t], edges)
    sums, _ = np.histogram(process.log_snr[t], edges, weights=loss)
    assert summary.count.tolist() == counts.tolist()
    filled = counts > 0
    np.testing.assert_allclose(summary.loss[filled], sums[filled] / counts[filled], rtol=1e-6)
    assert np.isnan(summary.loss[~filled]).all()
    assert summary.mean_loss == pytest.approx((timesteps.w[t] * loss).mean(), rel=1e-5)
    assert summary.seconds > 0


def test_summaries_of_two_stretches_combine_to_that_of_the_whole(build_training: Build) -> None:
    whole = build_training().run(480)
    training = build_training()
    combined = combine([training.run(120), training.run(480)])
    assert combined.steps == whole.steps == 60
    assert combined.mean_loss == pytest.approx(whole.mean_loss)
    assert combined.grad_norm == pytest.approx(whole.grad_norm)
    for name in ("log_snr", "count", "loss"):
        np.testing.assert_allclose(getattr(combined, name), getattr(whole, name))
