"""Opening, resuming, locking, reading: what a run folder promises."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_study
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from relscope.errors import InputError
from relscope.results import KEY_COLUMNS, SCHEMA, Manifest, RunError, create_or_resume, key_index, open_run

HEADS = fake_study.planned().query("experiment == 'heads'").reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    fake_study.run(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A complete run to play with."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    measured = fake_study.measure(HEADS)
    with create_or_resume(tmp_path / "run", fake_study.manifest()) as run:
        run.write_part("heads", measured.iloc[:10])
        run.write_part("heads", measured.iloc[10:])
        here = run.rows()
    there = open_run(tmp_path / "run").rows("heads")
    pd.testing.assert_frame_equal(here, there)
    assert list(there.columns) == SCHEMA.names
    for name in SCHEMA.names:
        expected = measured[name].tolist()
        if name.startswith(("ld_", "p_")):
            expected = [float(np.float32(value)) for value in expected]
        got = [None if pd.isna(value) else value for value in there[name]]
        assert got == [None if pd.isna(value) else value for value in expected], name


def test_rows_have_compact_types(folder: Path) -> None:
    rows = open_run(folder).rows()
    kinds = {name: str(rows[name].dtype) for name in SCHEMA.names}
    assert {kinds[name] for name in KEY_COLUMNS if name not in ("layer", "head")} == {"category"}
    assert kinds["layer"] == kinds["head"] == "Int16"
    assert {kinds[name] for name in SCHEMA.names[9:]} == {"float32"}
    assert rows.loc[rows["experiment"] == "judge", "ld_patched"].isna().all()


def test_a_run_without_rows_gives_an_empty_frame_of_the_same_types(tmp_path: Path, folder: Path) -> None:
    create_or_resume(tmp_path / "new", fake_study.manifest()).close()
    empty = open_run(tmp_path / "new").rows()
    assert len(empty) == 0
    full = open_run(folder).rows()
    assert {n: str(empty[n].dtype) for n in empty} == {n: str(full[n].dtype) for n in full}
    assert len(open_run(tmp_path / "new").stored_keys("heads")) == 0


def test_missing_agrees_with_a_plain_set_of_tuples(tmp_path: Path) -> None:
    plan = fake_study.planned()
    rng = np.random.default_rng(3)
    stored = plan[rng.random(len(plan)) < 0.4]
    with create_or_resume(tmp_path / "run", fake_study.manifest()) as run:
        for experiment, keys in stored.groupby("experiment"):
            run.write_part(str(experiment), fake_study.measure(keys))
        missing = run.missing(plan)

    def tuples(keys: pd.DataFrame) -> list[tuple[Any, ...]]:
        return [tuple(None if pd.isna(v) else v for v in row) for row in keys.itertuples(index=False)]

    there = set(tuples(stored))
    assert tuples(missing) == [key for key in tuples(plan) if key not in there]
    assert missing.index.tolist() == [i for i, key in enumerate(tuples(plan)) if key not in there]
    assert {("heads", *key) for key in run.stored_keys("heads")} == {
        tuple("" if v is None and i not in (3, 4) else -1 if v is None else v for i, v in enumerate(key))
        for key in there
        if key[0] == "heads"
    }


def test_stored_keys_compare_with_planned_keys(folder: Path) -> None:
    run = open_run(folder)
    assert key_index(HEADS).isin(run.stored_keys("heads")).all()
    assert not key_index(HEADS.assign(layer=99)).isin(run.stored_keys("heads")).any()
    assert not key_index(HEADS).isin(run.stored_keys("flow")).any()


def test_a_stored_key_is_refused_and_named_and_the_rest_of_the_part_is_not_written(folder: Path) -> None:
    rows = fake_study.measure(HEADS.iloc[:3])
    rows.loc[0, "pair_id"] = "new"
    with create_or_resume(folder, fake_study.manifest()) as run:
        before = run.rows()
        with pytest.raises(InputError, match=r"pair_id q0:0, component z, layer 0, head 1, .*is stored already"):
            run.write_part("heads", rows)
        run.write_part("heads", rows.iloc[:1])  # alone it is new
        with pytest.raises(InputError, match=r"pair_id new, .*is stored already"):
            run.write_part("heads", rows.iloc[:1])
        assert len(run.rows()) == len(before) + 1


def test_a_part_copied_by_hand_is_noticed(folder: Path) -> None:
    shutil.copy(folder / "rows" / "heads-00000.parquet", folder / "rows" / "heads-00900.parquet")
    with pytest.raises(RunError, match="7 rows are stored twice, such as experiment heads, pair_id q0:0"):
        open_run(folder).rows()


@pytest.mark.parametrize("damage", ["truncated", "empty", "other file"])
def test_a_damaged_part_is_named_and_deleting_it_heals_the_run(folder: Path, damage: str) -> None:
    before = open_run(folder).rows()
    part = folder / "rows" / "heads-00001.parquet"
    content = part.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "other file": b"PAR1 is not enough",
    }
    part.write_bytes(damaged[damage])
    with pytest.raises(RunError, match=r"heads-00001\.parquet: damaged") as caught:
        open_run(folder).rows()
    assert "\n" not in str(caught.value)
    with (
        create_or_resume(folder, fake_study.manifest()) as run,
        pytest.raises(RunError, match=r"heads-00001\.parquet"),
    ):
        run.missing(HEADS)
    part.unlink()
    fake_study.run(folder)
    after = open_run(folder).rows()
    assert len(after) == len(before)


def test_a_changed_bit_among_the_values_never_changes_a_row_in_silence(folder: Path) -> None:
    before = open_run(folder).rows()
    part = folder / "rows" / "heads-00001.parquet"
    content = part.read_bytes()
    metadata = pq.ParquetFile(part).metadata.row_group(0)
    # the pages lie behind the four bytes of the magic number; what follows them is the footer
    end = 4 + sum(metadata.column(i).total_compressed_size for i in range(metadata.num_columns))
    noticed = 0
    for place in range(4, end, 29):
        changed = bytearray(content)
        changed[place] ^= 0x10
        part.write_bytes(bytes(changed))
        try:
            pd.testing.assert_frame_equal(open_run(folder).rows(), before)
        except RunError as error:
            noticed += 1
            assert "heads-00001.parquet: damaged" in str(error)  # noqa: PT017
    assert noticed > 20


def test_a_part_with_other_columns_and_a_stray_file_are_named(folder: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(folder / "rows" / "heads-00901.parquet")
    with pytest.raises(RunError, match=r"heads-00901\.parquet: its columns are not those of a part"):
        open_run(folder).rows()
    (folder / "rows" / "heads-00901.parquet").rename(folder / "rows" / "copy of heads.parquet")
    with pytest.raises(RunError, match="copy of heads"):
        open_run(folder).rows()


def test_unfinished_files_are_ignored_by_readers_and_removed_on_resume(folder: Path) -> None:
    unfinished = [folder / "rows" / ".heads-00900.parquet.partial", folder / ".manifest.json.partial"]
    for path in unfinished:
        path.write_bytes(b"half")
    assert len(open_run(folder).rows()) == len(fake_study.planned())
    create_or_resume(folder, fake_study.manifest()).close()
    assert not any(path.exists() for path in unfinished)


def test_another_identity_is_refused_with_every_differing_field(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(InputError) as caught:
        create_or_resume(folder, fake_study.manifest(seed=1, dtype="bfloat16"))
    assert 'config.dtype: (absent) in the folder, "bfloat16" now' in str(caught.value)
    assert "config.seed: 0 in the folder, 1 now" in str(caught.value)
    assert "model" not in str(caught.value)
    assert (folder / "manifest.json").read_bytes() == before
    create_or_resume(folder, fake_study.manifest()).close()  # the refusal left no lock behind


def test_the_manifest_cannot_be_replaced_by_one_of_another_identity(folder: Path) -> None:
    with (
        create_or_resume(folder, fake_study.manifest()) as run,
        pytest.raises(InputError, match=r"config\.seed: 0 in the folder, 1 now"),
    ):
        run.save_manifest(fake_study.manifest(seed=1))


def test_a_run_of_another_identity_goes_on_with_the_manifest_that_extends_it(folder: Path) -> None:
    rows = open_run(folder).rows()
    asked = fake_study.manifest(pairs=99).model_copy(update={"environment": {"threads": 8}})

    def extend(stored: Manifest) -> Manifest:
        assert stored == fake_study.manifest().model_copy(update={"status": "complete"})
        return asked.model_copy(update={"environment": stored.environment})

    with create_or_resume(folder, asked, extend) as run:
        assert run.manifest == open_run(folder).manifest
        assert run.manifest.identity["config"] == {"seed": 0, "pairs": 99}
        assert run.manifest.status == "running"
        assert [of.environment for of in run.manifest.resumptions] == [{"threads": 8}]
        pd.testing.assert_frame_equal(run.rows(), rows)
    with pytest.raises(InputError, match=r"config\.pairs: 99 in the folder, \(absent\) now"):
        create_or_resume(folder, fake_study.manifest())


def test_what_cannot_extend_a_run_leaves_it_as_it_is(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()

    def extend(stored: Manifest) -> Manifest:
        raise InputError("it is no beginning")

    with pytest.raises(InputError, match="it is no beginning"):
        create_or_resume(folder, fake_study.manifest(pairs=99), extend)
    assert (folder / "manifest.json").read_bytes() == before
    create_or_resume(folder, fake_study.manifest(), extend).close()  # no lock is left, and nothing is extended


def test_resuming_keeps_the_stored_manifest_and_records_another_environment(folder: Path) -> None:
    later = fake_study.manifest().model_copy(update={"created": "2025-02-02T00:00:00+00:00"})
    with create_or_resume(folder, later) as run:
        assert run.manifest.created == "2025-01-02T03:04:05+00:00"
        assert run.manifest.status == "complete"
        assert run.manifest.resumptions == []
    elsewhere = later.model_copy(update={"environment": {"threads": 8, "shape": (1, 2)}})
    for _ in range(2):  # the second time it is no news
        create_or_resume(folder, elsewhere).close()
    (resumption,) = open_run(folder).manifest.resumptions
    assert resumption.resumed == "2025-02-02T00:00:00+00:00"
    assert resumption.environment == {"threads": 8, "shape": [1, 2]}
    assert open_run(folder).manifest.environment == {"threads": 1}


def test_a_folder_with_other_things_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex' and no manifest\.json, so it is no run folder"):
        create_or_resume(tmp_path, fake_study.manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_rows_without_a_manifest_are_not_adopted(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds 'rows/flow-00000\.parquet' and no manifest\.json"):
        create_or_resume(folder, fake_study.manifest())


def test_the_manifest_of_something_else_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(InputError, match=r"manifest\.json: not the manifest of a run"):
        create_or_resume(tmp_path, fake_study.manifest())


def test_an_empty_folder_and_one_left_before_its_manifest_are_taken(tmp_path: Path) -> None:
    for name in ("empty", "left"):
        (tmp_path / name).mkdir()
    (tmp_path / "left" / "rows").mkdir()
    (tmp_path / "left" / ".lock").touch()
    (tmp_path / "left" / ".manifest.json.partial").touch()
    for name in ("empty", "left", "new/and/deep"):
        fake_study.run(tmp_path / name)
        assert len(open_run(tmp_path / name).rows()) == len(fake_study.planned())


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_is_no_run_folder_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        open_run(tmp_path / name)


def test_a_run_open_for_reading_refuses_to_write(folder: Path) -> None:
    run = open_run(folder)
    with pytest.raises(RunError, match="not open for writing"):
        run.write_part("heads", fake_study.measure(HEADS))
    with pytest.raises(RunError, match="not open for writing"):
        run.save_manifest(run.manifest)


def test_two_writers_exclude_each_other_until_the_first_closes(folder: Path) -> None:
    first = create_or_resume(folder, fake_study.manifest())
    with pytest.raises(RunError, match="another process writes this run"):
        create_or_resume(folder, fake_study.manifest())
    assert len(open_run(folder).rows()) == len(fake_study.planned())  # readers are welcome
    first.close()
    first.close()
    with pytest.raises(RunError, match="not open for writing"):
        first.write_part("heads", fake_study.measure(HEADS))
    create_or_resume(folder, fake_study.manifest()).close()


def test_a_writer_in_another_process_is_excluded(folder: Path) -> None:
    with create_or_resume(folder, fake_study.manifest()):
        other = subprocess.run(
            [sys.executable, fake_study.__file__, str(folder)], capture_output=True, text=True, check=False
        )
    assert other.returncode != 0
    assert "another process writes this run" in other.stderr


def test_a_dropped_writer_lets_go_of_the_folder(folder: Path) -> None:
    run = create_or_resume(folder, fake_study.manifest())
    del run
    create_or_resume(folder, fake_study.manifest()).close()


def test_half_a_million_rows_are_read_in_a_few_seconds(tmp_path: Path) -> None:
    # 100 pairs x 32 layers x 32 heads x 5 regions
    n_pairs, shape = 100, (32, 32, 5)
    layer, head, region = (axis.ravel() for axis in np.indices(shape))
    regions = np.array(["query", "document", "instruction", "last", "all"], dtype=object)
    n_sites = layer.size
    sites = pd.DataFrame({"layer": layer, "head": head, "region": regions[region]})
    sites = sites.assign(component="z", dest=None, src=None, direction="denoise")
    values = dict.fromkeys(("ld_clean", "ld_corrupted", "ld_patched"), 1.5)
    values |= dict.fromkeys(("p_clean", "p_corrupted", "p_patched"), 0.5)
    with create_or_resume(tmp_path / "run", fake_study.manifest()) as run:
        for first in range(0, n_pairs, 10):
            part = pd.concat([sites.assign(pair_id=f"q{first + i}") for i in range(10)], ignore_index=True)
            run.write_part("heads", part.assign(**values))
    run = open_run(tmp_path / "run")
    started = time.process_time()
    rows = run.rows()
    read = time.process_time() - started
    assert len(rows) == n_pairs * n_sites == 512_000
    assert rows.memory_usage(deep=True).sum() < 40_000_000
    assert len(run.missing(rows)) == 0
    # About 0.2 s and 0.5 s of one core (process time: other work on the machine does not count); a loop over
    # rows would take far longer than the bounds.
    assert read < 3
    assert time.process_time() - started < 6
