"""What is plainly wrong is refused before torch is loaded, which takes many seconds on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run_python

SEVERAL = """
import sys
from relscope.cli import main
for words in sys.argv[1:]:
    sys.argv = ["relscope", *words.split()]
    try:
        main()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
print("imported:", *({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""

REFUSED = [
    ("run --experiments foo", "experiment 'foo' does not exist: did you mean 'flow'? (one of: flow, heads, edges, "),
    ("run --dtype int8", "dtype: 'int8' does not exist: use one of: auto, float32, bfloat16-weights"),
    ("run --data nothing.jsonl", "nothing.jsonl: there is no such file"),
    ("run --out file/run", "file/run: cannot make this folder (Not a directory)"),
    ("plan --regions lst", "region 'lst' does not exist: did you mean 'last'? (one of: query, document, "),
    ("rerank --method pointwize", "method: 'pointwize' does not exist: did you mean 'pointwise'? (one of: pointwise"),
    ("ablate file --kind means", "kind: 'means' does not exist: did you mean 'mean'? (one of: mean, zero, resample)"),
    ("ablate file --out file", "file: is a file; give a folder for the ablation"),
    ("circuit file --by size", "by: 'size' does not exist: use one of: magnitude, effect"),
    ("compare-models smollm2-135m smoljudge --prompt dqi", "prompt: 'dqi' does not exist"),
    ("evaluate smoljudge --prompt pairwise-qdi", "a pairwise prompt is pairwise-dqi or pairwise-idq"),
    ("tune --data nothing.json --dtype int8", "dtype: 'int8' does not exist"),
    ("run --precision exakt", "precision: 'exakt' does not exist: did you mean 'exact'? (one of: auto, exact, delta)"),
    ("run --prompt pontwise-dqi", "prompt: 'pontwise-dqi' does not exist: did you mean 'pointwise-dqi'? (one of: "),
    ("run --filter corect", "filter: 'corect' does not exist: did you mean 'correct'? (one of: all, correct)"),
    ("run --direction nois", "direction: 'nois' does not exist: did you mean 'noise'? (one of: denoise, noise)"),
    ("run --negatives hrad", "negatives.kind: 'hrad' does not exist: did you mean 'hard'? (one of: hard, random)"),
    ("run --data nothing", "nothing: there is no such data; give \"demo\", a file of pairs"),
    ("run --out file", "file: is a file; give a folder for the run"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    return tmp_path


def test_what_is_plainly_wrong_is_refused_before_torch_is_imported(here: Path) -> None:
    outcome = run_python(SEVERAL, *(words for words, _ in REFUSED))
    *said, imported = outcome.err.splitlines()
    refusals = [line for line in said if line != "status 2"]
    assert said.count("status 2") == len(refusals) == len(REFUSED), outcome.err
    for (words, message), refusal in zip(REFUSED, refusals, strict=True):
        assert message in refusal, words
    assert imported == "imported:"
    assert sorted(path.name for path in here.iterdir()) == ["file", "pairs.jsonl"]
