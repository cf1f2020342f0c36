"""Circuits whose heads were planted are found, and nothing but these."""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import planted
from relscope.analysis import Circuit, Head, all_heads, without
from relscope.errors import InputError
from relscope.interventions import ablated, reference_of
from relscope.models import JudgeModel, ModelIdentity
from relscope.results import Run, open_circuit, open_run
from relscope.study import CircuitOptions, StudyConfig, evaluate_circuit, find_circuit, run_study, transfer_config
from relscope.study.circuit_search import prune, smallest_size
from relscope.study.circuits import _selection
from tiny_study import Told, interrupted_after

SITES = tuple(Head(layer, 0, "last") for layer in range(20))
REGIONS = ("query", "document", "instruction", "last")


class Counted:
    """f of a set: the share of the needed sites that it has; counts how often it is asked."""

    def __init__(self, needed: set[int]) -> None:
        self.needed, self.n = needed, 0

    def __call__(self, members: Sequence[Head]) -> float:
        self.n += 1
        return len(self.needed & {site.layer for site in members}) / len(self.needed)


def test_the_size_between_two_of_the_grid_is_found_by_bisection() -> None:
    f = Counted({0, 3, 12})
    assert smallest_size(SITES, (1, 2, 4, 10, 20), f, 1.0) == 13
    assert f.n == 4 + 3  # 20 is all of them and needs none; then 15, 12 and 13
    assert smallest_size(SITES, (1, 2, 4, 10, 20), Counted({0, 3, 12}), 0.6) == 4
    assert smallest_size(SITES, (5, 20), Counted({0}), 1.0) == 1


@pytest.mark.parametrize("needed", [{0}, {19}, {2, 3}, {0, 7, 19}, set(range(20))])
def test_pruning_leaves_what_is_needed_and_tries_few_sets(needed: set[int]) -> None:
    f = Counted(needed)
    pruned = prune(SITES, f, 1.0, 1000)
    assert {site.layer for site in pruned.kept} == needed
    assert (pruned.n_untried, pruned.faithfulness) == (0, 1.0)
    assert f.n == pruned.n_tried + 1
    assert pruned.n_tried <= 2 * len(SITES)
    # Of 20 sites with one needed: halves of 10, 5, 3, 2, 1.
    assert len(needed) > 1 or pruned.n_tried <= 2 * 5


def test_pruning_that_is_cut_short_says_what_was_not_tried() -> None:
    pruned = prune(SITES, Counted({0}), 1.0, 1)
    assert (pruned.n_tried, pruned.n_untried) == (1, 10)
    assert pruned.kept == SITES[:10]


def test_pruning_stays_above_its_floor_in_all() -> None:
    weights = dict.fromkeys(SITES, 0.05)
    pruned = prune(SITES, lambda members: sum(weights[m] for m in members), 0.88, 100)
    assert len(pruned.kept) == 18
    assert pruned.faithfulness == pytest.approx(0.9)


@pytest.mark.parametrize("n", [1, 2, 20])
def test_pruning_leaves_one_member_however_low_the_floor_is(n: int) -> None:
    pruned = prune(SITES[:n], Counted({19}), -1.0, 1000)
    assert (pruned.kept, pruned.n_untried) == (SITES[:1], 0)


WORDS = planted.MEANINGS


@pytest.fixture(scope="module")
def planted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model as a user would have it, and pairs of ten queries."""
    folder = tmp_path_factory.mktemp("planted")
    model = planted.matching_model()
    model.judge.model.save_pretrained(folder / "model")
    model.judge.tokenizer.save_pretrained(folder / "model")
    asked = list(itertools.combinations(WORDS, 2))
    lines = []
    for one, other in asked:
        rest = [told for _, told in WORDS if told not in (one[1], other[1])]
        lines.append(
            f'{{"query": "{one[0]} {other[0]}", "positive_document": "{rest[0]} {one[1]} {rest[1]}", '
            f'"hard_negative_document": ["{rest[0]} {rest[2]} {rest[1]}"]}}\n'
        )
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder


def study_config(folder: Path, **fields: Any) -> StudyConfig:
    return StudyConfig(
        **{"model": str(folder / "model"), "data": str(folder / "pairs.jsonl"), "device": "cpu", "pairs": 4,
           "experiments": {"heads": {"regions": list(REGIONS)}}, **fields}
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(planted_folder: Path) -> Path:
    run_study(study_config(planted_folder), planted_folder / "run")
    return planted_folder / "run"


OPTIONS = CircuitOptions(reference=2, kind="zero", threshold=0.99, draws=4, randoms=2)
CHAIN = {Head(0, 2, "query"), Head(2, 1, "last"), Head(3, 3, "last")}


@pytest.fixture(scope="module")
def found(run: Path) -> tuple[Circuit, Path]:
    return find_circuit(run, run.parent / "circuit", OPTIONS, device="cpu"), run.parent / "circuit"


def test_the_planted_chain_is_found_exactly_on_other_queries_than_it_is_judged_on(
    found: tuple[Circuit, Path],
) -> None:
    circuit, folder = found
    assert set(circuit) == CHAIN
    assert len(circuit.selection) == 4
    assert (circuit.faithfulness["n_queries"], circuit.faithfulness["n_pairs"]) == (6, 6)
    rows = open_circuit(folder).rows()
    evaluated = set(rows.loc[rows["step"] == "evaluate", "pair_id"])
    assert not {pair_id.rpartition(":")[0] for pair_id in evaluated} & set(circuit.selection)
    of = circuit.faithfulness["metrics"]["ld_gap"]
    # The chain is all that tells relevant from other documents: LD +4 and -4 with it, the default's "no" without it.
    assert of["full"]["value"] == pytest.approx(planted.LD_CLEAN - planted.LD_CORRUPTED, abs=1e-4)
    assert of["empty"]["value"] == pytest.approx(0.0, abs=1e-4)
    assert of["faithfulness"]["value"] == pytest.approx(1.0, abs=1e-4)
    assert of["knocked_out"]["value"] == pytest.approx(0.0, abs=1e-4)


def test_each_planted_member_is_needed_and_the_circuit_is_complete(found: tuple[Circuit, Path]) -> None:
    rows = open_circuit(found[1]).rows()
    rows = rows[rows["step"] == "evaluate"]
    gaps = (rows["ld_clean"] - rows["ld_corrupted"]).groupby(rows["set"]).mean()
    without_one = gaps[gaps.index.str.startswith("without ")]
    assert len(without_one) == 3
    assert without_one.abs().max() < 1e-4  # one link missing, nothing is left of f = 1
    for number in range(1, 5):
        kept, model = gaps[f"circuit without part {number}"], gaps[f"model without part {number}"]
        assert kept == pytest.approx(model, abs=1e-4)


def test_given_again_nothing_is_judged_and_an_interrupted_search_goes_on(
    run: Path, found: tuple[Circuit, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit, folder = found
    with monkeypatch.context() as patched:
        patched.setattr(JudgeModel, "relevance", None)
        assert find_circuit(run, folder, OPTIONS, device="cpu") == circuit
    with interrupted_after(9), pytest.raises(KeyboardInterrupt):
        find_circuit(run, tmp_path / "out", OPTIONS, device="cpu")
    n_stored = len(open_circuit(tmp_path / "out").rows().groupby(["step", "set"]))
    assert n_stored >= 9
    assert find_circuit(run, tmp_path / "out", OPTIONS, device="cpu") == circuit
    rows = [open_circuit(of).rows().sort_values(["step", "set", "pair_id"], ignore_index=True)
            for of in (folder, tmp_path / "out")]  # fmt: skip
    assert rows[0].equals(rows[1])


def test_other_settings_in_the_same_folder_are_refused(run: Path, found: tuple[Circuit, Path]) -> None:
    with pytest.raises(InputError, match=r"options\.threshold: 0\.99 in the folder, 0\.5 now"):
        find_circuit(run, found[1], dataclasses.replace(OPTIONS, threshold=0.5), device="cpu")


def test_a_saved_circuit_is_evaluated_elsewhere_and_never_on_queries_that_selected_it(
    planted_folder: Path, found: tuple[Circuit, Path], tmp_path: Path
) -> None:
    circuit = Circuit.load(found[1] / "circuit.json")
    told = Told()
    config = study_config(planted_folder, pairs=None, negatives="hard")
    there = evaluate_circuit(circuit, config, tmp_path / "there", OPTIONS, progress=told)
    assert there.members == circuit.members
    assert there.faithfulness["metrics"]["ld_gap"]["faithfulness"]["value"] == pytest.approx(1.0, abs=1e-4)
    assert told.warnings == ["4 pairs are of queries that selected the circuit, and are not evaluated"]
    # Instruction first: the matcher looks back from the query and finds the document, so the chain works there too.
    other = study_config(planted_folder, pairs=None, prompt={"order": "idq"})
    turned = evaluate_circuit(circuit, other, tmp_path / "idq", OPTIONS)
    assert turned.faithfulness["prompt"] == "pointwise-idq"
    assert turned.faithfulness["n_queries"] == 6


@pytest.mark.parametrize("of", ["circuit", "others"])
def test_ablated_tells_another_model_than_the_circuits_and_refuses_one_of_other_shape(
    found: tuple[Circuit, Path], of: str
) -> None:
    circuit = found[0]
    sites = circuit if of == "circuit" else circuit.others
    own, other = planted.matching_model().judge, planted.decoy_model().judge
    own.identity = ModelIdentity(**circuit.model)
    with warnings.catch_warnings(action="error"), ablated(own, sites, kind="zero"):
        pass
    with pytest.warns(UserWarning, match="another model of the same shape"), ablated(other, sites, kind="zero"):
        pass
    larger = dataclasses.replace(circuit, n_layers=5)
    sites = larger if of == "circuit" else larger.others
    with pytest.raises(InputError, match="with 5 layers of 4 heads, and"), ablated(own, sites):
        pass


def test_prompts_of_another_template_in_which_regions_share_a_token_are_refused(
    planted_folder: Path, found: tuple[Circuit, Path], tmp_path: Path
) -> None:
    config = study_config(planted_folder, pairs=None, prompt={"answer_prefix": ""})
    with pytest.raises(InputError, match="regions instruction, last: share a token in the prompts of"):
        evaluate_circuit(found[0], config, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_reranking_is_of_other_texts_or_judgements_is_refused(
    planted_folder: Path, run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ranked.jsonl"
    lines = []
    for line in map(json.loads, (planted_folder / "pairs.jsonl").read_text().splitlines()):
        positive, (negative,) = line["positive_document"], line["hard_negative_document"]
        found = {"positive_document": f"{line['query']} {positive}",  # BM25 finds documents by the query's own words
                 "hard_negative_document": [f"{line['query']} {negative}"]}  # fmt: skip
        lines.append(line | found)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file.write_text(text)
    options = dataclasses.replace(
        OPTIONS, rerank=str(file), prune_sets=0, minimality=0, draws=0, randoms=0, shares=(1.0,)
    )
    find_circuit(run, tmp_path / "out", options, device="cpu")
    last = lines[-1]
    changed = dict(last, hard_negative_document=[f"{last['query']} hound loaf"])
    judged = dict(last, positive_document=lines[-2]["positive_document"])  # one more judgement, no other text
    for rewritten, field in (([*lines[:-1], changed], "texts"), ([*lines, judged], "qrels")):
        file.write_text("".join(json.dumps(line) + "\n" for line in rewritten))
        with pytest.raises(InputError, match=rf"holds a circuit of other settings: .*reranking\.{field}_sha256: "):
            find_circuit(run, tmp_path / "out", options, device="cpu")
    file.write_text(text)
    find_circuit(run, tmp_path / "out", options, device="cpu")


def test_queries_of_one_text_select_together(run: Path) -> None:
    study = open_run(run)
    twin = {pair.query_id: pair.query_text.upper() for pair in study.manifest.pairs}
    pairs = [pair.model_copy(update={"pair_id": f"{name}{pair.pair_id}", "query_id": f"{name}{pair.query_id}", **text})
             for pair in study.manifest.pairs
             for name, text in (("", {}), ("twin ", {"query_text": twin[pair.query_id]}))]  # fmt: skip
    of_twins = Run(study.directory, study.manifest.model_copy(update={"pairs": pairs}), None)
    for seed in range(4):
        options = dataclasses.replace(OPTIONS, select=0.5, seed=seed)
        selected = _selection(study, options)
        assert len(selected) == 2
        assert set(_selection(of_twins, options)) == {*selected, *(f"twin {pair_id}" for pair_id in selected)}


def test_a_circuit_of_another_model_is_refused(
    planted_folder: Path, found: tuple[Circuit, Path], tmp_path: Path
) -> None:
    other = planted.decoy_model()
    other.judge.model.save_pretrained(tmp_path / "other")
    other.judge.tokenizer.save_pretrained(tmp_path / "other")
    config = study_config(planted_folder, model=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"has other weights .* a circuit means nothing in another model"):
        evaluate_circuit(found[0], config, tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 1.2}, "threshold: must be between 0 and 1, not 1.2"),
        (
            {"tolerance": 0.9},
            "tolerance: 0.9 is not below the threshold, 0.85: pruning could leave nothing",
        ),
        ({"threshold": 0.01}, "tolerance: 0.02 is not below the threshold, 0.01"),
        ({"by": "size"}, "by: 'size' does not exist: use one of: magnitude, effect"),
        ({"kind": "men"}, "kind: 'men' does not exist: did you mean 'mean'?"),
        ({"draws": -1}, "draws: must be at least 0, not -1"),
        ({"shares": (0.5, 2.0)}, "share 2.0 of all sites"),
        ({"rerank": "demo", "measure": "ndcg"}, "measures: 'ndcg' is none that ir-measures reads"),
    ],
)
def test_options_out_of_their_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        CircuitOptions(**fields)
    assert message in str(refused.value)


def test_too_few_queries_are_said_with_what_would_help(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"6 queries are left beside the 4 that selected, and 16 of them would give"):
        find_circuit(run, tmp_path / "out", CircuitOptions(), device="cpu")


def test_runs_that_are_no_basis_for_a_circuit_are_refused(planted_folder: Path, tmp_path: Path) -> None:
    for name, options, message in (
        ("flow", {"flow": {"components": ["attn_out"], "regions": ["last"]}}, "has no experiment heads"),
        ("both", {"heads": {"regions": ["last", "all"]}}, "a circuit needs regions that share no token, such as last"),
    ):
        run_study(study_config(planted_folder, pairs=1, experiments=options), tmp_path / name)
        with pytest.raises(InputError, match=message):
            find_circuit(tmp_path / name, tmp_path / "out", OPTIONS, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_file_never_decides_that_a_models_own_code_runs(found: tuple[Circuit, Path]) -> None:
    trusting = dataclasses.replace(found[0], loading={**found[0].loading, "trust_remote_code": True})
    assert not transfer_config(trusting, {}).trust_remote_code
    assert transfer_config(trusting, {"trust_remote_code": True}).trust_remote_code


def test_with_all_positions_among_the_regions_kept_alone_is_what_ablated_keeps(planted_folder: Path) -> None:
    judge = planted.matching_model().judge
    pairs = planted.aligned_pairs(judge.tokenizer)
    prompts = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupted)]
    sites = all_heads(planted.N_LAYERS, planted.N_HEADS, (*REGIONS, "other"))
    reference = reference_of(judge, prompts, sites=sites)
    for kept in ((), tuple(CHAIN), tuple(sorted(CHAIN))[:2], sites):
        with ablated(judge, kept, reference=reference, keep_only=True):
            alone = judge.relevance(prompts, pairs[0].answer_ids)
        with ablated(judge, without(sites, kept), reference=reference):
            assert judge.relevance(prompts, pairs[0].answer_ids).tolist() == alone.tolist()
