"""The Inception Score: how sure a classifier is of each image, and how different it finds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepsearch.errors import UserError


def inception_score(logits: Tensor, split: int = 5000) -> float:
    """exp E_x KL(p(y|x) || p(y))  (Salimans et al. 2016, section 4) of logits [n, classes].

    The mean over consecutive equal parts of `split` images or a little more: those of ADM's
    evaluator at 10,000 or 50,000. A smaller set is used whole. 1 for a set of equal images,
    `classes` at most. It never looks at real images. Raises UserError for no samples.
    """
    if logits.ndim != 2 or not len(logits):
        raise UserError(
            f"inception_score: logits must be [n, classes], n >= 1, got {list(logits.shape)}"
        )
    parts = torch.tensor_split(logits, max(1, len(logits) // split))
    return sum(_score(part.double()) for part in parts) / len(parts)


def _score(logits: Tensor) -> float:
    log_p = logits.log_softmax(1)
    log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return float((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp())
