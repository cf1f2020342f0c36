"""The loss and the learning rate, against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from relscope.tuning.examples import Example
from relscope.tuning.training import Loss, learning_rate


def example(relevant: bool, weight: float = 1.0) -> Example:
    return Example((1, 2), (5, 6), relevant, weight)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_cross_entropy_and_pairwise_term_of_one_group() -> None:
    group = [example(True), example(False, 0.75), example(False, 0.25)]
    value = Loss(pairwise_weight=0.5, label_smoothing=0.0).of([group], torch.tensor([2.0, 1.0, -3.0]))
    # -log sigmoid(2) for yes; -log(1 - sigmoid(x)) for no; weights sum to 2
    pointwise = (softplus(-2.0) + 0.75 * softplus(1.0) + 0.25 * softplus(-3.0)) / 2
    pairwise = (softplus(-(2.0 - 1.0)) + softplus(-(2.0 - -3.0))) / 2
    assert float(value) == pytest.approx(pointwise + 0.5 * pairwise, abs=1e-6)  # float32


def test_label_smoothing_asks_for_less_than_certainty() -> None:
    loss = Loss(pairwise_weight=0.0, label_smoothing=0.2)
    value = loss.of([[example(True), example(False)]], torch.tensor([3.0, 3.0]))
    # targets 0.9 and 0.1: t softplus(-x) + (1 - t) softplus(x)
    yes = 0.9 * softplus(-3.0) + 0.1 * softplus(3.0)
    no = 0.1 * softplus(-3.0) + 0.9 * softplus(3.0)
    assert float(value) == pytest.approx((yes + no) / 2, abs=1e-6)


def test_each_group_counts_the_same_whatever_its_size() -> None:
    loss = Loss(pairwise_weight=1.0, label_smoothing=0.1)
    small, large = [example(True), example(False)], [example(True), example(False, 0.5), example(False, 0.5)]
    lds = torch.tensor([1.0, -1.0, 0.5, 0.2, -0.7])
    both = float(loss.of([small, large], lds))
    assert both == pytest.approx((float(loss.of([small], lds[:2])) + float(loss.of([large], lds[2:]))) / 2, abs=1e-6)


def test_a_common_shift_leaves_the_pairwise_term_and_changes_the_cross_entropy() -> None:
    group, lds = [example(True), example(False)], torch.tensor([0.4, -0.3])
    only_pairs = Loss(pairwise_weight=1.0, label_smoothing=0.0)
    without = Loss(pairwise_weight=0.0, label_smoothing=0.0)
    pairs = [float(only_pairs.of([group], x) - without.of([group], x)) for x in (lds, lds + 5)]
    assert pairs[0] == pytest.approx(pairs[1], abs=1e-5)
    assert float(without.of([group], lds + 5)) > float(without.of([group], lds)) + 1


def test_the_learning_rate_rises_then_falls_along_a_half_cosine() -> None:
    rates = [learning_rate(step, 100, 1e-3, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(0.5e-3)  # half way down
    assert rates[99] < 1e-6
    assert max(rates) == pytest.approx(1e-3)
