"""A run that is given more pairs or experiments is the run that was made in one go; anything else is refused."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from relscope.analysis import precision_error
from relscope.errors import InputError
from relscope.report import build_report
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, Run, open_run, read_readout
from relscope.study import run_study
from tiny_study import N_RIGHT_OF_10, Told, assert_same_rows, keyed, tiny_config

HEADS = {"heads": {"regions": ["last"]}}
MANY: dict[str, Any] = {
    "flow": {"regions": ["last"]}, **HEADS, "edges": {"edges": ["last<-query"], "components": ["scores"]},
    "interaction": {}, "vocabulary": {"regions": ["last"]},
}  # fmt: skip
CHOOSING: dict[str, Any] = {**HEADS, "joint": {"top": 2}, "paths": {"top": 2}}
OF_ITS_MAKING = {"created", "environment", "resumptions", "extensions"}


def assert_same_manifest(run: Run, expected: Run) -> None:
    found, wanted = (of.manifest.model_dump(exclude=OF_ITS_MAKING) for of in (run, expected))
    assert found == wanted


def patched_pairs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pairs that are patched from now on, in order."""
    of = importlib.import_module("relscope.study.run")
    seen: list[str] = []
    patch_pairs = of.patch_pairs

    def counted(judge: Any, work: Any, **options: Any) -> Any:
        seen.extend(pair.pair_id for pair, _ in work)
        return patch_pairs(judge, work, **options)

    monkeypatch.setattr(of, "patch_pairs", counted)
    return seen


def pair_lines(n: int) -> list[dict[str, Any]]:
    """Of five lines the second has no negative, and the third is the same for as long as documents may be."""
    lines: list[dict[str, Any]] = [
        {"query": f"where is number {i}", "positive_document": f"Number {i} sat on the mat.",
         "hard_negative_document": [f"A dog ran to hill {i}.", "Bread rises."]}
        for i in range(n)
    ]  # fmt: skip
    for line in lines[1::5]:
        line["hard_negative_document"] = []
    for line in lines[2::5]:
        line |= {"positive_document": "the same words " * 20, "hard_negative_document": ["the same words " * 19]}
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_has_the_rows_the_readouts_and_the_manifest_of_a_run_made_in_one_go(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (tiny_config(tiny_model_folder, pairs=n, experiments=MANY) for n in (3, 7))
    whole = run_study(many, tmp_path / "whole")
    before = run_study(few, tmp_path / "run")
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "rows").iterdir()}
    patched = patched_pairs(monkeypatch)
    run = run_study(many, tmp_path / "run")
    assert patched == [pair.pair_id for pair in whole.manifest.pairs[3:]]
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert_same_rows(run, whole)
    assert_same_manifest(run, whole)
    for schema in (LENS, CONTRIBUTIONS, INTERACTION, VOCABULARY):
        found, wanted = (read_readout(of.directory, schema) for of in (run, whole))
        pd.testing.assert_frame_equal(found, wanted)  # read again of all pairs, by the same code in the same order
    assert run.manifest.created == before.manifest.created
    (extension,) = run.manifest.extensions
    assert (extension.n_pairs, extension.heads_kept) == (3, [])
    assert "from 3 patched pairs" in build_report(run.directory).read_text(encoding="utf-8")
    run_study(many, tmp_path / "run")  # the same command again has nothing to do
    assert len(patched) == 4
    assert open_run(tmp_path / "run").manifest.extensions == [extension]


def test_the_filter_goes_over_all_pairs(tiny_model_folder: Path, tmp_path: Path) -> None:
    few, many = (tiny_config(tiny_model_folder, pairs=n, experiments=HEADS, filter="correct") for n in (3, 10))
    assert len(run_study(few, tmp_path / "run").rows("heads")) == 0
    run, whole = run_study(many, tmp_path / "run"), run_study(many, tmp_path / "whole")
    assert run.rows("heads")["pair_id"].nunique() == N_RIGHT_OF_10
    assert_same_rows(run, whole)
    assert_same_manifest(run, whole)


def test_no_limit_takes_all_pairs_and_a_file_may_have_grown_at_its_end(tiny_model_folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", pair_lines(7))
    fields = {"data": str(data), "experiments": HEADS, "negatives": {"per_query": 2}}
    # 3 pairs stop in the middle of a query, and behind lines without a pair.
    for pairs in (1, 3, None):
        run = run_study(tiny_config(tiny_model_folder, pairs=pairs, **fields), tmp_path / "run")
    assert [extension.n_pairs for extension in run.manifest.extensions] == [1, 2]
    write_lines(data, pair_lines(13))
    everything = tiny_config(tiny_model_folder, pairs=None, **fields)
    run, whole = run_study(everything, tmp_path / "run"), run_study(everything, tmp_path / "whole")
    assert {e.reason for e in run.manifest.exclusions} >= {"no_hard_negative", "identical_after_cut"}
    assert_same_rows(run, whole)
    assert_same_manifest(run, whole)


@pytest.mark.parametrize("nth", [1, 2])
def test_killed_while_it_is_extended_it_goes_on_or_says_why_not(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    # Room for one pair or two at a time: several parts.
    experiments = {"flow": {"regions": ["last", "query"]}, **HEADS}
    few, many = (tiny_config(tiny_model_folder, pairs=n, experiments=experiments, memory="7MiB") for n in (2, 6))
    run_study(few, tmp_path / "run")
    of = importlib.import_module("relscope.study.run")
    patch_pairs: Callable[..., Any] = of.patch_pairs
    parts: list[list[str]] = []

    def interrupted(judge: Any, work: Any, **options: Any) -> Any:
        if len(parts) + 1 == nth:
            raise KeyboardInterrupt
        parts.append([pair.pair_id for pair, _ in work])
        return patch_pairs(judge, work, **options)

    monkeypatch.setattr(of, "patch_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(many, tmp_path / "run")
    monkeypatch.undo()
    kept = open_run(tmp_path / "run")
    assert kept.manifest.status == "running"
    done = {pair_id for part in parts for pair_id in part}
    assert set(kept.rows("heads")["pair_id"]) == {pair.pair_id for pair in kept.manifest.pairs[:2]} | done
    with pytest.raises(InputError, match=r"config\.pairs: 6 in the folder, 2 now; .*ask for 6 or more"):
        run_study(few, tmp_path / "run")
    patched = patched_pairs(monkeypatch)
    run = run_study(many, tmp_path / "run")
    assert patched == [pair.pair_id for pair in run.manifest.pairs[2:] if pair.pair_id not in done]
    assert len(run.manifest.extensions) == 1
    assert_same_rows(run, run_study(many, tmp_path / "whole"))


def test_the_manifest_is_replaced_whole_or_not_at_all(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (tiny_config(tiny_model_folder, pairs=n, experiments=HEADS) for n in (2, 4))
    before = run_study(few, tmp_path / "run").manifest

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("relscope.results.files").os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(many, tmp_path / "run")
    monkeypatch.undo()
    assert open_run(tmp_path / "run").manifest == before
    assert run_study(few, tmp_path / "run").manifest == before  # the command of before still goes on


@pytest.fixture(scope="module")
def finished(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three pairs; nothing that is refused may change it."""
    return run_study(tiny_config(tiny_model_folder, experiments=HEADS), tmp_path_factory.mktemp("refused") / "run")


@pytest.mark.parametrize(
    ("changed", "named", "not_named"),
    [
        ({"pairs": 2}, "config.pairs: 3 in the folder, 2 now; a run takes more pairs, and never fewer: ask for 3", ""),
        ({"pairs": 5, "direction": "noise"}, 'config.direction: "denoise" in the folder, "noise" now', "config.pairs"),
        ({"pairs": 5, "seed": 1}, "config.seed: 0 in the folder, 1 now", "config.pairs"),
        ({"experiments": {"heads": {"regions": ["query"]}}}, "config.experiments.heads.regions: ", "config.pairs"),
        ({"experiments": {"flow": {}, "heads": {"regions": ["query"]}}}, "config.experiments.heads.regions: ", ""),
    ],
)
def test_fewer_pairs_and_other_settings_are_refused_and_nothing_changes(
    tiny_model_folder: Path, finished: Run, changed: dict[str, Any], named: str, not_named: str
) -> None:
    manifest, before = (finished.directory / "manifest.json").read_bytes(), finished.rows()
    with pytest.raises(InputError) as refusal:
        run_study(tiny_config(tiny_model_folder, **{"experiments": HEADS, **changed}), finished.directory)
    assert named in str(refusal.value)
    assert not not_named or not_named not in str(refusal.value)
    assert (finished.directory / "manifest.json").read_bytes() == manifest
    pd.testing.assert_frame_equal(open_run(finished.directory).rows(), before)


@pytest.mark.parametrize("field", ["query", "positive_document"])
def test_pairs_that_changed_are_refused(tiny_model_folder: Path, tmp_path: Path, field: str) -> None:
    lines = pair_lines(5)
    data = write_lines(tmp_path / "pairs.jsonl", lines)
    fields = {"data": str(data), "experiments": HEADS}
    run_study(tiny_config(tiny_model_folder, pairs=1, **fields), tmp_path / "run")
    write_lines(data, [lines[0] | {field: "something else"}, *lines[1:]])
    with pytest.raises(InputError, match=r"data\.sha256: .*prompt\.token_sha256: "):
        run_study(tiny_config(tiny_model_folder, pairs=3, **fields), tmp_path / "run")


def test_experiments_are_added_to_a_run(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tiny_config(tiny_model_folder, experiments=HEADS)
    more = tiny_config(tiny_model_folder, experiments={**CHOOSING, "interaction": {}})
    whole = run_study(more, tmp_path / "whole")
    heads = run_study(few, tmp_path / "run").rows("heads")
    run = run_study(more, tmp_path / "run")
    assert_same_rows(run, whole)
    assert_same_manifest(run, whole)
    pd.testing.assert_frame_equal(keyed(run.rows("heads")), keyed(heads))  # to the last bit: not measured again
    assert run.manifest.n_choosing("joint") is None
    with pytest.raises(InputError, match=r"config\.experiments\.joint: .*\(absent\) now"):
        run_study(few, tmp_path / "run")


def test_what_paths_has_measured_already_is_not_added(tiny_model_folder: Path, tmp_path: Path) -> None:
    # Its total effects are those that flow and heads lack: they would be there twice.
    paths = {"paths": {"top": 0}}
    run_study(tiny_config(tiny_model_folder, experiments=paths), tmp_path / "run")
    with pytest.raises(InputError, match=r"config\.experiments\.heads: \(absent\) in the folder"):
        run_study(tiny_config(tiny_model_folder, experiments={**paths, **HEADS}), tmp_path / "run")


def test_heads_that_fewer_pairs_chose_are_kept_and_it_is_said(tiny_model_folder: Path, tmp_path: Path) -> None:
    few, many, more = (tiny_config(tiny_model_folder, pairs=n, experiments=CHOOSING) for n in (2, 4, 5))
    before = run_study(few, tmp_path / "run").manifest
    assert "The run was extended" not in build_report(tmp_path / "run").read_text(encoding="utf-8")
    told = Told()
    run_study(many, tmp_path / "run", told)
    assert any("joint and paths: the heads stay those that 2 pairs chose" in text for text in told.warnings)
    run = run_study(more, tmp_path / "run")
    for field in ("joint_heads", "path_senders", "path_receivers"):
        assert getattr(run.manifest, field) == getattr(before, field)
    assert [run.manifest.n_choosing(name) for name in ("joint", "paths", "heads")] == [2, 2, None]
    assert all(run.rows(name)["pair_id"].nunique() == 5 for name in ("joint", "paths", "direct", "heads"))
    sites = run.rows("joint").groupby("pair_id", observed=True)["src"].agg(lambda names: tuple(sorted(names)))
    assert sites.nunique() == 1
    page = build_report(tmp_path / "run").read_text(encoding="utf-8")
    assert page.count("of its 5 patched pairs the first 2 chose the heads") == 2


def test_heads_that_are_named_were_chosen_by_nobody(tiny_model_folder: Path, tmp_path: Path) -> None:
    named = {"joint": {"heads": ["L0H1@last", "L1H3@query"]}}
    few, many = (tiny_config(tiny_model_folder, pairs=n, experiments=named) for n in (2, 4))
    run_study(few, tmp_path / "run")
    run, whole = run_study(many, tmp_path / "run"), run_study(many, tmp_path / "whole")
    assert run.manifest.n_choosing("joint") is None
    assert_same_rows(run, whole)
    assert_same_manifest(run, whole)


def test_in_delta_precision_the_exact_sample_grows(tiny_model_folder: Path, tmp_path: Path) -> None:
    fields = {"precision": "delta", "experiments": HEADS}
    few, many = (tiny_config(tiny_model_folder, pairs=n, **fields) for n in (9, 12))
    before = run_study(few, tmp_path / "run").rows("exact_sample")
    run, whole = run_study(many, tmp_path / "run"), run_study(many, tmp_path / "whole")
    assert_same_rows(run.rows("heads"), whole.rows("heads"))
    found = keyed(run.rows("exact_sample"))
    # The draw among more pairs is another one: what was measured stays, and what the new draw lacks comes on top.
    assert set(found.index) == set(keyed(before).index) | set(keyed(whole.rows("exact_sample")).index)
    error = precision_error(run.rows())
    assert error is not None
    assert 0 < error.rms < 0.05 * error.rms_effect
