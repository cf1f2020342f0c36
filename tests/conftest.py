"""What the tests share: a tiny tokenizer, the embedded model, and run-time checks of every shape annotation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

# Tiny models are quickest on one thread, and with more they come to a crawl wherever something else runs besides.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything of relscope is imported: annotations of these rooms are then checked at every call.
_CHECKED = ["relscope.models", "relscope.interventions", "relscope.analysis"]
jaxtyping.install_import_hook(_CHECKED, "beartype.beartype")

from relscope.errors import InputError  # noqa: E402

_SENTENCES = [
    "Document: The cat sat on the mat near the river.\n\nQuery: where did the cat sit?\n\n",
    "Document A: Bread rises because yeast makes gas.\n\nDocument B: The dog ran to the hill.\n\n",
    "Does the document answer the query? Only output 'yes' or 'no'.\n",
    "Is document A more relevant to the query? Only output 'yes' or 'no'.\n",
    "\nAnswer: yes\nAnswer: no\n yes no Yes No yes no\nuser\nassistant\nsystem\n",
]
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE of some 400 tokens with a chat template; `yes` and `no` are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES * 10, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    wrapped.chat_template = _CHATML
    return wrapped


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The embedded model's folder, fetched and converted into the user's cache the first time."""
    from relscope.models.embedded import embedded_folder

    try:
        return embedded_folder("smollm2-135m")
    except InputError as failure:
        pytest.skip(f"the embedded model is not to be had: {failure}")


@pytest.fixture(scope="session")
def embedded_judge(smollm2_folder: Path) -> Any:
    """The embedded judge, a real instruct model, in float32 on the CPU."""
    from relscope.models import load_judge

    assert smollm2_folder.is_dir()
    return load_judge("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_folder: Path) -> Any:
    """The embedded model's tokenizer, without its weights."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of experiment data: `RELSCOPE_SHARED`, or a folder `shared` beside the checkout."""
    named = os.environ.get("RELSCOPE_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no experiment data: RELSCOPE_SHARED is not set and {folder} does not exist")
    return folder
