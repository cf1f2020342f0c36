"""A model whose every number can be worked out on paper.

Two layers of attention over 4 dimensions, one head, MLPs that give nothing. Queries are zero, so a position attends
evenly to itself and all before it; values and outputs are the identity. Each norm has weight 1/2, so that it scales its
input to length 1: x / rms(x) / 2 = x / |x| in 4 dimensions. Tokens are unit vectors, Y, N, Q and an unused one; the
unembedding is the embedding, so LD = (Y part - N part of the final residual) / (its length).

Prompts are [Y, Q] (clean) and [N, Q] (corrupted), in the order (Y, N, Q) of coordinates:

    after layer 0:  x0 = 2 Y,   x1 = Q + (Y + Q)/2 = (0.5, 0, 1.5)           corrupted: N in place of Y
    layer 1 reads   n0 = Y,     n1 = (0.5, 0, 1.5)/sqrt(2.5) = (0.3162, 0, 0.9487)
    attn_out at 1   (n0 + n1)/2 = (0.6581, 0, 0.4743)
    final at 1      (1.1581, 0, 1.9743), length 2.2889:   LD_clean = 0.5060,  LD_corrupted = -0.5060
"""

from __future__ import annotations

import pytest

from paper_model import N, Q, Y, paper_model, prompt
from relscope.interventions import Site, direct_contributions, head_vocabulary, logit_lens, patch_pair
from relscope.models import JudgeModel, check_contract
from relscope.prompts import AlignedPair

# The numbers below are rounded to four digits.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def judge() -> JudgeModel:
    return paper_model()


@pytest.fixture(scope="module")
def pair() -> AlignedPair:
    return AlignedPair("by hand", "q", "", prompt(Y, Q), prompt(N, Q), (Y, N), n_document_tokens=1, n_cut_tokens=0)


# Patched into the corrupted run, whose x0 = 2 N, x1 = (0, 0.5, 1.5), n1 = (0, 0.3162, 0.9487):
DENOISED = {
    # x0 = N + Y, n0 = (0.7071, 0.7071, 0); x1 is corrupted:
    # final (0.3536, 0.5 + 0.3536 + 0.1581, 1.9743), length 2.2465
    ("attn_out", 0, "document"): (0.3536 - 1.0117) / 2.2465,
    # x1 = Q + (Y + Q)/2 is clean; n0 = N; final (0.5 + 0.1581, 0.5, 1.9743), length 2.1404
    ("attn_out", 0, "last"): (0.6581 - 0.5) / 2.1404,
    # x0 = N + Y and x1 clean: final (0.5 + 0.3536 + 0.1581, 0.3536, 1.9743), length 2.2465
    ("attn_out", 0, "all"): (1.0117 - 0.3536) / 2.2465,
    # x0 = 2 Y; x1 is corrupted: final (0.5, 0.5 + 0.1581, 1.9743), length 2.1404
    ("resid_post", 0, "document"): (0.5 - 0.6581) / 2.1404,
    # what the last token has read of the document is restored: final (0.5 + 0.1581, 0.5, 1.9743), length 2.1404
    ("resid_post", 0, "last"): (0.6581 - 0.5) / 2.1404,
    # attn_out is clean: final (0.6581, 0.5, 1.9743), length 2.1404
    ("attn_out", 1, "last"): (0.6581 - 0.5) / 2.1404,
    # too late to be read by the last token
    ("attn_out", 1, "document"): -0.5060,
    ("resid_post", 1, "document"): -0.5060,
    # all of the final residual
    ("resid_post", 1, "last"): 0.5060,
    # the MLPs give nothing
    ("mlp_out", 0, "all"): -0.5060,
    ("mlp_out", 1, "last"): -0.5060,
}


@pytest.mark.parametrize("restart", [True, False])
def test_patches_are_what_they_are_on_paper(judge: JudgeModel, pair: AlignedPair, restart: bool) -> None:
    sites = [Site(*key) for key in DENOISED]
    result = patch_pair(judge, pair, sites, restart=restart)
    assert result.ld_clean == pytest.approx(0.5060, abs=TOLERANCE)
    assert result.ld_corrupted == pytest.approx(-0.5060, abs=TOLERANCE)
    found = dict(zip(DENOISED, result.ld_patched.tolist(), strict=True))
    assert found == pytest.approx(DENOISED, abs=TOLERANCE)


def test_noising_mirrors_denoising(judge: JudgeModel, pair: AlignedPair) -> None:
    # Exchanging Y and N exchanges the runs and turns every LD round.
    result = patch_pair(judge, pair, [Site(*key) for key in DENOISED], direction="noise")
    assert result.ld_patched.tolist() == pytest.approx([-value for value in DENOISED.values()], abs=TOLERANCE)


def test_the_only_head_is_the_whole_attention(judge: JudgeModel, pair: AlignedPair) -> None:
    keys = [key for key in DENOISED if key[0] == "attn_out"]
    result = patch_pair(judge, pair, [Site("z", layer, region, 0) for _, layer, region in keys])
    assert result.ld_patched.tolist() == pytest.approx([DENOISED[key] for key in keys], abs=TOLERANCE)


def test_the_model_on_paper_fulfils_the_contract(judge: JudgeModel) -> None:
    assert all(clause.ok for clause in check_contract(judge).clauses)


def test_what_each_part_writes_is_what_it_is_on_paper(judge: JudgeModel, pair: AlignedPair) -> None:
    found = direct_contributions(judge, judge.record(pair.clean.ids), pair.answer_ids)
    # The embedding Q has no part of Y or N; attention writes 0.5 and 0.6581 of Y; all divided by the final length.
    assert found.head.flatten().tolist() == pytest.approx([0.5 / 2.2889, 0.6581 / 2.2889], abs=TOLERANCE)
    assert (found.embedding, found.constant) == (0.0, 0.0)
    assert found.mlp.tolist() == found.attn_bias.tolist() == [0.0, 0.0]
    assert found.total == pytest.approx(0.5060, abs=TOLERANCE)


def test_the_words_of_the_head_are_what_they_are_on_paper(judge: JudgeModel, pair: AlignedPair) -> None:
    run = judge.record(pair.clean.ids)
    found = head_vocabulary(judge, [(run, pair.clean)], ["document", "last", "all"], pair.answer_ids, k=2)
    # At the document, whose final residual is 3 Y, both layers write Y: a third. "all" is the mean of both positions.
    at_document, at_last = [1 / 3, 1 / 3], [0.5 / 2.2889, 0.6581 / 2.2889]
    of_all = [(x + y) / 2 for x, y in zip(at_document, at_last, strict=True)]
    for number, wanted in enumerate((at_document, at_last, of_all)):
        assert found.logit_diff[number].flatten().tolist() == pytest.approx(wanted, abs=TOLERANCE)
    # At the last token, layer 1 writes (0.6581, 0, 0.4743): Y above Q.
    assert found.tokens.top_ids[1, 1, 0].tolist() == [Y, Q]
    wanted = [0.6581 / 2.2889, 0.4743 / 2.2889]
    assert found.tokens.top_logits[1, 1, 0].tolist() == pytest.approx(wanted, abs=TOLERANCE)


def test_the_lens_is_what_it_is_on_paper(judge: JudgeModel, pair: AlignedPair) -> None:
    found = logit_lens(judge, judge.record(pair.clean.ids), pair.clean, ["document", "last"], pair.answer_ids, k=2)
    # The document's residual is a multiple of Y throughout; the last token's after layer 0 is (0.5, 0, 1.5).
    assert found.logit_diff[0].tolist() == pytest.approx([1.0, 1.0], abs=TOLERANCE)
    assert found.logit_diff[1].tolist() == pytest.approx([0.3162, 0.5060], abs=TOLERANCE)
    assert found.tokens.top_ids[1, 0].tolist() == [Q, Y]
    assert found.tokens.top_logits[1, 0].tolist() == pytest.approx([0.9487, 0.3162], abs=TOLERANCE)
