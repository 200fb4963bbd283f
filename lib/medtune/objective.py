"""The objective: every token carries one signed weight, and an unmarked wrong answer one bounded preference term.

Rows S are the supervised positions of a batch of B sequences, V the vocabulary. All sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from medtune.records import DIMENSIONS

MIN_UNLIKELY = 1e-5  # floor of 1 - p (Welleck et al. 2019, fairseq): p -> 1 must not blow up
CHUNK = 1024  # rows whose logits are in memory at a time


class Rows(NamedTuple):
    """The supervised positions of one micro-batch; a tuple, so that a compiled step can take it.

    at (S,): flat position in (B * T) that predicts the target; targets (S,) int32; weights (S,) float32 signed,
    0 on padding; sequence (S,): which of the B; dim (S,): index of its dimension; preference (S,) float32: 1 where
    the row belongs to a preference term. Per sequence: penalty (B,) float32, 0 without a preference term;
    reference (B,) float32: log-probability under the base model.
    """

    at: mx.array
    targets: mx.array
    weights: mx.array
    sequence: mx.array
    dim: mx.array
    preference: mx.array
    penalty: mx.array
    reference: mx.array


class Terms(NamedTuple):
    """What one micro-batch contributed, per dimension (3,) where not said otherwise.

    nll: sum of -log p over desirable rows, unweighted; rows: their number; loss: share of the objective;
    rho (B,): log pi - log pi_ref of the preference terms, 0 elsewhere.
    """

    nll: mx.array
    rows: mx.array
    loss: mx.array
    rho: mx.array


def log_probs(logits: mx.array, targets: mx.array) -> mx.array:
    """log p of each target: logits (S, V) any float, targets (S,) -> (S,) float32."""
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, mx.stop_gradient(targets)[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def signed_nll(logp: mx.array, weights: mx.array) -> mx.array:
    """Per row: w * -log p for w > 0, |w| * -log(1 - p) for w < 0 (unlikelihood, Welleck et al. 2019), in nats."""
    unlikely = -mx.log(mx.maximum(1 - mx.exp(logp), MIN_UNLIKELY))
    return mx.where(weights < 0, -weights * unlikely, weights * -logp)


def apo_zero_undesirable(rho: mx.array, beta: float) -> mx.array:
    """sigmoid(beta * rho), rho = log pi - log pi_ref of an undesirable answer (APO-zero, D'Oosterlinck et al. 2024).

    Bounded in (0, 1), its gradient by beta / 4: it stops pushing once the answer has become unlikely.
    """
    return mx.sigmoid(beta * rho)


def sequence_sums(values: mx.array, sequence: mx.array, count: int) -> mx.array:
    """Sum (S,) values by the sequence they belong to -> (count,)."""
    return mx.zeros((count,), mx.float32).at[sequence].add(values)


def row_log_probs(h: mx.array, targets: mx.array, head: Callable[[mx.array], mx.array]) -> mx.array:
    """log p of each target from hidden rows (S, D), the (S, V) logits never all in memory.

    Chunks are recomputed in the backward pass instead of being kept.
    """
    if h.shape[0] <= CHUNK:
        return log_probs(head(h), targets)
    chunk = mx.checkpoint(lambda rows, wanted: log_probs(head(rows), wanted))
    starts = range(0, h.shape[0], CHUNK)
    return mx.concatenate([chunk(h[start : start + CHUNK], targets[start : start + CHUNK]) for start in starts])


def objective(
    logp: mx.array, rows: Rows, tokens: mx.array, sequences: mx.array, beta: float, gamma: float
) -> tuple[mx.array, Terms]:
    """The loss of a micro-batch and what it is made of.

    ``tokens`` and ``sequences`` count the whole optimizer step (all micro-batches, all machines), so that the sum
    over micro-batches is the loss of the step, however it is cut.
    """
    weights = rows.weights * (1 - rows.preference)
    likelihood = signed_nll(logp, weights) / mx.maximum(tokens, 1)
    total = sequence_sums(logp * rows.preference, rows.sequence, rows.penalty.shape[0])
    rho = mx.where(rows.penalty > 0, total - rows.reference, 0.0)
    preference = gamma * rows.penalty * apo_zero_undesirable(rho, beta) / mx.maximum(sequences, 1)
    dim_of_sequence = mx.zeros(rows.penalty.shape, mx.int32).at[rows.sequence].maximum(rows.dim)
    desirable = weights > 0
    count = len(DIMENSIONS)
    terms = Terms(
        nll=sequence_sums(mx.where(desirable, -logp, 0.0), rows.dim, count),
        rows=sequence_sums(desirable.astype(mx.float32), rows.dim, count),
        loss=sequence_sums(likelihood, rows.dim, count) + sequence_sums(preference, dim_of_sequence, count),
        rho=rho,
    )
    return likelihood.sum() + preference.sum(), terms
