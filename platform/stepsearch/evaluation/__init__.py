"""The judge: tensors in, numbers out."""

from stepsearch.evaluation.classifier import ClassifierConfig
from stepsearch.evaluation.distances import frechet_distance, frechet_error, kid
from stepsearch.evaluation.features import FEATURES, AnyFeatures
from stepsearch.evaluation.judge import Judge
from stepsearch.evaluation.judge_config import JudgeConfig
from stepsearch.evaluation.manifold import ImageManifold
from stepsearch.evaluation.moments import Moments, statistics
from stepsearch.evaluation.neighbours import density_coverage, precision_recall
from stepsearch.evaluation.predictions import inception_score

__all__ = [
    "FEATURES",
    "AnyFeatures",
    "ClassifierConfig",
    "ImageManifold",
    "Judge",
    "JudgeConfig",
    "Moments",
    "density_coverage",
    "frechet_distance",
    "frechet_error",
    "inception_score",
    "kid",
    "precision_recall",
    "statistics",
]
