"""Faults of the paper's published research code that live in its scripts: not one of them is here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from replaced import replace

import relscope
from reference import Reference
from relscope.prompts import AlignedPair
from relscope.study import Silent, run_study
from relscope.study.prepare import prepare
from tiny_study import N_HEADS, N_LAYERS, tiny_config

N_PAIRS = 104
WORDS = ("yeast", "river", "makes", "hill", "dog", "ran", "noon", "gas", "mat", "bread", "sat", "near")


def text(seed: int, n_words: int) -> str:
    return " ".join(WORDS[(seed + 5 * i + i * i) % len(WORDS)] for i in range(n_words))


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """104 pairs whose documents have 3 to 10 words, each with two hard and two random negatives."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = [
        {
            "query": f"where is number {number}",
            "positive_document": f"{text(number, 3 + number % 8)} is number {number}",
            "hard_negative_document": [f"number {number} hard {kind} {text(number + 3, 4)}" for kind in "ab"],
            "random_negative_document": [f"at random {number} {kind} {text(number + 7, 9)}" for kind in "ab"],
        }
        for number in range(N_PAIRS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_more_than_100_pairs_are_judged_and_patched(tiny_model_folder: Path, pair_file: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_model_folder,
        data=str(pair_file),
        pairs=None,
        prompt={"max_document_tokens": 8},
        experiments={"flow": {"components": ["attn_out"], "regions": ["last"]}},
    )
    run = run_study(config, tmp_path / "run")
    assert len(run.rows("judge")) == N_PAIRS
    assert len(run.rows("flow")) == N_PAIRS * N_LAYERS


def document_text(pair: AlignedPair, run: str) -> str:
    prompt = pair.clean if run == "clean" else pair.corrupted
    characters = prompt.characters["document"]
    return prompt.text[characters.start : characters.stop]


def test_random_negatives_can_be_chosen(tiny_model_folder: Path, pair_file: Path) -> None:
    for kind, begins in (("hard", "number "), ("random", "at random ")):
        config = tiny_config(tiny_model_folder, data=str(pair_file), negatives=kind, pairs=10)
        prepared = prepare(config, Silent())
        assert {pair.negative_kind for pair in prepared.loaded.pairs} == {kind}
        assert all(document_text(pair, "corrupted").startswith(begins) for pair in prepared.aligned)


def test_several_negatives_of_a_query_can_be_chosen(tiny_model_folder: Path, pair_file: Path) -> None:
    config = tiny_config(tiny_model_folder, data=str(pair_file), negatives={"per_query": 2}, pairs=10)
    pairs = prepare(config, Silent()).aligned
    assert len({pair.query_id for pair in pairs}) == 5
    assert len({pair.pair_id for pair in pairs}) == 10


def test_prompts_keep_their_natural_lengths_and_nothing_is_repeated_to_fill_them(
    tiny_model_folder: Path, pair_file: Path
) -> None:
    config = tiny_config(tiny_model_folder, data=str(pair_file), pairs=16, prompt={"max_document_tokens": 512})
    prepared = prepare(config, Silent())
    assert len({len(pair.clean.ids) for pair in prepared.aligned}) > 3
    loaded = {pair.pair_id: pair for pair in prepared.loaded.pairs}
    for pair in prepared.aligned:
        for run, whole in (("clean", "positive_text"), ("corrupted", "negative_text")):
            document = document_text(pair, run)
            assert document
            assert getattr(loaded[pair.pair_id], whole).startswith(document)


def test_each_pair_is_patched_at_its_own_positions(tiny_model_folder: Path, pair_file: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_model_folder,
        data=str(pair_file),
        pairs=6,
        prompt={"max_document_tokens": 512},
        experiments={"heads": {"regions": ["query"]}},
    )
    prepared = prepare(config, Silent())
    places = {pair.pair_id: tuple(pair.clean.region("query")) for pair in prepared.aligned}
    assert len(set(places.values())) > 1
    reference = Reference(prepared.judge.model, "llama")
    rows = run_study(config, tmp_path / "run").rows("heads")
    for pair in prepared.aligned:
        here = rows[(rows["pair_id"] == pair.pair_id) & (rows["layer"] == 1) & (rows["head"] == 2)]
        values = reference.activations(pair.clean.ids, "z", 1)
        expected = reference.patched(pair.corrupted.ids, pair.answer_ids, "z", 1, 2, places[pair.pair_id], values)
        assert here["ld_patched"].item() == pytest.approx(expected, abs=1e-4)  # the bound of all families


def forward_passes(model: Any, action: Callable[[], object]) -> int:
    n_passes = 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    handle = model.register_forward_pre_hook(count)
    action()
    handle.remove()
    return n_passes


def test_more_sites_take_no_more_forward_passes(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tiny_config(tiny_model_folder, experiments={"heads": {"regions": ["last"]}})
    many = tiny_config(tiny_model_folder)
    prepared = prepare(few, Silent())
    replace(monkeypatch, "run", "prepare", lambda *_: prepared)
    counts = [
        forward_passes(prepared.judge.decoder, partial(run_study, config, tmp_path / name))
        for name, config in (("few", few), ("many", many))
    ]
    assert counts[0] == counts[1]
    # Two recorded runs for each of 3 pairs, their batched verdicts, and the lints' three prompts.
    assert counts[0] <= 2 * 3 + 2 * 3 + 3
    n_sites = sum(len(sites) for sites in many.sites(N_LAYERS, N_HEADS).values())
    assert counts[1] < n_sites / 6


def test_no_device_is_written_into_the_program() -> None:
    # `device.type == "cuda"`, which asks what there is, and words in help texts are no choice of a device.
    chosen = re.compile(r"""\.cuda\(|\.to\(\s*["']|device\s*=\s*["'](?!auto)|torch\.device\(\s*["'](?!cpu)""")
    sources = sorted(Path(relscope.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sources
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if chosen.search(line)
    ]
    assert found == []


def test_the_device_of_the_configuration_is_where_the_model_runs(tiny_model_folder: Path) -> None:
    judge = prepare(tiny_config(tiny_model_folder, device="auto"), Silent()).judge
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert judge.device.type == ("cpu" if accelerator is None else accelerator.type)
    assert prepare(tiny_config(tiny_model_folder, device="cpu"), Silent()).judge.device.type == "cpu"
