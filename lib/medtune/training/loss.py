"""The objective: every token carries one signed weight, and an unmarked wrong answer one bounded preference term.

Rows S are the supervised positions of a batch of B sequences, V the vocabulary. All sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from medtune.model.padding import HEAD_ROWS
from medtune.records import DIMENSIONS
from medtune.schemas import Objective

MIN_UNLIKELY = 1e-5  # floor of 1 - p (Welleck et al. 2019, fairseq): p -> 1 must not blow up


class Rows(NamedTuple):
    """The supervised positions of one micro-batch; a tuple, so that a compiled step can take it.

    Per row: at (S,): flat position in (B * T) that predicts the target; targets (S,) int32; token_weights (S,) float32
    signed, 0 on padding; sequence (S,): which of the B; dim (S,): index of its dimension; compared (S,) float32: 1
    where the row belongs to the answer's log-probability. Per sequence: preference_weight (B,) float32: of its
    preference term, 0 without; desirable (B,) float32: 1 or 0; partner (B,) int32: the sequence it is compared with,
    else itself; reference (B,) float32: log-probability of the answer under the base model.
    """

    at: mx.array
    targets: mx.array
    token_weights: mx.array
    sequence: mx.array
    dim: mx.array
    compared: mx.array
    preference_weight: mx.array
    desirable: mx.array
    partner: mx.array
    reference: mx.array

    @property
    def dim_of_sequence(self) -> mx.array:
        """Index of each sequence's dimension (B,)."""
        return mx.zeros(self.preference_weight.shape, mx.int32).at[self.sequence].maximum(self.dim)

    def only(self, dim: int) -> Rows:
        """The same rows with every weight of the other dimensions 0."""
        return self._replace(
            token_weights=self.token_weights * (self.dim == dim),
            preference_weight=self.preference_weight * (self.dim_of_sequence == dim),
        )


class Terms(NamedTuple):
    """What one micro-batch contributed, per dimension (3,) where not said otherwise.

    nll: sum of -log p over desirable rows, unweighted; rows: their number; loss: share of the objective; margin (4,):
    sum of log pi - log pi_ref over desirable answers, their number, the same over undesirable ones.
    """

    nll: mx.array
    rows: mx.array
    loss: mx.array
    margin: mx.array


def log_probs(logits: mx.array, targets: mx.array) -> mx.array:
    """log p of each target: logits (S, V) any float, targets (S,) -> (S,) float32."""
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, mx.stop_gradient(targets)[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def signed_nll(logp: mx.array, weights: mx.array) -> mx.array:
    """Per row: w * -log p for w > 0, |w| * -log(1 - p) for w < 0 (unlikelihood, Welleck et al. 2019), in nats."""
    unlikely = -mx.log(mx.maximum(1 - mx.exp(logp), MIN_UNLIKELY))
    return mx.where(weights < 0, -weights * unlikely, weights * -logp)


def apo_zero(rho: mx.array, beta: float) -> mx.array:
    """sigmoid(beta * rho), rho = log pi - log pi_ref of an undesirable answer (APO-zero, D'Oosterlinck et al. 2024).

    Bounded in (0, 1), its gradient by beta / 4: it stops pushing once the answer has become unlikely.
    """
    return mx.sigmoid(beta * rho)


def kto(rho: mx.array, desirable: mx.array, kl: mx.array, beta: float) -> mx.array:
    """1 - sigmoid(+-beta * (rho - kl)), + for desirable answers (Ethayarajh et al. 2024); kl has no gradient."""
    sign = 2 * desirable - 1
    return 1 - mx.sigmoid(sign * beta * (rho - mx.stop_gradient(kl)))


def dpo(rho_chosen: mx.array, rho_rejected: mx.array, beta: float) -> mx.array:
    """-log sigmoid(beta * (rho+ - rho-)) (Rafailov et al. 2023)."""
    return -nn.log_sigmoid(beta * (rho_chosen - rho_rejected))


def orpo(mean_chosen: mx.array, mean_rejected: mx.array) -> mx.array:
    """-log sigmoid of the log odds ratio, from mean log-probabilities per token (Hong et al. 2024)."""

    def log_odds(mean: mx.array) -> mx.array:
        return mean - mx.log1p(-mx.minimum(mx.exp(mean), 1 - MIN_UNLIKELY))

    return -nn.log_sigmoid(log_odds(mean_chosen) - log_odds(mean_rejected))


def sequence_sums(values: mx.array, sequence: mx.array, count: int) -> mx.array:
    """Sum (S,) values by the sequence they belong to -> (count,)."""
    return mx.zeros((count,), mx.float32).at[sequence].add(values)


def row_log_probs(h: mx.array, targets: mx.array, head: Callable[[mx.array], mx.array]) -> mx.array:
    """log p of each target from hidden rows (S, D), the (S, V) logits never all in memory.

    Chunks are recomputed in the backward pass instead of being kept.
    """
    if h.shape[0] <= HEAD_ROWS:
        return log_probs(head(h), targets)
    chunk = mx.checkpoint(lambda rows, wanted: log_probs(head(rows), wanted))
    starts = range(0, h.shape[0], HEAD_ROWS)
    return mx.concatenate([chunk(h[start : start + HEAD_ROWS], targets[start : start + HEAD_ROWS]) for start in starts])


def objective(logp: mx.array, rows: Rows, tokens: mx.array, drawn: mx.array, goal: Objective) -> tuple[mx.array, Terms]:
    """The loss of a micro-batch and what it is made of.

    ``tokens`` and ``drawn`` (likelihood rows and sequences) count the whole optimizer step, all micro-batches and
    machines, so that the sum over micro-batches is the loss of the step, however it is cut.
    """
    likelihood = signed_nll(logp, rows.token_weights) / mx.maximum(tokens, 1)
    count = rows.preference_weight.shape[0]
    total = sequence_sums(logp * rows.compared, rows.sequence, count)
    length = mx.maximum(sequence_sums(rows.compared, rows.sequence, count), 1)
    preference = goal.gamma * rows.preference_weight * _preference(total, length, rows, goal) / mx.maximum(drawn, 1)
    right = rows.token_weights > 0
    dims = len(DIMENSIONS)
    terms = Terms(
        nll=sequence_sums(mx.where(right, -logp, 0.0), rows.dim, dims),
        rows=sequence_sums(right.astype(mx.float32), rows.dim, dims),
        loss=sequence_sums(likelihood, rows.dim, dims) + sequence_sums(preference, rows.dim_of_sequence, dims),
        margin=_margin(total - rows.reference, rows),
    )
    return likelihood.sum() + preference.sum(), terms


def _preference(total: mx.array, length: mx.array, rows: Rows, goal: Objective) -> mx.array:
    """The preference term of each sequence (B,), from the log-probability and length of its answer."""
    rho = total - rows.reference
    if goal.negatives == "kto":
        mismatched = mx.zeros(rows.preference_weight.shape).at[rows.partner].add(rows.preference_weight > 0) * (
            rows.preference_weight == 0
        )
        kl = mx.maximum((mismatched * rho).sum() / mx.maximum(mismatched.sum(), 1), 0)
        return kto(rho, rows.desirable, kl, goal.beta)
    if goal.negatives == "dpo":
        return dpo(rho, rho[rows.partner], goal.beta)
    if goal.negatives == "orpo":
        mean = total / length
        return orpo(mean, mean[rows.partner])
    return apo_zero(rho, goal.beta)


def _margin(rho: mx.array, rows: Rows) -> mx.array:
    """Sums for the reward margin: rho of desirable answers, their number, rho of undesirable ones, their number."""
    judged = (sequence_sums(rows.compared, rows.sequence, rho.shape[0]) > 0).astype(mx.float32)
    right, wrong = judged * rows.desirable, judged * (1 - rows.desirable)
    return mx.stop_gradient(mx.stack([(rho * right).sum(), right.sum(), (rho * wrong).sum(), wrong.sum()]))
