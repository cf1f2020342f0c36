"""Relevance pairs, test collections with judgements, and the negatives that pairs need.

Start at `load_pairs` and `load_collection` (in `sources`, with the table of what can be read). Importing
this package loads neither torch nor bm25s nor pandas.
"""

from relscope.data.beir import load_beir
from relscope.data.collection import Collection
from relscope.data.first_stage import FirstStage, LeftOut, first_stage, qrels_sha256, texts_sha256
from relscope.data.irds import load_irds
from relscope.data.jsonl import pairs_from_jsonl
from relscope.data.negatives import Bm25, NegativeSampling
from relscope.data.pairs import PairSet, Refusal, RelevancePair, pairs_from_collection, pairs_sha256
from relscope.data.sources import is_pair_file, load_collection, load_pairs, require_source
from relscope.data.squad import load_squad
from relscope.data.text import MAX_DOCUMENT_CHARACTERS, MAX_QUERY_CHARACTERS
from relscope.data.trec import load_trec, qrels_text, read_run, run_text

__all__ = [
    "MAX_DOCUMENT_CHARACTERS",
    "MAX_QUERY_CHARACTERS",
    "Bm25",
    "Collection",
    "FirstStage",
    "LeftOut",
    "NegativeSampling",
    "PairSet",
    "Refusal",
    "RelevancePair",
    "first_stage",
    "is_pair_file",
    "load_beir",
    "load_collection",
    "load_irds",
    "load_pairs",
    "load_squad",
    "load_trec",
    "pairs_from_collection",
    "pairs_from_jsonl",
    "pairs_sha256",
    "qrels_sha256",
    "qrels_text",
    "read_run",
    "require_source",
    "run_text",
    "texts_sha256",
]
