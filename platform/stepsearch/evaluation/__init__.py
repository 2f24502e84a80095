"""The judge: tensors in, numbers out."""

from stepsearch.evaluation.classifier import ClassifierConfig
from stepsearch.evaluation.distances import frechet_distance, kid, statistics
from stepsearch.evaluation.judge import Judge, JudgeConfig
from stepsearch.evaluation.manifold import ImageManifold
from stepsearch.evaluation.neighbours import precision_recall

__all__ = [
    "ClassifierConfig",
    "ImageManifold",
    "Judge",
    "JudgeConfig",
    "frechet_distance",
    "kid",
    "precision_recall",
    "statistics",
]
