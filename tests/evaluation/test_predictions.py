"""The Inception Score against torchmetrics and its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore

from stepsearch.errors import UserError
from stepsearch.evaluation import inception_score


class Logits(nn.Module):
    """torchmetrics' network for inputs that are logits already."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all")
@pytest.mark.filterwarnings("ignore:std")  # of one split
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_the_score_agrees_with_torchmetrics(spread, generator):
    logits = spread * torch.randn(300, 10, generator=generator)
    metric = InceptionScore(feature=Logits(), splits=1)
    metric.update(logits)
    assert inception_score(logits) == pytest.approx(float(metric.compute()[0]), rel=1e-5)


def test_the_score_lies_between_one_and_the_number_of_classes():
    assert inception_score(torch.zeros(30, 7)) == pytest.approx(1)
    assert inception_score(torch.eye(7).repeat(5, 1) * 1e4) == pytest.approx(7)
    one_class = torch.tensor([[1e4, 0, 0]]).repeat(9, 1)
    assert inception_score(one_class) == pytest.approx(1)


def test_two_images_by_hand():
    # p = (3/4, 1/4) and (1/4, 3/4); the marginal is (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    expected = math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert inception_score(logits) == pytest.approx(expected, rel=1e-6)


def test_more_images_than_a_split_are_scored_in_equal_parts(generator):
    logits = 3 * torch.randn(120, 5, generator=generator)
    parts = [inception_score(part) for part in torch.split(logits, 40)]
    assert inception_score(logits, split=40) == pytest.approx(sum(parts) / 3)
    assert inception_score(logits[:79], split=40) == inception_score(logits[:79])
    assert inception_score(logits, split=40) != inception_score(logits)


@pytest.mark.parametrize("shape", [(0, 5), (5,)])
def test_no_images_have_no_score(shape):
    with pytest.raises(UserError, match=r"logits must be \[n, classes\], n >= 1, got"):
        inception_score(torch.zeros(shape))
