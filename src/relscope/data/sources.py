"""Which reader does a source need?

| source | what it is |
| --- | --- |
| `demo` | the bundled demo collection (a folder of that name is `./demo`) |
| `FILE.jsonl` | pairs that bring their negatives; as a collection, the passages of all of them: `jsonl` |
| a folder with corpus.jsonl, or `FOLDER:SPLIT` | a BEIR folder: `beir` |
| a folder with passages.tsv, or `FILE.yaml` | TREC files: `trec` |
| `FILE.json` with a field "data" | questions and paragraphs in SQuAD's format: `squad` |
| `ir_datasets:ID` | a data set of the ir_datasets catalogue: `irds` |

Compressed files end in `.gz`.
"""

from __future__ import annotations

from pathlib import Path

from relscope.data.beir import load_beir
from relscope.data.collection import Collection
from relscope.data.files import existing
from relscope.data.irds import load_irds
from relscope.data.jsonl import collection_from_jsonl, pairs_from_jsonl
from relscope.data.negatives import NegativeSampling
from relscope.data.pairs import PairSet, pairs_from_collection
from relscope.data.squad import is_squad, load_squad
from relscope.data.trec import is_trec_folder, load_trec
from relscope.errors import InputError

DEMO_FOLDER = Path(__file__).with_name("demo")
_IRDS_PREFIX = "ir_datasets:"
_CHOICES = (
    'give "demo", a file of pairs (FILE.jsonl), a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), a TREC folder '
    "(topics, qrels, passages.tsv) or its FILE.yaml, a FILE.json in SQuAD's format, or ir_datasets:ID"
)


def load_pairs(
    source: str | Path,
    *,
    negatives: NegativeSampling | None = None,
    limit: int | None = None,
    relevant_grade: int = 1,
) -> PairSet:
    """Pairs of any source (see the table above).

    Args:
        source: a `Path` is always a file or folder; a string may also be "demo" or "ir_datasets:ID".
        negatives: kind, number, seed and depth of the negatives; None: `NegativeSampling()`, one hard one a
            query.
        limit: at most so many pairs, the first ones; it changes no query's negatives.
        relevant_grade: the lowest grade that makes a document positive (collections only).

    Raises:
        InputError: whatever is wrong with the source or an option, in one line; also when there is no usable
            pair.
    """
    sampling = negatives or NegativeSampling()
    if is_pair_file(source):
        return pairs_from_jsonl(source, negatives=sampling, limit=limit)
    return pairs_from_collection(
        load_collection(source), negatives=sampling, limit=limit, relevant_grade=relevant_grade
    )


def load_collection(source: str | Path) -> Collection:
    """Collection of any source (see the table above).

    Raises:
        InputError: whatever is wrong with the source, in one line.
    """
    if source == "demo":
        demo = load_beir(DEMO_FOLDER)
        return Collection("demo", demo.queries, demo.documents, demo.qrels)
    if isinstance(source, str) and source.startswith(_IRDS_PREFIX):
        return load_irds(source.removeprefix(_IRDS_PREFIX))
    if is_pair_file(source):
        return collection_from_jsonl(source)
    return _load_path(*_path_of(source))


def require_source(source: str | Path) -> None:
    """Refuse a source that is not there, without reading it.

    Raises:
        InputError: there is no such file or folder.
    """
    if is_pair_file(source):
        if not Path(source).exists():
            raise InputError(f"{source}: there is no such file")
    elif source != "demo" and not (isinstance(source, str) and source.startswith(_IRDS_PREFIX)):
        _path_of(source)


def _path_of(source: str | Path) -> tuple[Path, str | None]:
    """The file or folder that a source names, and the split of `FOLDER:SPLIT`."""
    if Path(source).exists():
        return Path(source), None
    folder, colon, split = str(source).rpartition(":")
    if not colon or not Path(folder).is_dir():
        raise InputError(f"{source}: there is no such data; {_CHOICES}")
    return Path(folder), split


def _load_path(path: Path, split: str | None) -> Collection:
    if path.is_dir() and existing(path, "corpus.jsonl"):
        return load_beir(path, split)
    if split is not None:
        raise InputError(f'{path}: ":{split}" chooses a split of a BEIR folder, but it holds no corpus.jsonl')
    if path.suffix == ".json" and is_squad(path):
        return load_squad(path)
    if path.suffix in (".yaml", ".yml", ".json") or (path.is_dir() and is_trec_folder(path)):
        return load_trec(path)
    raise InputError(f"{path}: not a kind of data that can be read; {_CHOICES}")


def is_pair_file(source: str | Path) -> bool:
    """Whether a source is a file of pairs, rather than a collection."""
    return str(source).endswith((".jsonl", ".jsonl.gz")) and not Path(source).is_dir()
