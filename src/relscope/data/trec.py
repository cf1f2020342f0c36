"""What do TREC files (topics, qrels, a run, and passages as TSV) hold together?

Either a folder with the usual names, or a YAML or JSON file that names the files, relative to itself:

    topics: topics.tsv      # id<TAB>text, or classic <top> blocks, whose titles are the queries
    qrels: qrels.txt        # query 0 document grade
    passages: passages.tsv  # id<TAB>text
    run: run.txt            # optional: query Q0 document rank value tag; hard negatives come from it instead
        of BM25
    name: my-collection     # optional

Each file may be gzipped. A run is ordered by value, highest first, as trec_eval does it; equal values by
rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relscope.data.collection import Collection
from relscope.data.files import existing, integer, read_lines, shorten
from relscope.data.text import clean_text
from relscope.errors import InputError, did_you_mean

FILE_NAMES = {
    "topics": ("topics.tsv", "topics.txt"),
    "qrels": ("qrels.txt", "qrels.tsv"),
    "passages": ("passages.tsv", "collection.tsv"),
    "run": ("run.txt", "run.trec"),
}
# TREC's classic fields anywhere, others only where a line begins: a title may hold "a<b and c>d"
_TAG = re.compile(r"<(/?)(top|num|dom|title|desc|smry|narr|con|fac|def|nat)>|^\s*<(/?)([a-z]+)[^<>]*>", re.IGNORECASE)


def load_trec(source: str | Path) -> Collection:
    """Read a folder of TREC files, or the files that a YAML or JSON specification names.

    Topics that no judgement mentions stay in the collection: pairs made from it refuse them by name.

    Raises:
        InputError: a missing or ambiguous file, an unknown key, or a malformed line; names file, line and
            column.
    """
    source = Path(source)
    name, files = _files_of_folder(source) if source.is_dir() else _files_of_specification(source)
    return Collection(
        name,
        _read_topics(files["topics"]),
        _read_passages(files["passages"]),
        _read_qrels(files["qrels"]),
        read_run(files["run"]) if "run" in files else None,
    )


def is_trec_folder(folder: Path) -> bool:
    """Whether the folder holds passages under one of the usual names."""
    return bool(existing(folder, *FILE_NAMES["passages"]))


def _files_of_folder(folder: Path) -> tuple[str, dict[str, Path]]:
    files = {}
    for part, names in FILE_NAMES.items():
        found = existing(folder, *names)
        if len(found) > 1:
            both = " and ".join(path.name for path in found)
            raise InputError(f"{folder}: holds {both}; keep one, or name the files in a YAML specification")
        if found:
            files[part] = found[0]
        elif part != "run":
            raise InputError(f"{folder}: a TREC folder must hold {' or '.join(names)} (or with .gz)")
    return folder.resolve().name, files


def _files_of_specification(path: Path) -> tuple[str, dict[str, Path]]:
    import yaml

    text = "\n".join(line for _, line in read_lines(path))
    try:
        spec: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({shorten(str(error), 120)})") from error
    keys = [*FILE_NAMES, "name"]
    if not isinstance(spec, dict):
        raise InputError(f"{path}: must hold the keys topics, qrels, passages and, if there is one, run")
    for key, value in spec.items():
        if key not in keys:
            raise InputError(f'{path}: unknown key "{key}": {did_you_mean(str(key), keys)}')
        if not isinstance(value, str):
            raise InputError(f'{path}, key "{key}": must be a {"name" if key == "name" else "file name"}')
    missing = [part for part in FILE_NAMES if part != "run" and part not in spec]
    if missing:
        raise InputError(f'{path}: key "{missing[0]}" is missing; it must name a file')
    files = {part: path.parent / spec[part] for part in FILE_NAMES if part in spec}
    return spec.get("name", path.stem), files


def _read_passages(path: Path) -> dict[str, str]:
    return _read_pairs_of_texts(path, read_lines(path), "document")


def _read_topics(path: Path) -> dict[str, str]:
    lines = list(read_lines(path))
    if any(line.lstrip().lower().startswith("<top>") for _, line in lines):
        return _unique(path, _classic_topics(path, lines), "query")
    return _read_pairs_of_texts(path, lines, "query")


def _read_pairs_of_texts(path: Path, lines: Iterable[tuple[int, str]], what: str) -> dict[str, str]:
    def rows() -> Iterator[tuple[int, str, str]]:
        for number, line in lines:
            text_id, tab, text = line.partition("\t")
            if not tab:
                raise InputError(
                    f"{path}, line {number}: must be the {what}'s id, a tab and its text, "
                    f'but has no tab: "{shorten(line)}"'
                )
            yield number, text_id.strip(), text

    return _unique(path, rows(), what)


def _unique(path: Path, rows: Iterable[tuple[int, str, str]], what: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, text_id, text in rows:
        if not text_id:
            raise InputError(f"{path}, line {number}: the {what}'s id is empty")
        if text_id in texts:
            raise InputError(f'{path}, line {number}: the {what} id "{text_id}" occurs twice; ids must be unique')
        texts[text_id] = clean_text(text)
    if not texts:
        raise InputError(f"{path}: holds no lines")
    return texts


def _classic_topics(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """Yield (line, number, title) of each <top> block; a field ends at the next tag."""
    start, tag = 0, ""
    fields: dict[str, list[str]] = {}
    for number, line in lines:
        position = 0
        for match in _TAG.finditer(line):
            fields.setdefault(tag, []).append(line[position : match.start()])
            position = match.end()
            closing, tag = bool(match[1] or match[3]), (match[2] or match[4]).lower()
            if tag == "top" and not closing:
                if start:
                    raise InputError(f"{path}, line {start}: the <top> that begins here has no </top>")
                start, fields = number, {}
            elif tag == "top":
                if not start:
                    raise InputError(f"{path}, line {number}: this </top> has no <top> before it")
                yield start, *_classic_topic(path, start, fields)
                start, fields = 0, {}
            if closing:
                tag = ""
        fields.setdefault(tag, []).append(line[position:])
    if start:
        raise InputError(f"{path}, line {start}: the <top> that begins here has no </top>")


def _classic_topic(path: Path, start: int, fields: dict[str, list[str]]) -> tuple[str, str]:
    values = []
    for tag, label in (("num", "Number:"), ("title", "Topic:")):
        value = " ".join(" ".join(fields.get(tag, ())).split())
        value = value.removeprefix(label).strip()
        if not value:
            raise InputError(f"{path}, line {start}: the <top> that begins here has no <{tag}>")
        values.append(value)
    return values[0], values[1]


def _columns(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path):
        columns = line.split()
        if len(columns) != len(names):
            raise InputError(
                f"{path}, line {number}: must have {len(names)} columns ({' '.join(names)}), "
                f'but has {len(columns)}: "{shorten(line)}"'
            )
        yield number, columns


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, (query_id, _, doc_id, grade_text) in _columns(path, ("query", "0", "document", "grade")):
        grade = integer(grade_text, "the grade (column 4)", path, number)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise InputError(
                f'{path}, line {number}: document "{doc_id}" is judged twice for query "{query_id}", '
                f"with {qrels[query_id][doc_id]} and {grade}"
            )
    if not qrels:
        raise InputError(f"{path}: holds no judgements")
    return qrels


def read_run(path: Path) -> dict[str, list[str]]:
    """The document ids of each query in a TREC run file, best first.

    Raises:
        InputError: the file cannot be read, a line is malformed, or a document is ranked twice.
    """
    keys: dict[str, dict[str, tuple[float, int]]] = {}
    names = ("query", "Q0", "document", "rank", "value", "tag")
    for number, (query_id, _, doc_id, rank_text, value_text, _) in _columns(path, names):
        rank = integer(rank_text, "the rank (column 4)", path, number)
        value = _finite(value_text, path, number)
        ranked = keys.setdefault(query_id, {})
        if doc_id in ranked:
            raise InputError(f'{path}, line {number}: document "{doc_id}" is ranked twice for query "{query_id}"')
        ranked[doc_id] = (-value, rank)
    return {query_id: sorted(ranked, key=ranked.__getitem__) for query_id, ranked in keys.items()}


def qrels_text(qrels: Mapping[str, Mapping[str, int]]) -> str:
    """The lines of a TREC qrels file: `query 0 document grade`.

    Raises:
        InputError: an id that a line cannot hold, because it is empty or has white space in it.
    """
    _check_ids({*qrels, *(doc_id for grades in qrels.values() for doc_id in grades)}, "qrels")
    return "".join(
        f"{query_id} 0 {doc_id} {grade}\n" for query_id, grades in qrels.items() for doc_id, grade in grades.items()
    )


def run_text(rankings: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> str:
    """The lines of a TREC run file: `query Q0 document rank value tag`, ranks from 1.

    trec_eval sorts by value alone, as float32: values must fall strictly from document to document.

    Raises:
        InputError: an id that a line cannot hold, because it is empty or has white space in it.
    """
    _check_ids({*rankings, *(doc_id for ranked in rankings.values() for doc_id, _ in ranked)}, "run")
    return "".join(
        f"{query_id} Q0 {doc_id} {rank} {value:.9g} {tag}\n"  # nine digits give back a float32
        for query_id, ranked in rankings.items()
        for rank, (doc_id, value) in enumerate(ranked, start=1)
    )


def _check_ids(text_ids: Iterable[str], kind: str) -> None:
    for text_id in text_ids:
        if not text_id or text_id.split() != [text_id]:
            raise InputError(
                f'a TREC {kind} file cannot hold the id "{shorten(text_id)}": ids have no white space there'
            )


def _finite(text: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f'{path}, line {number}: the value (column 5) must be a finite number, not "{shorten(text)}"')
    return value
