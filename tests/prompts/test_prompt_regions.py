"""Regions are sets of positions worked out from the spans."""

from __future__ import annotations

import pickle

import pytest

from relscope.errors import InputError
from relscope.prompts import DEFAULT_REGIONS, REGIONS, Prompt, Span

# <bos> Doc: | the cat | Q: | who | So ? | Answer:
POINTWISE = Prompt(
    ids=(0, 1, 2, 3, 4, 5, 6, 7, 8),
    text="Doc: the cat Q: who So? Answer:",
    offsets=((0, 0), (0, 4), (4, 8), (8, 12), (12, 15), (15, 19), (19, 22), (22, 23), (23, 31)),
    parts={"document": Span(2, 4), "query": Span(5, 6), "instruction": Span(6, 8)},
    characters={"document": Span(5, 12), "query": Span(16, 19), "instruction": Span(20, 23)},
)
# So | A: | x y | B: | z | Q: | who
PAIRWISE = Prompt(
    ids=(0, 1, 2, 3, 4, 5, 6, 7),
    text="So A: x y B: z Q: who",
    offsets=((0, 2), (2, 5), (5, 7), (7, 9), (9, 12), (12, 14), (14, 17), (17, 21)),
    parts={"instruction": Span(0, 1), "document_a": Span(2, 4), "document_b": Span(5, 6), "query": Span(7, 8)},
    characters={},
)


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("query", (5,)),
        ("document", (2, 3)),
        ("instruction", (6, 7)),
        ("last", (8,)),
        ("all", (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        ("other", (0, 1, 4)),
        ("document.first", (2,)),
        ("document.last", (3,)),
        ("query.first", (5,)),
        ("query.last", (5,)),
        ("instruction.first", (6,)),
        ("instruction.last", (7,)),
    ],
)
def test_regions_of_a_pointwise_prompt(name: str, positions: tuple[int, ...]) -> None:
    assert POINTWISE.region(name) == positions


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("document", (2, 3, 5)),
        ("document_a", (2, 3)),
        ("document_b", (5,)),
        ("document.first", (2,)),
        ("document.last", (5,)),
        ("document_a.last", (3,)),
        ("document_b.first", (5,)),
        ("last", (7,)),
        ("query", (7,)),
        ("other", (1, 4, 6)),
    ],
)
def test_regions_of_a_pairwise_prompt(name: str, positions: tuple[int, ...]) -> None:
    assert PAIRWISE.region(name) == positions


def test_query_document_instruction_last_and_other_cover_every_position() -> None:
    for prompt in (POINTWISE, PAIRWISE):
        names = ("query", "document", "instruction", "last", "other")
        assert {position for name in names for position in prompt.region(name)} == set(range(len(prompt)))


@pytest.mark.parametrize("prompt", [POINTWISE, PAIRWISE])
def test_each_position_has_one_region_of_the_partition(prompt: Prompt) -> None:
    found = prompt.partition()
    assert found[-1] == "last"  # also where the last token lies in a part, as in the pairwise prompt
    for name in ("query", *prompt.documents, "instruction", "other"):
        assert [p for p, of in enumerate(found) if of == name] == [p for p in prompt.region(name) if p < len(found) - 1]


def test_every_listed_region_is_known() -> None:
    assert len(REGIONS) == len(set(REGIONS))
    assert set(DEFAULT_REGIONS) <= set(REGIONS)
    for name in REGIONS:
        assert PAIRWISE.region(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qeury", "region 'qeury' does not exist: did you mean 'query'"),
        ("Document", "did you mean 'document'"),
        ("query.frist", "did you mean 'query.first'"),
        ("last.first", "does not exist"),
        ("", "use one of: query, document"),
        ("document_a", "does not exist in a pointwise prompt"),
        ("document_b.first", "does not exist in a pointwise prompt"),
    ],
)
def test_an_unknown_region_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        POINTWISE.region(name)
    assert message in str(caught.value)


def test_segments_are_the_text_cut_where_the_region_changes() -> None:
    assert POINTWISE.segments() == [
        ("Doc:", "other"),
        (" the cat", "document"),
        (" Q:", "other"),
        (" who", "query"),
        (" So?", "instruction"),
        (" Answer:", "last"),
    ]
    assert [region for _, region in PAIRWISE.segments()] == [
        "instruction", "other", "document_a", "other", "document_b", "other", "last",
    ]  # fmt: skip


def test_characters_that_no_token_holds_are_not_lost_from_segments() -> None:
    # "?" was dropped by a normaliser, and so was the end of the text; an emoji's two tokens share it
    prompt = Prompt(
        ids=(1, 2, 3, 4),
        text="a?\U0001f600b!",
        offsets=((0, 1), (2, 3), (2, 3), (3, 4)),
        parts={"document": Span(0, 1), "query": Span(1, 3), "instruction": Span(3, 4)},
        characters={},
    )
    assert prompt.segments() == [("a", "document"), ("?\U0001f600", "query"), ("b!", "last")]


def test_a_span_is_half_open() -> None:
    span = Span(2, 5)
    assert (len(span), list(span), 4 in span, 5 in span, 1 in span) == (3, [2, 3, 4], True, False, False)
    assert len(Span(2, 2)) == 0


@pytest.mark.parametrize(("start", "stop"), [(3, 2), (-1, 2)])
def test_a_span_that_runs_backwards_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        Span(start, stop)


def test_prompts_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(POINTWISE)) == POINTWISE
