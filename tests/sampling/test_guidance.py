"""The classes of drawn images, and guidance towards them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import DiTConfig, UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.guidance import check_guidance, labels_of, predictor
from stepsearch.sampling.sampler import SamplerConfig, generate

ROUNDING = {"rtol": 0, "atol": 2e-3}
SHARES = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)


def unet(classes: int = 10) -> torch.nn.Module:
    return UNetConfig(channels=(8, 16)).build((1, 8, 8), 0, classes).eval()


def draw(denoiser: torch.nn.Module, n: int, **fields: Any) -> Tensor:
    return generate(
        denoiser,
        VPConfig().build(),
        SamplerConfig(**fields),
        n,
        shape=(1, 8, 8),
        prediction_type="epsilon",
        seed=0,
        class_shares=DigitsConfig().load().class_shares,
    )


@pytest.mark.parametrize("n", [10, 100, 1000, 12_345])
def test_classes_are_drawn_in_the_datas_proportions(n: int) -> None:
    """Far closer than independent draws, which are off by some sqrt(n)."""
    counts = labels_of(SHARES, 0, n).bincount(minlength=4)
    assert (counts - n * SHARES).abs().max() < 3
    assert counts[1] == 0


def test_the_class_of_an_image_depends_on_its_number_only() -> None:
    labels = labels_of(SHARES, 0, 100)
    assert torch.equal(labels_of(SHARES, 30, 60), labels[30:60])
    assert len(labels_of(SHARES, 5, 5)) == 0


def test_the_shares_of_the_digits_are_a_tenth_each() -> None:
    shares = DigitsConfig().load().class_shares
    assert shares is not None
    torch.testing.assert_close(shares, torch.full((10,), 0.1).double(), rtol=0, atol=0.004)
    assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("build", [unet, lambda: DiTConfig(layers=1).build((1, 8, 8), 0, 10)])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_is_a_line_through_two_outputs(
    build: Callable[[], torch.nn.Module], guidance: float
) -> None:
    denoiser, labels = build().eval(), torch.tensor([3, 0, 9])
    chance = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=chance)
    x, t = torch.randn(3, 1, 8, 8, generator=chance), torch.tensor(400)
    null, labelled = (
        denoiser(x, t, class_labels=told).sample for told in (torch.full((3,), 10), labels)
    )
    found = predictor(denoiser, labels, guidance)(x, t)
    torch.testing.assert_close(found, null + guidance * (labelled - null), rtol=1e-4, atol=1e-4)
    assert (null - labelled).abs().max() > 0.01


@pytest.mark.parametrize(("guidance", "evaluations"), [(1.0, 5), (1.5, 10), (0.0, 10)])
def test_guidance_doubles_the_evaluations(guidance: float, evaluations: int) -> None:
    """Twice as many images, not twice as many calls."""
    denoiser, seen = unet(), []
    denoiser.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    draw(denoiser, 4, num_steps=5, guidance=guidance)
    config = SamplerConfig(num_steps=5, guidance=guidance)
    assert (len(seen), sum(seen)) == (5, 4 * evaluations)
    assert config.evaluations == evaluations


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_a_guided_image_depends_on_its_number_only(kind: str) -> None:
    denoiser, fields = unet(), {"kind": kind, "guidance": 3.0}
    images = draw(denoiser, 7, **fields)
    torch.testing.assert_close(draw(denoiser, 3, **fields), images[:3], **ROUNDING)
    torch.testing.assert_close(draw(denoiser, 7, batch_size=2, **fields), images, **ROUNDING)
    assert (images - draw(denoiser, 7, kind=kind)).abs().mean() > 0.01
    assert images.abs().max() <= 1


def test_clipping_bounds_what_guidance_makes_of_x0() -> None:
    denoiser, fields = unet(), {"guidance": 100.0, "num_steps": 2}
    free = draw(denoiser, 4, clip_sample=False, **fields)
    clipped = draw(denoiser, 4, clip_sample=True, **fields)
    assert not torch.allclose(free, clipped, atol=0.01)
    assert clipped.isfinite().all()


def test_guidance_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"^sampler.guidance must be 1 without classes, got 2$"):
        draw(unet(classes=0), 2, guidance=2)
    for told, line in (
        (False, "sampler.guidance must be 1 for a denoiser without classes, got 2"),
        (
            True,
            "sampler.guidance must be 1 where training.label_dropout is 0, so that the null class"
            " is not trained, got 2",
        ),
    ):
        check_guidance(1.0, told=told, null_trained=False)
        with pytest.raises(UserError) as caught:
            check_guidance(2.0, told=told, null_trained=False)
        assert str(caught.value) == line
    check_guidance(2.0, told=True, null_trained=True)
