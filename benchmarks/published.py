"""The papers' tables of strategies by the names that they have here, and how far the order agrees.

FID at one training length, lower is better. "Log-normal" is another density in each paper, and
SpeeD's Min-SNR column is printed with weights that are not Min-SNR's (docs/strategies.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from benchmarks.compared import Compared
from stepsearch.search.ranks import spearman
from stepsearch.simulation.curves import Curves

PUBLISHED: dict[str, Mapping[str, float]] = {
    "Adaptive, Table 1 (linear) and 4, 0.2M": {
        "uniform": 8.16,
        "p2": 6.45,
        "min_snr": 4.40,
        "logit_normal": 5.38,
        "speed_v1": 4.08,
        "adaptive": 3.99,
        "gradient_variance": 21.3,
    },
    "Adaptive, Table 1 (linear) and 4, 1.0M": {
        "uniform": 3.19,
        "p2": 4.70,
        "min_snr": 3.16,
        "logit_normal": 3.60,
        "speed_v1": 3.57,
        "adaptive": 2.94,
        "gradient_variance": 11.3,
    },
    "SpeeD, Table 10 (ImageNet), 40K": {
        "uniform": 200.0,
        "p2": 207.6,
        "min_snr": 208.6,
        "speed_log_normal": 365.9,
        "clts": 231.6,
        "speed_released": 191.5,
    },
    "SpeeD, Table 10 (CelebA), 40K": {
        "uniform": 271.6,
        "p2": 271.1,
        "min_snr": 271.6,
        "speed_log_normal": 293.0,
        "clts": 258.8,
        "speed_released": 254.9,
    },
    "SpeeD, Table 11, 400K": {"beta": 140.5, "speed_released": 139.2},
}
TABLE_12 = {
    (0.7, 2, 0.6): 191.2,
    (0.7, 1, 0.6): 202.4,
    (0.7, 10, 0.6): 206.7,
    (0.7, 2, 0.5): 202.1,
    (0.7, 2, 0.8): 200.5,
    (0.6, 2, 0.6): 198.5,
    (0.8, 2, 0.6): 200.0,
}
"""SpeeD on ImageNet after 50K steps: (tau / T, k, lam): FID."""


def agreement(compared: Compared) -> dict[str, Any]:
    """Print Spearman's rho of each table with the order here, in the middle and at the end,
    and both orders; None for tables of two. Tables with other strategies are left out.
    """
    middle, found = len(compared.images_seen) // 2, {}
    ends = dict(zip(compared.names, compared.effect.T[[middle, -1]].T, strict=True))
    for table, rows in PUBLISHED.items():
        names = [name for name in sorted(rows, key=rows.__getitem__) if name in ends]
        if len(names) < len(rows):
            continue
        rho = [_rho([rows[n] for n in names], [ends[n][at] for n in names]) for at in (0, 1)]
        print(f"{table}: rho {rho[0]} (middle) and {rho[1]} (end)\n    theirs {' < '.join(names)}")
        print(f"    here   {' < '.join(sorted(names, key=lambda n: float(ends[n][1])))}")
        found[table] = rho
    return found


def _rho(a: Sequence[float], b: Sequence[float]) -> float | None:
    rho = spearman(a, b)
    return None if rho is None else round(rho, 2)


def ablation(curves: Curves) -> dict[str, Any]:
    """Print SpeeD's Table 12 beside what recorded trainings say of the same settings.

    The recordings are of many settings on one seed: a cubic polynomial of tau, ln k and lam
    through their log fd stands for each one's repeats. Its R2 is of left-out recordings.
    """
    metric = curves.primary.name
    at = [_point(*(r.params[name] for name in ("tau", "k", "lam"))) for r in curves.originals]
    fd = np.log([recording.final[metric] for recording in curves.originals])
    model = make_pipeline(StandardScaler(), PolynomialFeatures(3), LinearRegression())
    guessed = cross_val_predict(model, at, fd, cv=KFold(10, shuffle=True, random_state=0))
    here = np.exp(model.fit(at, fd).predict([_point(*row) for row in TABLE_12]))
    r2, rho = float(r2_score(fd, guessed)), _rho(list(TABLE_12.values()), list(here))
    print(f"SpeeD, Table 12, beside {len(fd)} recorded trainings (R2 {r2:.2f}): rho {rho}")
    for row, value in zip(TABLE_12, here, strict=True):
        print("    tau {} T, k {}, lam {}:".format(*row), f"{TABLE_12[row]}, here {value:.2f}")
    return {"rho": rho, "r2": round(r2, 2), "here": [round(float(value), 3) for value in here]}


def _point(tau: float, k: float, lam: float) -> list[float]:
    return [tau, math.log(k), lam]
