"""The recipe of the bundled judge: its readers, on small files of the same formats; and its configuration."""

from __future__ import annotations

import gzip
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from relscope.study import read_yaml
from relscope.tuning import TuneConfig

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "smoljudge"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", RECIPE / "prepare_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_configuration_is_one_that_tune_takes_and_every_source_is_credited() -> None:
    config = TuneConfig.from_mapping(read_yaml(RECIPE / "tune.yaml"), "tune.yaml")
    assert config.model == "smollm2-135m"
    assert all(source.licence and source.credit for source in config.data)
    names = " ".join(source.data for source in config.data).lower()
    # data that judges are evaluated on
    assert not any(word in names for word in ("demo", "marco", "natural"))


def test_a_noun_is_told_from_its_sisters_by_its_gloss(recipe: ModuleType, tmp_path: Path) -> None:
    def noun(offset: int, word: str, pointers: str, gloss: str) -> str:
        n_pointers = len(pointers.split("@")) - 1
        return f"{offset:08d} 05 n 01 {word} 0 {n_pointers:03d} {pointers} | {gloss}  "

    (tmp_path / "data.noun").write_text(
        "  1 a licence line\n"
        + noun(1, "bird", "", "an animal with feathers and wings that lays eggs") + "\n"
        + noun(2, "tree_creeper", "@ 00000001 n 0000", 'a small brown bird that climbs trees; "it crept"') + "\n"
        + noun(3, "wren", "@ 00000001 n 0000", "a very small bird with a short upright tail") + "\n"
        + noun(4, "owl", "@ 00000001 n 0000", "a bird of prey that hunts by night") + "\n"
    )  # fmt: skip
    # seen often enough that the draw takes at least one
    (tmp_path / "index.noun").write_text("tree_creeper n 1 1 @ 1 1 00000002  \n" * 40)
    (row,) = recipe.wordnet(tmp_path)
    assert "tree creeper" in row["query"]
    assert "a small brown bird that climbs trees" in row["positive_document"].lower()
    assert "it crept" not in row["positive_document"]
    assert len(row["hard_negative_document"]) == 2
    assert {text.split()[0].strip(".:").lower() for text in row["hard_negative_document"]} == {"wren", "owl"}


def test_articles_of_the_dictionary_lose_their_markup(recipe: ModuleType, tmp_path: Path) -> None:
    articles = "".join(
        f"\nterm {name}\n\n   <programming> A thing called term {name}, which is used with {{another thing}}\n"
        "   by people who like things of that kind very much.\n\n   (1994-11-08)\n"
        for name in "abcdefghijklmnop"
    )
    with gzip.open(tmp_path / "foldoc.dict.dz", "wt") as stream:
        stream.write(articles)
    entries = list(recipe.foldoc(tmp_path))
    assert 1 <= len(entries) < 16  # a share of them is drawn
    for entry in entries:
        assert "<" not in entry.passage
        assert "{" not in entry.passage
        assert "1994" not in entry.passage
        assert "another thing by people" in entry.passage


def test_hard_negatives_are_neighbours_that_do_not_hold_the_query(recipe: ModuleType) -> None:
    entries = [
        recipe.Entry("red fox", "The red fox lives in woods and in towns and eats nearly anything."),
        recipe.Entry("arctic fox", "The arctic fox lives in the far north, and turns white in winter."),
        recipe.Entry("fennec", "The fennec is the smallest fox; the red fox is the largest of them."),
    ]
    rows = {row["query"]: row for row in recipe.with_neighbours(entries)}
    assert rows["red fox"]["hard_negative_document"] == [entries[1].passage]


def test_a_passage_is_whole_sentences_and_never_short(recipe: ModuleType) -> None:
    sentence = "one two three four five six seven eight nine ten. "
    assert recipe.cut("too short to say anything") == ""
    assert recipe.cut(sentence * 2) == (sentence * 2).strip()
    assert recipe.cut(sentence * 20) == (sentence * 12).strip()


def test_a_gloss_is_written_in_one_style_for_a_passage_and_its_negatives(recipe: ModuleType) -> None:
    for seed in range(8):
        state = recipe.statement(random.Random(seed), False)
        one = state("wren", "a small bird").lower().replace("wren", "X").replace("a small bird", "Y")
        other = state("owl", "a bird of prey").lower().replace("owl", "X").replace("a bird of prey", "Y")
        assert one == other
        assert one.startswith("X")
