"""Label-free trust: scores of a model on unlabelled target images, and the verdict that reads them together."""

from segrefinery.evaluation.trust.collect import Observation, look, sample_images, sample_pixels
from segrefinery.evaluation.trust.verdict import Verdict, ensemble_agreement, pooled, single_scores, trust, verdict

__all__ = [
    "Observation",
    "Verdict",
    "ensemble_agreement",
    "look",
    "pooled",
    "sample_images",
    "sample_pixels",
    "single_scores",
    "trust",
    "verdict",
]
