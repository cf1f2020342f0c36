"""Tiny tokenizers of every style in use, trained on a few sentences, with chat templates of every temper."""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

SENTENCES = [
    "Document: The cat sat on the mat near the river.\n\nQuery: where did the cat sit?\n\n",
    "Document A: Bread rises because yeast makes gas.\n\nDocument B: Salt slows the yeast down.\n\n",
    "Does the document answer the query? Only output 'yes' or 'no'.",
    "Is document A more relevant to the query? Only output 'yes' or 'no'.",
    "Answer: yes\nAnswer: no\nuser\nassistant\nsystem\n yes no yes no.\n\n yes.\n\n no.\n\n",
    "A river of 12 km and 345 m, in 2019; a na\u00efve caf\u00e9 by the sea.\n",
]
CORPUS = SENTENCES * 20

# Splits words, digits and line breaks as Llama 3 and Qwen do: punctuation takes the line breaks after it along.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{# thinking #}{% endif %}"
)
# as Qwen 3: an empty thought goes before the answer
THINKING = CHATML.replace(
    "{# thinking #}",
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
# writes BOS, trims, has a system turn only where one is given
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# a system turn inside the user's turn, and a space before the assistant's words
LLAMA2 = (
    "{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system = '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ns.system + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role'])"
    " + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# control tokens that are not marked special, and are put together in the template
PIECED = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _wrap(tokenizer: Tokenizer, template: str | None = None, **special: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = template
    return wrapped


def _byte_level(special: list[str], vocabulary: int = 700) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def gpt2(add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE without a chat template, offsets trimmed, nothing put before the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.train_from_iterator(CORPUS, _byte_level(["<|endoftext|>"]))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def smol() -> PreTrainedTokenizerFast:
    """Byte-level BPE with digits apart and ChatML; a default system turn; no trimming."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.train_from_iterator(CORPUS, _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer, CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>")


def qwen() -> PreTrainedTokenizerFast:
    """NFC, added tokens outside the model's vocabulary; `<think>` is an added token that is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(CORPUS, _byte_level([]))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<h1>")])
    return _wrap(tokenizer, THINKING, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3() -> PreTrainedTokenizerFast:
    """Takes whole words from the vocabulary (ignore_merges); BOS is added by template and tokenizer alike."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(CORPUS, _byte_level([]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[bos]),
        ]
    )
    return _wrap(tokenizer, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def _sentencepiece_bpe(special: list[str]) -> Tokenizer:
    """BPE over whole texts with byte fallback; trained on words, so that merges stay inside them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n]+|\n+|▁"), "isolated")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + fallback, show_progress=False)
    tokenizer.train_from_iterator([" " + text for text in CORPUS], trainer)
    tokenizer.pre_tokenizer = None
    specification = json.loads(tokenizer.to_str())
    specification["added_tokens"] = [token for token in specification["added_tokens"] if token["id"] < len(special)]
    return Tokenizer.from_str(json.dumps(specification))


def llama2() -> PreTrainedTokenizerFast:
    """Puts a space before every stretch of text (also behind control tokens), and BOS before the prompt."""
    tokenizer = _sentencepiece_bpe(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrap(tokenizer, LLAMA2, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def llama2_metaspace() -> PreTrainedTokenizerFast:
    """The same model as transformers itself loads it: the space is put before by a pre-tokenizer."""
    model = json.loads(llama2().backend_tokenizer.to_str())["model"]
    tokenizer = LlamaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    tokenizer.chat_template = LLAMA2
    return tokenizer


def gemma() -> PreTrainedTokenizerFast:
    """Spaces become ▁ with none put before; line breaks are added tokens; refuses a system turn."""
    tokenizer = _sentencepiece_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n", "\n\n", "<table>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrap(tokenizer, GEMMA, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def unigram() -> PreTrainedTokenizerFast:
    """Unigram with Metaspace; its control tokens are in the model's vocabulary; unknown characters give <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for text in CORPUS for word in (text, "yes", "no", "yes", "no")], trainer)
    tokenizer.decoder = decoders.Metaspace()
    return _wrap(tokenizer, PIECED, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    """Lower case, white space dropped; control tokens that are not special, matched in normalised text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in ("user", "assistant", "end")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return _wrap(tokenizer, PIECED, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


ZOO: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": gpt2,
    "gpt2-prefix-space": lambda: gpt2(add_prefix_space=True),
    "smol": smol,
    "qwen": qwen,
    "llama3": llama3,
    "llama2": llama2,
    "llama2-metaspace": llama2_metaspace,
    "gemma": gemma,
    "unigram": unigram,
    "wordpiece": wordpiece,
}
