"""Two models compared: what lands in the folder, that it is right, and which models are refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import FOLDERS, Done, changed_model, done, header, tuned_folder
from safetensors.torch import load_file

from families import draw_weights, from_config, tiny_model
from reference import Reference
from relscope.errors import InputError
from relscope.interventions import Site
from relscope.models import load_judge
from relscope.prompts import AlignedPair
from relscope.results import HEAD_CHANGES, WEIGHT_CHANGES, open_run, read_changes
from relscope.study import Edges, Experiments, Heads, Silent, compare_models, run_study
from relscope.study.prepare import prepare
from tiny_study import MODEL_SEED, N_HEADS, N_LAYERS, assert_same_rows, tiny_config

__all__ = ["done", "tuned_folder"]

# LD of order 1, computed in other batches than the reference's.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def references(tiny_tokenizer: Any) -> dict[str, Reference]:
    return {
        "base": Reference(tiny_model("llama", len(tiny_tokenizer), MODEL_SEED), "llama"),
        "tuned": Reference(changed_model(tiny_tokenizer), "llama"),
    }


@pytest.fixture(scope="module")
def pairs(done: Done) -> dict[str, AlignedPair]:
    return {pair.pair_id: pair for pair in prepare(done.config, Silent()).aligned}


def test_the_header_says_what_was_compared_and_that_it_is_done(
    done: Done, tiny_model_folder: Path, tuned_folder: Path
) -> None:
    said = header(done.folder)
    assert (said["schema_version"], said["status"]) == (1, "complete")
    assert (said["base"], said["tuned"]) == (str(tiny_model_folder), str(tuned_folder))
    assert said["config"] == done.config.identity()
    assert len(said["identity_hash"]) == 64
    assert said["created"].endswith("+00:00")
    assert {path.name for path in done.folder.iterdir() if not path.name.startswith(".")} == {
        "comparison.json", "changes", *FOLDERS,
    }  # fmt: skip


def test_each_model_has_the_rows_of_its_own_study(done: Done, tuned_folder: Path, tmp_path: Path) -> None:
    for name, model in (("base", done.config.model), ("tuned", str(tuned_folder))):
        alone = run_study(done.config.model_copy(update={"model": model}), tmp_path / name)
        run = open_run(done.folder / name)
        assert_same_rows(run, alone)
        assert run.manifest.status == "complete"
        assert run.manifest.identity == alone.manifest.identity


def test_every_site_is_transferred_both_ways_on_both_prompts(done: Done) -> None:
    n_flow, n_heads = 2 * 2 * N_LAYERS, 2 * N_LAYERS * N_HEADS
    for name in ("into_base", "into_tuned"):
        run = open_run(done.folder / name)
        assert run.manifest.status == "complete"
        rows = run.rows()
        assert dict(rows["experiment"].astype(str).value_counts()) == {
            "transfer_flow_clean": 3 * n_flow,
            "transfer_flow_corrupted": 3 * n_flow,
            "transfer_heads_clean": 3 * n_heads,
            "transfer_heads_corrupted": 3 * n_heads,
        }
        assert set(rows["direction"]) == {"denoise"}
        for value in ("clean", "corrupted", "patched"):
            np.testing.assert_allclose(rows[f"p_{value}"], np.tanh(rows[f"ld_{value}"] / 2), atol=1e-6)


def test_the_manifest_of_a_transfer_names_receiver_and_donor(done: Done) -> None:
    models = {name: open_run(done.folder / name).manifest.identity["model"] for name in ("base", "tuned")}
    for receiver, donor in (("base", "tuned"), ("tuned", "base")):
        manifest = open_run(done.folder / f"into_{receiver}").manifest
        assert manifest.identity["model"] == models[receiver]
        assert manifest.identity["donor"] == models[donor]
        assert manifest.query_of == open_run(done.folder / receiver).manifest.query_of


@pytest.mark.parametrize(("receiver", "donor"), [("base", "tuned"), ("tuned", "base")])
def test_transferred_rows_are_those_of_plain_hooks(
    done: Done, references: dict[str, Reference], pairs: dict[str, AlignedPair], receiver: str, donor: str
) -> None:
    rows = open_run(done.folder / f"into_{receiver}").rows()
    moved = []
    for row in rows.sample(60, random_state=0).itertuples():
        pair = pairs[row.pair_id]
        read = getattr(pair, str(row.experiment).rpartition("_")[2])
        head = None if row.component != "z" else int(row.head)
        values = references[donor].activations(read.ids, row.component, int(row.layer))
        wanted = references[receiver].patched(
            read.ids, pair.answer_ids, row.component, int(row.layer), head, read.region(row.region), values
        )
        assert row.ld_patched == pytest.approx(wanted, abs=TOLERANCE)
        assert row.ld_clean == pytest.approx(references[donor].logit_diff(read.ids, pair.answer_ids), abs=TOLERANCE)
        assert row.ld_corrupted == pytest.approx(
            references[receiver].logit_diff(read.ids, pair.answer_ids), abs=TOLERANCE
        )
        moved.append(abs(row.ld_patched - row.ld_corrupted))
    assert max(moved) > 0.05


def test_verdicts_of_transfers_are_those_of_the_studies(done: Done) -> None:
    verdicts = {name: open_run(done.folder / name).rows("judge").set_index("pair_id") for name in ("base", "tuned")}
    rows = open_run(done.folder / "into_base").rows("transfer_heads_corrupted")
    for row in rows.drop_duplicates("pair_id").itertuples():
        assert row.ld_clean == pytest.approx(verdicts["tuned"].loc[row.pair_id, "ld_corrupted"], abs=TOLERANCE)
        assert row.ld_corrupted == pytest.approx(verdicts["base"].loc[row.pair_id, "ld_corrupted"], abs=TOLERANCE)


def test_distances_of_heads_are_those_of_hooked_activations(
    done: Done, references: dict[str, Reference], pairs: dict[str, AlignedPair]
) -> None:
    frame = read_changes(done.folder, HEAD_CHANGES)
    assert frame is not None
    assert len(frame) == 3 * 2 * 2 * N_LAYERS * N_HEADS
    assert not frame.duplicated(["pair_id", "prompt", "layer", "head", "region"]).any()
    for row in frame.sample(40, random_state=0).itertuples():
        read = getattr(pairs[row.pair_id], row.prompt)
        at = list(read.region(row.region))
        width = 32 // N_HEADS
        columns = slice(row.head * width, (row.head + 1) * width)
        base, tuned = (
            references[name].activations(read.ids, "z", row.layer)[at, columns].double() for name in ("base", "tuned")
        )
        for found, wanted in ((row.norm_base, base), (row.norm_tuned, tuned), (row.distance, tuned - base)):
            # float32 activations of two kinds of attention code
            assert found == pytest.approx(float(wanted.norm()), rel=1e-4, abs=1e-5)
    # Nothing before layer 1's output projection was changed.
    assert frame.loc[frame["layer"] <= 1, "distance"].max() == 0.0
    assert frame.loc[frame["layer"] > 1, "distance"].min() > 0.0


def test_the_weights_that_were_changed_are_found(done: Done, tiny_model_folder: Path, tuned_folder: Path) -> None:
    frame = read_changes(done.folder, WEIGHT_CHANGES)
    assert frame is not None
    o_proj, q_proj = "model.layers.1.self_attn.o_proj.weight", "model.layers.2.self_attn.q_proj.weight"
    moved = frame[frame["norm_change"] > 0]
    assert set(moved["name"]) == {o_proj, q_proj}
    queries = moved[moved["name"] == q_proj]
    # 8 x 32 values of 0.5
    assert dict(zip(queries["head"].fillna(-1), queries["norm_change"], strict=True)) == {
        -1: pytest.approx(8.0, rel=1e-6), 1: pytest.approx(8.0, rel=1e-6),
    }  # fmt: skip
    before, after = (load_file(folder / "model.safetensors")[o_proj] for folder in (tiny_model_folder, tuned_folder))
    for row in moved[(moved["name"] == o_proj) & moved["head"].notna()].itertuples():
        columns = slice(8 * row.head, 8 * row.head + 8)
        assert row.norm_change == pytest.approx(float((after - before)[:, columns].norm()), rel=1e-5)
        assert row.norm_base == pytest.approx(float(before[:, columns].norm()), rel=1e-5)


def test_progress_names_the_part_it_speaks_of_and_ends_where_it_should(done: Done) -> None:
    said = " | ".join(done.told.stages)
    for part in ("base: judging 3 pairs", "tuned: patching", "into base: clean prompts: patching",
                 "into tuned: corrupted prompts: patching", "reading the heads", "comparing the weights"):  # fmt: skip
        assert part in said


def test_experiments_that_comparisons_do_not_measure_are_refused(
    done: Done, tuned_folder: Path, tmp_path: Path
) -> None:
    config = done.config.model_copy(update={"experiments": Experiments(heads=Heads(), edges=Edges())})
    with pytest.raises(InputError, match="experiments: edges: comparisons measure flow and heads"):
        compare_models(config, str(tuned_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_filter_correct_is_refused(done: Done, tuned_folder: Path, tmp_path: Path) -> None:
    config = done.config.model_copy(update={"filter": "correct"})
    with pytest.raises(InputError, match="filter: 'correct' would keep other pairs"):
        compare_models(config, str(tuned_folder), tmp_path / "out")


def test_neither_or_both_of_tuned_and_adapter_is_refused(done: Done, tuned_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="either a tuned model or an adapter"):
        compare_models(done.config, None, tmp_path / "out")
    with pytest.raises(InputError, match="either a tuned model or an adapter"):
        compare_models(done.config.model_copy(update={"adapter": "a"}), str(tuned_folder), tmp_path / "out")


def test_a_model_compared_with_itself_is_refused(done: Done, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the two models have the same weights"):
        compare_models(done.config, done.config.model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_two_shapes_are_refused(done: Done, tiny_tokenizer: Any, tmp_path: Path) -> None:
    config = copy.deepcopy(changed_model(tiny_tokenizer).config)
    config.num_hidden_layers = 3
    from_config(config).save_pretrained(tmp_path / "shallow")
    tiny_tokenizer.save_pretrained(tmp_path / "shallow")
    with pytest.raises(InputError, match="n_layers 4 and 3"):
        compare_models(done.config, str(tmp_path / "shallow"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_read_other_tokens_are_refused(done: Done, tuned_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tuned_folder, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text("<|im_start|>" + template.read_text())
    with pytest.raises(InputError, match=r"as different tokens \(\d+ and \d+\).*prompt\.style: plain"):
        compare_models(done.config, str(other), tmp_path / "out")
    # Without chat templates both read the same.
    plain = tiny_config(
        Path(done.config.model), prompt={"style": "plain"}, pairs=1, experiments={"flow": {"regions": ["last"]}}
    )
    compare_models(plain, str(other), tmp_path / "plain")
    assert not list((tmp_path / "plain" / "into_base" / "rows").glob("transfer_heads*"))
    heads = read_changes(tmp_path / "plain", HEAD_CHANGES)
    assert heads is not None
    assert set(heads["region"]) == {"query", "instruction", "last"}


def test_an_adapter_is_compared_with_its_base(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    import peft

    model = from_config(tiny_model("llama", len(tiny_tokenizer)).config)
    model.config._name_or_path = model.name_or_path = str(tiny_model_folder)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    draw_weights(tuned, seed=3)
    tuned.save_pretrained(tmp_path / "adapter")
    fields: dict[str, Any] = {"pairs": 1, "experiments": {"heads": {"regions": ["last"]}}}
    by_name = tiny_config(tiny_model_folder, **fields)
    with_adapter = tiny_config(tiny_model_folder, adapter=str(tmp_path / "adapter"), **fields)
    compare_models(by_name, str(tmp_path / "adapter"), tmp_path / "one")
    compare_models(with_adapter, None, tmp_path / "two")
    for name in FOLDERS:
        assert_same_rows(open_run(tmp_path / "one" / name), open_run(tmp_path / "two" / name))
    weights = read_changes(tmp_path / "two", WEIGHT_CHANGES)
    assert weights is not None
    moved = weights[weights["norm_change"] > 0]
    assert set(moved["name"]) == {f"model.layers.{layer}.self_attn.v_proj.weight" for layer in range(N_LAYERS)}
    assert header(tmp_path / "two")["tuned"] == str(tmp_path / "adapter")
    identities = [open_run(tmp_path / "two" / name).manifest.identity["model"] for name in ("base", "tuned")]
    assert [identity["adapter"] for identity in identities] == [None, str(tmp_path / "adapter")]
    judge = load_judge(tiny_model_folder, adapter=tmp_path / "adapter", device="cpu")
    assert identities[1]["fingerprint"] == judge.identity.fingerprint


def test_sites_of_a_transfer_have_the_names_of_a_study(done: Done) -> None:
    rows = open_run(done.folder / "into_base").rows("transfer_flow_clean")
    study = open_run(done.folder / "base").rows("flow")

    def sites(frame: Any) -> set[Site]:
        return {Site(str(r.component), int(r.layer), str(r.region)) for r in frame.itertuples()}

    assert sites(rows) == sites(study)
