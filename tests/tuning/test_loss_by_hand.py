"""The loss and the learning rate, against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from relscope.tuning.examples import Example
from relscope.tuning.training import Loss, learning_rate


def example(relevant: bool, weight: float = 1.0) -> Example:
    return Example((1, 2), (5, 6), relevant, weight)


NOTHING_LOST = torch.zeros(5)  # log P(yes or no) of judges that say nothing else


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_cross_entropy_and_pairwise_term_of_one_group() -> None:
    group = [example(True), example(False, 0.75), example(False, 0.25)]
    value = Loss(0.5, answer_weight=0.0, label_smoothing=0.0).of([group], torch.tensor([2.0, 1.0, -3.0]), NOTHING_LOST)
    # -log sigmoid(2) for yes; -log(1 - sigmoid(x)) for no; weights sum to 2
    pointwise = (softplus(-2.0) + 0.75 * softplus(1.0) + 0.25 * softplus(-3.0)) / 2
    pairwise = (softplus(-(2.0 - 1.0)) + softplus(-(2.0 - -3.0))) / 2
    assert float(value) == pytest.approx(pointwise + 0.5 * pairwise, abs=1e-6)  # float32


def test_label_smoothing_asks_for_less_than_certainty() -> None:
    loss = Loss(pairwise_weight=0.0, answer_weight=0.0, label_smoothing=0.2)
    value = loss.of([[example(True), example(False)]], torch.tensor([3.0, 3.0]), NOTHING_LOST)
    # targets 0.9 and 0.1: t softplus(-x) + (1 - t) softplus(x)
    yes = 0.9 * softplus(-3.0) + 0.1 * softplus(3.0)
    no = 0.1 * softplus(-3.0) + 0.9 * softplus(3.0)
    assert float(value) == pytest.approx((yes + no) / 2, abs=1e-6)


def test_each_group_counts_the_same_whatever_its_size() -> None:
    loss = Loss(pairwise_weight=1.0, answer_weight=0.3, label_smoothing=0.1)
    small, large = [example(True), example(False)], [example(True), example(False, 0.5), example(False, 0.5)]
    lds = torch.tensor([1.0, -1.0, 0.5, 0.2, -0.7])
    both, one, other = (
        float(loss.of(groups, of, NOTHING_LOST))
        for groups, of in (([small, large], lds), ([small], lds[:2]), ([large], lds[2:]))
    )
    assert both == pytest.approx((one + other) / 2, abs=1e-6)


def test_what_is_neither_yes_nor_no_costs_its_surprise() -> None:
    groups, lds = [[example(True), example(False)]] * 2, torch.tensor([1.0, -1.0, 0.5, 0.2])
    loss = Loss(pairwise_weight=1.0, answer_weight=0.3, label_smoothing=0.1)
    log_answered = torch.tensor([0.5, 0.1, 0.9, 1.0]).log()
    lost = -(math.log(0.5) + math.log(0.1) + math.log(0.9)) / 4
    more = float(loss.of(groups, lds, log_answered) - loss.of(groups, lds, NOTHING_LOST))
    assert more == pytest.approx(0.3 * lost, abs=1e-6)


def test_a_common_shift_leaves_the_pairwise_term_and_changes_the_cross_entropy() -> None:
    group, lds = [example(True), example(False)], torch.tensor([0.4, -0.3])
    only_pairs = Loss(pairwise_weight=1.0, answer_weight=0.0, label_smoothing=0.0)
    without = Loss(pairwise_weight=0.0, answer_weight=0.0, label_smoothing=0.0)
    pairs = [
        float(only_pairs.of([group], x, NOTHING_LOST) - without.of([group], x, NOTHING_LOST)) for x in (lds, lds + 5)
    ]
    assert pairs[0] == pytest.approx(pairs[1], abs=1e-5)
    assert float(without.of([group], lds + 5, NOTHING_LOST)) > float(without.of([group], lds, NOTHING_LOST)) + 1


def test_the_learning_rate_rises_then_falls_along_a_half_cosine() -> None:
    rates = [learning_rate(step, 100, 1e-3, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(0.5e-3)  # half way down
    assert rates[99] < 1e-6
    assert max(rates) == pytest.approx(1e-3)
