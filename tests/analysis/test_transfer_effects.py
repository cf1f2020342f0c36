"""A transfer is measured on the separation of a pair's two prompts, as a share of what the donor has more of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from two_models import own_queries, rows_of

from relscope.analysis import transfer_effects, transfer_rows
from relscope.errors import InputError


def transfer(
    donor: tuple[list[float], list[float]],
    receiver: tuple[list[float], list[float]],
    patched: tuple[np.ndarray, np.ndarray],
    kind: str = "heads",
) -> pd.DataFrame:
    """Rows of both prompts; each argument has the LDs on the clean and on the corrupted prompt."""
    return pd.concat(
        [
            rows_of(patched[i], donor[i], receiver[i], experiment=f"transfer_{kind}_{prompt}")
            for i, prompt in enumerate(("clean", "corrupted"))
        ],
        ignore_index=True,
    )


def test_the_share_is_that_of_the_donors_extra_separation() -> None:
    # donor: 3 - (-1) = 4 and 5 - (-1) = 6; receiver: 1 - 0 = 1 and 1 - 0 = 1; patched: 2 - 0 = 2 and 3 - (-1) = 4
    rows = transfer(([3, 5], [-1, -1]), ([1, 1], [0, 0]), (np.array([[2.0], [3.0]]), np.array([[0.0], [-1.0]])))
    (site,) = transfer_effects(rows, own_queries(2)).to_dict("records")
    assert site["experiment"] == "transfer_heads"
    assert site["effect"] == 2.0  # (1 + 3) / 2
    assert site["gap"] == 4.0  # (3 + 5) / 2
    assert site["ie"] == 0.5


@pytest.mark.parametrize("kind", ["flow", "heads"])
def test_the_donors_own_separation_is_a_share_of_one_and_the_receivers_of_zero(kind: str) -> None:
    rng = np.random.default_rng(0)
    donor = (list(rng.normal(4, 1, 6)), list(rng.normal(-4, 1, 6)))
    receiver = (list(rng.normal(0, 1, 6)), list(rng.normal(0, 1, 6)))
    both = tuple(np.column_stack([donor[i], receiver[i]]) for i in range(2))
    effects = transfer_effects(transfer(donor, receiver, (both[0], both[1]), kind), own_queries(6))
    # float32 rows: seven digits of the logits, of a gap of some 8
    np.testing.assert_allclose(effects["ie"], [1, 0], atol=1e-6)
    np.testing.assert_allclose(effects[["ie_low", "ie_high"]], [[1, 1], [0, 0]], atol=1e-6)
    assert list(effects["experiment"].unique()) == [f"transfer_{kind}"]


def test_the_separation_of_large_logit_differences_keeps_its_digits() -> None:
    # 1000.5 and 1000.25 are exact in float32, and so is their difference in float64
    rows = transfer(([1000.5], [1000.25]), ([1000.0], [1000.0]), (np.array([[1000.25]]), np.array([[1000.0]])))
    (row,) = transfer_rows(rows).to_dict("records")
    assert (row["ld_clean"], row["ld_corrupted"], row["ld_patched"]) == (0.25, 0.0, 0.25)


def test_margins_are_those_of_the_clean_prompt_minus_the_corrupted_one() -> None:
    rows = transfer(([2.0], [-2.0]), ([0.0], [0.0]), (np.array([[1.0]]), np.array([[-1.0]])))
    (row,) = transfer_rows(rows).to_dict("records")
    assert row["p_clean"] == pytest.approx(2 * np.tanh(1.0), abs=1e-6)  # stored in float32
    assert row["p_patched"] == pytest.approx(2 * np.tanh(0.5), abs=1e-6)


def test_a_site_that_was_patched_on_one_prompt_alone_waits_for_the_other() -> None:
    rows = transfer(([3, 3], [-3, -3]), ([1, 1], [-1, -1]), (np.ones((2, 2)), -np.ones((2, 2))))
    last = (rows["experiment"] == "transfer_heads_corrupted") & (rows["pair_id"] == "p1")
    found = transfer_rows(rows[~last])
    assert list(found["pair_id"].unique()) == ["p0"]
    assert len(found) == 2
    assert len(transfer_rows(rows[rows["experiment"] == "transfer_heads_clean"])) == 0


def test_models_that_separate_alike_have_no_share() -> None:
    receiver = ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    donor = ([2.0, 1.0, 3.0], [0.0, 0.0, 0.0])  # on average as far apart as the receiver
    effects = transfer_effects(transfer(donor, receiver, (np.ones((3, 1)), np.zeros((3, 1)))), own_queries(3))
    assert effects["unstable_ie"].all()
    assert effects[["ie_low", "ie_high"]].isna().all(axis=None)
    assert effects["effect"].notna().all()


def test_a_site_that_comes_twice_is_refused() -> None:
    rows = transfer(([3.0], [-3.0]), ([1.0], [-1.0]), (np.ones((1, 1)), np.zeros((1, 1))))
    with pytest.raises(InputError, match="transfer_heads_clean: a site of a pair comes twice"):
        transfer_effects(pd.concat([rows, rows[:1]]), own_queries(1))
