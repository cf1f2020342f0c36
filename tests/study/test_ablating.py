"""Ablations evaluated end to end on a tiny model: the rows, the split, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from relscope.data import load_pairs
from relscope.errors import InputError
from relscope.models import JudgeModel
from relscope.prompts import PromptRenderer, PromptTemplate, align
from relscope.results import AblationFolder, read_ablation_header, read_ablation_rows
from relscope.results.manifest import identity_hash
from relscope.study import AblationOptions, Machine, ablate_run, run_study
from relscope.study.ablation_plan import evaluation_pairs, read_selection
from relscope.study.config import StudyConfig
from tiny_study import N_HEADS, SHORT, Told, interrupted_after, tiny_config, tiny_model_folder

__all__ = ["tiny_model_folder"]

REGIONS = ["document", "query", "instruction", "last"]
CPU = Machine(device="cpu")
FEW: dict[str, Any] = {"pairs": 2, "top": 1, "draws": 2, "rerank": False, "seed": 1}


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three demo queries, with heads at all four regions."""
    folder = tmp_path_factory.mktemp("runs") / "heads"
    run_study(tiny_config(tiny_model_folder, experiments={"heads": {"regions": REGIONS}}), folder)
    return folder


@pytest.fixture(scope="module")
def ablated_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = AblationOptions(**FEW | {"rerank": True, "depth": 3, "rerank_draws": 1})
    return ablate_run(run, options, tmp_path_factory.mktemp("out") / "ablation", CPU)


def steps(rows: pd.DataFrame) -> dict[tuple[str, int], int]:
    return {(str(name), int(draw)): len(of) for (name, draw), of in rows.groupby(["condition", "draw"], sort=False)}


def test_every_condition_and_draw_has_a_row_a_pair(ablated_run: Path) -> None:
    names = ["Full model", "Random-4", "Matched-4", "Bottom-4", "Doc-1", "Query-1", "Inst-1", "Last-1", "Mixed-4"]
    draws = {"Random-4": (1, 2), "Matched-4": (1, 2)}
    expected = [(name, draw) for name in names for draw in draws.get(name, (0,))]
    assert steps(read_ablation_rows(ablated_run, "judging")) == dict.fromkeys(expected, 2)
    ranked = steps(read_ablation_rows(ablated_run, "ranking"))
    assert ranked == {step: 6 for step in expected if step[1] <= 1}  # 2 queries of 3 documents
    assert read_ablation_header(ablated_run).status == "complete"


def test_no_query_is_on_both_sides_of_the_split(ablated_run: Path) -> None:
    header = read_ablation_header(ablated_run)
    assert [query.query_id for query in header.selection.queries] == ["q01", "q02", "q03"]
    assert [query.query_id for query in header.evaluation.queries] == ["q04", "q05"]
    assert header.reranking is not None
    assert [query.query_id for query in header.reranking.side.queries] == ["q04", "q05"]
    assert set(header.query_of.values()) == {"q04", "q05"}


def test_the_sets_are_the_heads_of_largest_effect(ablated_run: Path, run: Path) -> None:
    from relscope.results import open_run

    rows = open_run(run).rows("heads")
    rows = rows.assign(effect=rows["ld_patched"] - rows["ld_corrupted"])
    members = {condition.name: condition.members for condition in read_ablation_header(ablated_run).conditions}
    for name, region in (("Doc-1", "document"), ("Query-1", "query"), ("Inst-1", "instruction"), ("Last-1", "last")):
        mean = rows[rows["region"] == region].groupby(["layer", "head"])["effect"].mean().abs()
        assert members[name] == ((*mean.idxmax(), region),)
    assert members["Mixed-4"] == tuple(members[name][0] for name in ("Doc-1", "Query-1", "Inst-1", "Last-1"))


@pytest.mark.parametrize("keep_only", [False, True])
def test_rows_are_the_lds_of_a_model_whose_heads_were_set_to_zero_by_hand(
    run: Path, tiny_model_folder: Path, tmp_path: Path, keep_only: bool
) -> None:
    folder = ablate_run(run, AblationOptions(**FEW, kind="zero", keep_only=keep_only), tmp_path / "out", CPU)
    header, rows = read_ablation_header(folder), read_ablation_rows(folder, "judging")
    (mixed,) = [condition for condition in header.conditions if condition.name == "Mixed-4"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(tiny_model_folder), PromptTemplate(**SHORT))
    d_head = model.config.hidden_size // N_HEADS
    for pair in load_pairs("demo", limit=5).pairs[3:]:
        aligned = align(renderer, pair)
        yes, no = aligned.answer_ids
        for name, prompt in (("ld_clean", aligned.clean), ("ld_corrupted", aligned.corrupted)):
            handles = []
            for layer, block in enumerate(model.model.layers):

                def zero(_: Any, args: tuple[Any, ...], layer: int = layer, prompt: Any = prompt) -> Any:
                    kept = torch.ones_like(args[0]).view(*args[0].shape[:2], N_HEADS, d_head)
                    for of_layer, head, region in mixed.members:
                        if of_layer == layer:
                            kept[:, list(prompt.region(region)), head] = 0
                    kept = 1 - kept if keep_only else kept
                    return (args[0] * kept.view_as(args[0]),)

                handles.append(block.self_attn.o_proj.register_forward_pre_hook(zero))
            with torch.no_grad():
                logits = model(torch.tensor([prompt.ids])).logits[0, -1]
            expected = (logits[yes] - logits[no]).item()
            for handle in handles:
                handle.remove()
            stored = rows[(rows["condition"] == "Mixed-4") & (rows["pair_id"] == pair.pair_id)][name].item()
            assert stored == pytest.approx(expected, abs=1e-4)  # float32 in another order


def test_a_killed_ablation_goes_on_and_comes_to_the_same_rows(run: Path, ablated_run: Path, tmp_path: Path) -> None:
    options = AblationOptions(**FEW | {"rerank": True, "depth": 3, "rerank_draws": 1})
    with interrupted_after(5, AblationFolder, "write"), pytest.raises(KeyboardInterrupt):
        ablate_run(run, options, tmp_path / "out", CPU)
    assert len(steps(read_ablation_rows(tmp_path / "out", "judging"))) == 5
    assert read_ablation_header(tmp_path / "out").status == "running"
    told = Told()
    ablate_run(run, options, tmp_path / "out", CPU, told)
    assert told.n_done == told.n_patches == (11 - 5) * 4 + 9 * 6
    for task in ("judging", "ranking"):
        pd.testing.assert_frame_equal(
            read_ablation_rows(tmp_path / "out", task), read_ablation_rows(ablated_run, task), rtol=0, atol=1e-5
        )


def test_a_finished_ablation_given_again_judges_nothing(
    run: Path, ablated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (ablated_run / "ablation.json").read_bytes()
    monkeypatch.setattr(JudgeModel, "relevance", None)
    options = AblationOptions(**FEW | {"rerank": True, "depth": 3, "rerank_draws": 1})
    ablate_run(run, options, ablated_run, CPU)
    assert (ablated_run / "ablation.json").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused_before_a_model_is_loaded(
    run: Path, ablated_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("relscope.study.ablating.load_model")
    with pytest.raises(InputError, match=r'settings\.kind: "mean" in the folder, "zero" now'):
        ablate_run(run, AblationOptions(**FEW, kind="zero"), ablated_run, CPU)


def test_several_prompts_are_evaluated_each_with_its_own_reference(run: Path, tmp_path: Path) -> None:
    short = []
    for name in ("pointwise", "pairwise"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"format: {name}\nmax_document_tokens: 24\n")
        short.append(str(path))
    options = AblationOptions(**FEW | {"prompts": tuple(short), "rerank": True, "depth": 3, "rerank_draws": 1})
    folder = ablate_run(run, options, tmp_path / "out", CPU)
    rows = read_ablation_rows(folder, "judging")
    assert rows["prompt"].value_counts().to_dict() == dict.fromkeys(short, 11 * 2)
    changed = rows.pivot(index=["prompt", "pair_id"], columns=["condition", "draw"], values="ld_clean")
    assert (changed["Mixed-4", 0] != changed["Full model", 0]).all()


def data_of(path: Path, queries: list[str]) -> Path:
    record = {"positive_document": "the right one", "hard_negative_document": ["another one"]}
    path.write_text("".join(json.dumps({"query": query, **record}) + "\n" for query in queries))
    return path


def test_queries_of_other_data_with_a_selecting_text_are_left_out(run: Path, tmp_path: Path) -> None:
    text = read_text_of_first(run)
    data = data_of(tmp_path / "d.jsonl", [f"  {text.upper()} ", "what is the right one"])
    options = AblationOptions(**FEW | {"data": str(data), "rerank": True, "rerank_draws": 1})
    folder = ablate_run(run, options, tmp_path / "out", CPU)
    header = read_ablation_header(folder)
    assert [query.query_text for query in header.evaluation.queries] == ["what is the right one"]
    assert header.shared_queries == 1
    assert header.reranking is not None
    assert header.reranking.rankings == {"line2": ("line1.positive", "line1.hard0")}


def test_queries_of_other_data_may_have_the_ids_of_those_that_chose(run: Path, tmp_path: Path) -> None:
    selection = read_selection(run)
    other = load_pairs(data_of(tmp_path / "demo.jsonl", ["one", "two"]))
    ids = [f"q0{n}" for n in (1, 2)]
    other = replace(
        other, name="demo", pairs=tuple(replace(p, query_id=q) for p, q in zip(other.pairs, ids, strict=True))
    )
    pairs, n_shared = evaluation_pairs(selection, other, None)
    assert ([pair.query_id for pair in pairs], n_shared) == (ids, 0)


def test_a_model_runs_its_own_code_only_where_the_caller_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trusting"
    shutil.copytree(run, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["identity"]["config"]["trust_remote_code"] = True
    manifest["identity_hash"] = identity_hash(manifest["identity"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seen: list[bool] = []

    def load(config: StudyConfig, *args: Any) -> JudgeModel:
        seen.append(config.trust_remote_code)
        raise InputError("enough")

    monkeypatch.setattr("relscope.study.ablating.load_model", load)
    for machine in (CPU, replace(CPU, trust_remote_code=True)):
        with pytest.raises(InputError, match="enough"):
            ablate_run(folder, AblationOptions(**FEW), tmp_path / "out", machine)
    assert seen == [False, True]


def test_a_query_that_the_filter_left_unpatched_chose_nothing_and_is_held_out_apart(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "filtered"
    shutil.copytree(run, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["pairs"][1]["filtered"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    selection = read_selection(folder)
    assert [query.query_id for query in selection.side.queries] == ["q01", "q03"]
    assert [query.query_id for query in selection.judged] == ["q02"]
    pairs, n_shared = evaluation_pairs(selection, load_pairs("demo"), 2)
    assert ([pair.query_id for pair in pairs], n_shared) == (["q04", "q05"], 3)
    header = read_ablation_header(ablate_run(folder, AblationOptions(**FEW), tmp_path / "out", CPU))
    assert (header.selection, header.held_out) == (selection.side, selection.judged)
    assert [query.query_id for query in header.evaluation.queries] == ["q04", "q05"]


def read_text_of_first(run: Path) -> str:
    from relscope.results import open_run

    return open_run(run).manifest.pairs[0].query_text


def test_nothing_left_to_evaluate_on_is_refused(run: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "d.jsonl", [read_text_of_first(run)])
    with pytest.raises(InputError, match="all its 1 queries are among those by which the run chose heads"):
        ablate_run(run, AblationOptions(**FEW | {"data": str(data)}), tmp_path / "out", CPU)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"regions": ("last", "other")}, "has no heads at 'other', but at document, query, instruction, last"),
        ({"top": 5}, "top: 5 heads at each of 4 regions are 20, and the model has 16"),
        ({"top": 3}, "choose fewer heads"),
        ({"top": 17}, "top: 17 heads a region, and the model has 16; choose fewer"),
        ({"prompts": ("pointwise-dqx",)}, "prompt: 'pointwise-dqx' does not exist"),
        ({"positions": "fixed"}, "fixed needs reference prompts of one length"),
        ({"data": "nowhere"}, "nowhere: there is no such data"),
    ],
)
def test_what_cannot_be_ablated_is_refused(run: Path, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ablate_run(run, AblationOptions(**FEW | fields), tmp_path / "out", CPU)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "means"}, "kind: 'means' does not exist: did you mean 'mean'"),
        ({"positions": "fix"}, "positions: 'fix' does not exist"),
        ({"match": "each"}, "match: 'each' does not exist"),
        ({"negatives": "easy"}, "negatives: 'easy' does not exist"),
        ({"draws": 0}, "draws: must be at least 1, not 0"),
        ({"regions": ("last", "last")}, "regions: give at least one, and each once, not last, last"),
        ({"kind": "resample", "positions": "relative"}, "positions: belong to the mean"),
        ({"kind": "zero", "positions": "relative"}, "positions: belong to the mean; zero has none"),
    ],
)
def test_options_that_do_not_exist_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        AblationOptions(**fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "3 random draws are reranked with, too few to tell whether a set changes rankings more than random sets "
             "do; that takes --rerank-draws 19, where each draw more is one more reranking of every kind of random "
             "set$"),
        ({"draws": 1}, "1 random draw is reranked with, too few .* that takes --draws 19 and --rerank-draws 19, "),
        ({"draws": 5, "rerank_draws": 19}, "5 random draws are .* that takes --draws 19, "),
        ({"rerank_draws": 18}, "18 random draws are .* that takes --rerank-draws 19, "),
        ({"rerank_draws": 19}, "$"),
        ({"rerank": False}, "$"),
    ],
)  # fmt: skip
def test_what_few_reranked_draws_leave_open_is_remarked(fields: dict[str, Any], told: str) -> None:
    assert re.match(told, AblationOptions(**fields).remark)


def test_a_run_without_heads_or_unfinished_is_refused(tiny_model_folder: Path, run: Path, tmp_path: Path) -> None:
    flow = {"flow": {"regions": ["last"], "components": ["mlp_out"]}}
    run_study(tiny_config(tiny_model_folder, pairs=1, experiments=flow), tmp_path / "flow")
    with pytest.raises(InputError, match="the run did not measure heads"):
        ablate_run(tmp_path / "flow", AblationOptions(**FEW), tmp_path / "out", CPU)
    manifest = json.loads((run / "manifest.json").read_text())
    (tmp_path / "growing" / "rows").mkdir(parents=True)
    (tmp_path / "growing" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    with pytest.raises(InputError, match="the run is not complete"):
        ablate_run(tmp_path / "growing", AblationOptions(**FEW), tmp_path / "out", CPU)
