"""What does a BEIR folder hold?

`corpus.jsonl` (`_id`, `text`, optional `title`: put before the text), `queries.jsonl` (`_id`, `text`) and
`qrels/SPLIT.tsv` (query id, document id, grade; usually under a header line). Each file may be gzipped.
"""

from __future__ import annotations

from pathlib import Path

from relscope.data.collection import Collection
from relscope.data.files import existing, integer, read_lines, read_objects, string_field
from relscope.data.text import clean_text
from relscope.errors import InputError


def load_beir(folder: str | Path, split: str | None = None) -> Collection:
    """Read a BEIR folder; queries that the split does not judge are left out.

    Args:
        folder: holds corpus.jsonl, queries.jsonl and qrels/.
        split: the file in qrels/ without its ending; None: `test` if there is one, else the only one.

    Raises:
        InputError: a missing file, an unclear split, or a malformed line; names file, line and field.
    """
    folder = Path(folder)
    qrels = _read_qrels(_split_file(folder, split))
    texts = _read_texts(_one_file(folder, "queries.jsonl"))
    queries = {query_id: text for query_id, text in texts.items() if query_id in qrels}
    documents = _read_texts(_one_file(folder, "corpus.jsonl"))
    return Collection(folder.resolve().name, queries, documents, qrels)


def _one_file(folder: Path, name: str) -> Path:
    found = existing(folder, name)
    if not found:
        raise InputError(f"{folder}: a BEIR folder must hold {name} (or {name}.gz)")
    return found[0]


def _split_file(folder: Path, split: str | None) -> Path:
    files = {
        path.name.split(".tsv")[0]: path
        for path in sorted((folder / "qrels").glob("*.tsv*"))
        if path.name.endswith((".tsv", ".tsv.gz"))
    }
    if not files:
        raise InputError(f"{folder}: a BEIR folder must hold qrels/SPLIT.tsv, for example qrels/test.tsv")
    choices = ", ".join(files)
    if split is not None and split not in files:
        raise InputError(f'{folder}: there is no split "{split}" in qrels/; choose from: {choices}')
    if split is None and len(files) > 1 and "test" not in files:
        raise InputError(f'{folder}: which split? Write "{folder}:SPLIT" with one of: {choices}')
    if split is None:
        split = "test" if "test" in files else next(iter(files))
    return files[split]


def _read_texts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, record in read_objects(path):
        text_id = clean_text(string_field(record, "_id", path, number))
        if not text_id:
            raise InputError(f'{path}, line {number}, field "_id": is empty')
        if text_id in texts:
            raise InputError(f'{path}, line {number}, field "_id": "{text_id}" occurs twice; ids must be unique')
        text = string_field(record, "text", path, number)
        title = string_field(record, "title", path, number) if record.get("title") is not None else ""
        texts[text_id] = clean_text(f"{title.strip()} {text}")
    if not texts:
        raise InputError(f"{path}: holds no lines")
    return texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 3:
            raise InputError(
                f"{path}, line {number}: must have 3 columns with tabs between them "
                f"(query id, document id, grade), but has {len(columns)}"
            )
        if number == 1 and columns[2].lower() == "score":
            continue
        query_id, doc_id, grade_text = columns
        grade = integer(grade_text, "the grade (column 3)", path, number)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise InputError(
                f'{path}, line {number}: document "{doc_id}" is judged twice for query "{query_id}", '
                f"with {qrels[query_id][doc_id]} and {grade}"
            )
    if not qrels:
        raise InputError(f"{path}: holds no judgements")
    return qrels
