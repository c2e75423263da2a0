"""What is measured on a checkpoint: one file a family, and the registry that knows them all by name."""

from __future__ import annotations

from phasewatch.measures import registry
from phasewatch.measures.ablation import ablation
from phasewatch.measures.bigrams import Bigrams, bigram_divergence, score_logits
from phasewatch.measures.circuits import score_circuits
from phasewatch.measures.copying import score_copying
from phasewatch.measures.evaluation import token_losses
from phasewatch.measures.groups import TokenGroup
from phasewatch.measures.heads import score_heads
from phasewatch.measures.losses import score_losses
from phasewatch.measures.measurement import HeadScores, Measurement
from phasewatch.measures.patterns import attention_pattern, natural_attention_pattern
from phasewatch.measures.repetition import score_repetition
from phasewatch.measures.trajectory import loss_slope, trajectory

__all__ = [
    "Bigrams",
    "HeadScores",
    "Measurement",
    "TokenGroup",
    "ablation",
    "attention_pattern",
    "bigram_divergence",
    "loss_slope",
    "natural_attention_pattern",
    "registry",
    "score_circuits",
    "score_copying",
    "score_heads",
    "score_logits",
    "score_losses",
    "score_repetition",
    "token_losses",
    "trajectory",
]
