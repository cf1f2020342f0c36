"""A model that breaks the contract is patched the plain way or refused, also where the library is used by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from example_pairs import aligned
from families import MODULE_COMPONENTS, as_judge, granite, tiny_judge
from relscope.errors import InputError
from relscope.interventions import all_sites, patch_pair, wavefront
from relscope.models import JudgeModel


def test_a_scaled_residual_is_patched_the_plain_way_with_a_warning(tiny_tokenizer: Any) -> None:
    judge, pair = granite(tiny_tokenizer, residual_multiplier=0.3), aligned(tiny_tokenizer)
    sites = all_sites(MODULE_COMPONENTS, ["document", "last"], 3, 4)[::5]
    with pytest.warns(UserWarning, match=r"residual sum.*each patch takes a full forward pass"):
        found = patch_pair(judge, pair, sites)
    plain = patch_pair(judge, pair, sites, restart=False)
    assert (found.ld_patched == plain.ld_patched).all()
    # The control: restarting all the same would have given other numbers.
    restarted = patch_pair(judge, pair, sites, restart=True)
    assert (restarted.ld_patched - plain.ld_patched).abs().max() > 0.01


def test_scaled_logits_are_refused(tiny_tokenizer: Any) -> None:
    judge, pair = granite(tiny_tokenizer, logits_scaling=8.0), aligned(tiny_tokenizer)
    with pytest.raises(InputError, match="answer logits"):
        patch_pair(judge, pair, all_sites(["mlp_out"], ["last"], 3, 4))


def test_a_model_with_soft_caps_never_runs_an_attention_that_drops_them(tiny_tokenizer: Any) -> None:
    model = tiny_judge("gemma2", tiny_tokenizer).model
    model.config._attn_implementation = "sdpa"
    assert as_judge(model, tiny_tokenizer).config._attn_implementation == "eager"


def test_heads_that_join_a_layer_go_through_it_in_chunks(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, pair = tiny_judge("llama", tiny_tokenizer), aligned(tiny_tokenizer)
    sites = all_sites(["z"], ["document"], judge.shape.n_layers, judge.shape.n_heads)
    whole = patch_pair(judge, pair, sites)
    n_rows: list[int] = []
    advance = JudgeModel.advance

    def counted(self: JudgeModel, layer: int, pieces: Any, joining: Any, **options: Any) -> Any:
        n_rows.append(sum(len(unit.z) for unit in joining))
        return advance(self, layer, pieces, joining, **options)

    n_positions = len(pair.clean.region("document"))
    monkeypatch.setattr(wavefront, "ROWS_PER_CHUNK", 2 * n_positions)
    monkeypatch.setattr(JudgeModel, "advance", counted)
    chunked = patch_pair(judge, pair, sites)
    assert max(n_rows) <= 2 * n_positions
    # The same products in other batches: rounding of float32 sums.
    torch.testing.assert_close(chunked.ld_patched, whole.ld_patched, atol=1e-5, rtol=0)
