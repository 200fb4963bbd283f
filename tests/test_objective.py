"""The loss: hand-computed values, its invariants, and its equality with mlx-vlm's own."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from medtune.schemas import Objective
from medtune.training import loss as objective
from medtune.training.loss import Rows
from medtune.training.priorities import priorities
from tests.workshop import SETTINGS

LOGITS = mx.array([[1.0, 0.0, -1.0]])


GOAL = Objective.model_validate(SETTINGS["objective"])


def rows(token_weights: list[float], *, preference_weight: float = 0.0, reference: float = 0.0) -> Rows:
    """One sequence of len(weights) rows; with a term its rows are compared instead of weighed."""
    count = len(token_weights)
    zeros = mx.zeros((count,), mx.int32)
    return Rows(
        at=zeros,
        targets=zeros,
        token_weights=mx.array(token_weights) * (preference_weight == 0),
        sequence=zeros,
        dim=zeros,
        compared=mx.full((count,), float(preference_weight > 0)),
        preference_weight=mx.array([preference_weight]),
        desirable=mx.array([float(preference_weight == 0)]),
        partner=mx.array([0]),
        reference=mx.array([reference]),
    )


def loss_of(logp: mx.array, chosen: Rows, tokens: float = 0.0, goal: Objective = GOAL) -> mx.array:
    return objective.objective(logp, chosen, mx.array(tokens), mx.array(1.0), goal)[0]


def signed(weight: float) -> float:
    logp = objective.log_probs(LOGITS, mx.array([0]))
    return objective.signed_nll(logp, mx.array([weight])).sum().item()


def test_cross_entropy_and_unlikelihood_have_their_hand_computed_values():
    assert signed(1.0) == pytest.approx(0.4076060, abs=1e-6)
    assert signed(-1.0) == pytest.approx(1.0943443, abs=1e-6)


def test_the_unlikelihood_gradient_is_the_hand_computed_one():
    def loss(logits: mx.array) -> mx.array:
        return objective.signed_nll(objective.log_probs(logits, mx.array([0])), mx.array([-1.0])).sum()

    assert mx.grad(loss)(LOGITS)[0].tolist() == pytest.approx([0.665241, -0.486330, -0.178911], abs=1e-5)


def test_a_certain_wrong_token_has_a_bounded_loss():
    logp = mx.array([0.0])  # p = 1
    assert objective.signed_nll(logp, mx.array([-1.0])).item() == pytest.approx(-math.log(1e-5))


def test_apo_zero_has_its_hand_computed_value_and_gradient():
    value, slope = mx.value_and_grad(lambda rho: objective.apo_zero(rho, 0.1))(mx.array(2.0))
    assert value.item() == pytest.approx(0.5498340, abs=1e-6)
    assert slope.item() == pytest.approx(0.0247517, abs=1e-6)


@pytest.mark.parametrize(("desirable", "value", "slope"), [(1.0, 0.4625702, -0.0248599), (0.0, 0.5374298, 0.0248599)])
def test_kto_has_its_hand_computed_value_and_gradient(desirable: float, value: float, slope: float):
    def loss(logp: mx.array) -> mx.array:
        return objective.kto(logp + 22, mx.array(desirable), mx.array(0.5), 0.1)

    got = mx.value_and_grad(loss)(mx.array(-20.0))
    assert (got[0].item(), got[1].item()) == pytest.approx((value, slope), abs=1e-6)


def test_dpo_and_orpo_have_their_hand_computed_values():
    loss, slope = mx.value_and_grad(lambda chosen: objective.dpo(chosen + 22, mx.array(-1.0), 0.1))(mx.array(-20.0))
    assert (loss.item(), slope.item()) == pytest.approx((0.5543552, -0.0425557), abs=1e-6)
    nll, ratio = 0.5, objective.orpo(mx.array(-0.5), mx.array(-0.9)).item()
    assert nll + 0.1 * ratio == pytest.approx(0.5367729, abs=1e-6)


def test_a_preference_gradient_never_exceeds_a_quarter_of_beta():
    for rho in (-80.0, -3.0, 0.0, 5.0, 80.0):
        for preference_weight in (
            lambda r: objective.apo_zero(r, 0.1),
            lambda r: objective.kto(r, mx.array(0.0), mx.array(0.3), 0.1),
        ):
            assert abs(mx.grad(preference_weight)(mx.array(rho)).item()) <= 0.1 / 4 + 1e-9


def test_at_the_start_the_preference_term_is_one_half_of_its_weight():
    assert loss_of(
        mx.array([-2.0, -3.0]), rows([1.0, 1.0], preference_weight=3.0, reference=-5.0)
    ).item() == pytest.approx(0.2 * 3.0 * 0.5)


def test_a_reference_that_is_the_policy_itself_is_caught():
    """The bug of another trainer: its loss stayed at one constant while wrong answers were pushed down unboundedly."""

    def loss(logp: mx.array, reference: mx.array) -> float:
        return loss_of(logp, rows([1.0], preference_weight=1.0)._replace(reference=reference)).item()

    moved = mx.array([-9.0])
    honest, broken = loss(moved, mx.array([-2.0])), loss(moved, mx.stop_gradient(moved))
    assert honest < 0.07 and broken == pytest.approx(0.1)


def test_the_loss_is_linear_in_the_weights_and_additive_over_micro_batches():
    logp, token_weights = mx.array([-1.0, -2.0, -0.5]), [1.0, 2.0, -1.0]
    whole = loss_of(logp, rows(token_weights), 3.0).item()
    assert loss_of(logp, rows([2 * w for w in token_weights]), 3.0).item() == pytest.approx(2 * whole)
    parts = [loss_of(logp[i : i + 1], rows([w]), 3.0).item() for i, w in enumerate(token_weights)]
    assert sum(parts) == pytest.approx(whole)


def test_padding_rows_add_nothing():
    assert (
        loss_of(mx.array([-1.0]), rows([1.0]), 1.0).item()
        == loss_of(mx.array([-1.0, -7.0]), rows([1.0, 0.0]), 1.0).item()
    )


def test_no_setting_gives_a_likelihood_a_negative_coefficient():
    """Gradient ascent on an answer is unbounded: a negative weight must always mean unlikelihood."""
    for weight in (-5.0, -1.0, -0.1):
        slope = mx.grad(lambda logp, w=weight: objective.signed_nll(logp, mx.array([w])).sum())(mx.array([-30.0]))
        assert 0 <= slope.item() < 1e-6  # already unlikely: nothing pushes any more


def test_logits_in_chunks_give_the_same_log_probs_and_gradients(monkeypatch: pytest.MonkeyPatch):
    head = mx.random.normal((8, 50), key=mx.random.key(0))
    hidden = mx.random.normal((37, 8), key=mx.random.key(1))
    targets = mx.arange(37) % 50

    def total(h: mx.array) -> mx.array:
        return objective.row_log_probs(h, targets, lambda rows: rows @ head).sum()

    whole = mx.value_and_grad(total)(hidden)
    monkeypatch.setattr(objective, "HEAD_ROWS", 10)
    chunked = mx.value_and_grad(total)(hidden)
    assert mx.allclose(whole[0], chunked[0], rtol=1e-6)
    assert mx.allclose(whole[1], chunked[1], atol=1e-6)


def test_the_shares_of_the_original_priorities_are_the_published_ones():
    goal = Objective.model_validate(SETTINGS["objective"])
    made = priorities(goal, {"accuracy": 5, "warmth": 5, "vision": 5})
    assert made.nominal == pytest.approx({"accuracy": 0.5, "warmth": 0.35, "vision": 0.15})
    assert made.effective == pytest.approx({"accuracy": 0.6944, "warmth": 0.2431, "vision": 0.0625}, abs=1e-4)


def test_share_loss_makes_the_configured_weights_the_shares_of_the_loss():
    goal = Objective.model_validate(SETTINGS["objective"] | {"share": "loss"})
    made = priorities(goal, {"accuracy": 5, "warmth": 5, "vision": 5})
    assert made.effective == pytest.approx({"accuracy": 0.5, "warmth": 0.35, "vision": 0.15})


@pytest.mark.parametrize("share", ["examples", "loss"])
def test_the_mean_weight_over_the_draws_is_one_and_penalties_keep_their_ratio(share: str):
    goal = Objective.model_validate(SETTINGS["objective"] | {"share": share})
    made = priorities(goal, {"accuracy": 5, "warmth": 5})  # a dimension without records gives its share away
    assert sum(made.draw[d] * made.reward[d] for d in made.draw) == pytest.approx(1.0)
    assert made.penalty["accuracy"] / made.reward["accuracy"] == pytest.approx(1.5)
    assert set(made.draw) == {"accuracy", "warmth"} and sum(made.draw.values()) == pytest.approx(1.0)
