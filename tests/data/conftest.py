"""Where the small collection of these tests lies, and how the tests write files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def shared_data() -> Path:
    """The folder of data that may be used but not distributed; skipped where it is not at hand."""
    beside = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("RELSCOPE_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip("needs data beside the repository; say where with RELSCOPE_SHARED")
    return folder


@pytest.fixture
def trec_folder() -> Path:
    """Twelve passages, three topics and their qrels as TREC files."""
    return FIXTURES / "trec"


@pytest.fixture
def beir_folder() -> Path:
    """The same collection as a BEIR folder."""
    return FIXTURES / "beir"


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write objects (or raw lines, as they are) to a JSONL file."""

    def write(*records: dict[str, Any] | str | bytes, name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        lines = [record if isinstance(record, bytes) else _line(record) for record in records]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


def _line(record: dict[str, Any] | str) -> bytes:
    return (record if isinstance(record, str) else json.dumps(record)).encode()
