"""One configuration, written in YAML in several ways or in Python; and which of its fields decide the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from relscope.errors import InputError
from relscope.prompts import DEFAULT_REGIONS
from relscope.study import (
    Edges,
    Experiments,
    Flow,
    Heads,
    Interaction,
    JointHeads,
    Negatives,
    StudyConfig,
    Vocabulary,
    read_yaml,
)

BOTH = Experiments(flow=Flow(), heads=Heads())
REPOSITORY = Path(__file__).resolve().parents[2]


def from_yaml(text: str) -> StudyConfig:
    return StudyConfig.from_mapping(yaml.safe_load(text) or {}, "study.yaml")


def test_an_empty_study_is_both_experiments_on_the_demo_with_the_embedded_model() -> None:
    config = from_yaml("")
    assert config == StudyConfig()
    assert (config.model, config.data, config.direction, config.filter) == ("smoljudge", "demo", "denoise", "all")
    assert config.experiments == BOTH
    assert config.experiments.flow is not None
    assert config.experiments.heads is not None
    assert config.experiments.flow.regions == DEFAULT_REGIONS == ("query", "document", "instruction", "last", "all")
    assert config.experiments.heads.regions == ("query", "instruction", "last")


@pytest.mark.parametrize(
    ("text", "experiments"),
    [
        ("experiments: heads", Experiments(heads=Heads())),
        ("experiments: [flow, heads]", BOTH),
        ("experiments:\n  flow:\n  heads:\n", BOTH),
        ("experiments: {heads: {}}", Experiments(heads=Heads())),
        ("experiments: {heads: {regions: last}}", Experiments(heads=Heads(regions=("last",)))),
        (
            "experiments:\n  - flow: {regions: [all]}\n  - heads",
            Experiments(flow=Flow(regions=("all",)), heads=Heads()),
        ),
        ("experiments:", BOTH),
        ("experiments: edges", Experiments(edges=Edges())),
        ("experiments: {edges: {edges: last <- query}}", Experiments(edges=Edges(edges=("last<-query",)))),
        ("experiments: [interaction, vocabulary]", Experiments(interaction=Interaction(), vocabulary=Vocabulary())),
        (
            "experiments:\n  - joint: {heads: [L012H3@last, L8H11@query]}\n  - vocabulary: {regions: last}",
            Experiments(
                joint=JointHeads(heads=("L12H3@last", "L8H11@query")), vocabulary=Vocabulary(regions=("last",))
            ),
        ),
        ("experiments: [heads, {joint: {top: 2}}]", Experiments(heads=Heads(), joint=JointHeads(top=2))),
    ],
)
def test_experiments_can_be_written_in_any_of_these_ways(text: str, experiments: Experiments) -> None:
    assert from_yaml(text).experiments == experiments


def test_sections_can_be_given_by_name() -> None:
    config = from_yaml("negatives: random\nprompt: pairwise-idq\n")
    assert config.negatives == Negatives(kind="random")
    assert (config.prompt.format, config.prompt.order) == ("pairwise", "idq")
    assert from_yaml("prompt: pairwise").prompt.order == "dqi"


def test_a_prompt_can_be_a_file_of_texts(tmp_path: Path) -> None:
    texts = tmp_path / "texts.yaml"
    texts.write_text("instruction: Relevant, yes or no?\n")
    assert StudyConfig(prompt=str(texts)).prompt.instruction == "Relevant, yes or no?"


def test_a_field_without_a_value_has_its_default() -> None:
    assert from_yaml("prompt:\nnegatives:\npairs:\nadapter:\nmodel:\n") == StudyConfig()


def test_a_name_given_twice_counts_once() -> None:
    config = from_yaml("experiments: {flow: {regions: [last, query, last], components: [mlp_out, mlp_out]}}")
    assert config.experiments.flow == Flow(regions=("last", "query"), components=("mlp_out",))
    assert len(config.sites(4, 4)["flow"]) == 2 * 4


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1GiB", 2**30),
        ("1.5 MiB", 3 * 2**19),
        ("500mb", 500_000_000),
        ("2048", 2048),
        ("7 KiB", 7 * 1024),
        (4096, 4096),
    ],
)
def test_memory_is_an_amount_with_a_unit_or_bytes(text: Any, n_bytes: int) -> None:
    assert StudyConfig(memory=text).memory == n_bytes


def test_every_problem_of_a_study_is_named_at_once() -> None:
    with pytest.raises(InputError) as refusal:
        from_yaml("modle: x\nnegatives: {depth: 0}\nexperiments: {flow: {regions: [lst]}}\nprompt: {ordr: x}")
    for problem in (
        "unknown field 'modle': did you mean 'model'?",
        "negatives.depth: should be greater than or equal to 1, not 0",
        "experiments.flow.regions: region 'lst' does not exist: did you mean 'last'?",
        "prompt: unknown field 'ordr': did you mean 'order'?",
    ):
        assert problem in str(refusal.value)
    assert str(refusal.value).startswith("study.yaml: ")


@pytest.mark.parametrize("region", ["document_a", "document_b.first"])
def test_regions_of_document_a_and_b_need_a_pairwise_prompt(region: str) -> None:
    experiments = {"heads": {"regions": [region]}}
    with pytest.raises(InputError, match=rf"experiments\.heads\.regions: region '{region}' does not exist in a point"):
        StudyConfig(experiments=experiments)
    assert StudyConfig(experiments=experiments, prompt="pairwise").experiments.heads == Heads(regions=(region,))


def test_a_configuration_cannot_be_changed() -> None:
    config = StudyConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


def test_in_python_an_experiment_that_is_none_is_not_run() -> None:
    assert set(StudyConfig(experiments=Experiments(flow=None, heads=Heads())).sites(2, 2)) == {"heads"}


PAPERS_EDGES = {
    # Of the paper's seven, those whose source does not stand behind their destination.
    "dqi": ["query<-document", "last<-document", "last<-query", "last<-instruction", "instruction<-query",
            "instruction<-document"],
    "qdi": ["last<-document", "last<-query", "last<-instruction", "instruction<-query", "instruction<-document"],
    "idq": ["query<-document", "last<-document", "last<-query", "last<-instruction", "query<-instruction"],
}  # fmt: skip


@pytest.mark.parametrize("order", PAPERS_EDGES)
def test_the_edges_of_the_paper_are_measured_where_attention_can_go(order: str) -> None:
    config = StudyConfig(prompt=f"pointwise-{order}", experiments="edges")
    assert list(config.edges) == PAPERS_EDGES[order]
    sites = config.sites(2, 3)["edges"]
    found = {(site.component, site.layer, site.head, f"{site.region}<-{site.src}") for site in sites}
    assert len(sites) == len(found) == len(PAPERS_EDGES[order]) * 2 * 2 * 3
    assert {edge for *_, edge in found} == set(PAPERS_EDGES[order])
    assert {component for component, *_ in found} == {"scores", "pattern"}
    # Named or left to the default, the same edges are the same study.
    named = StudyConfig(prompt=f"pointwise-{order}", experiments={"edges": {"edges": PAPERS_EDGES[order]}})
    assert named.identity() == config.identity()


@pytest.mark.parametrize(
    ("prompt", "edge"),
    [
        ("pointwise-qdi", "query<-document"),
        ("pointwise-dqi", "document<-query.first"),
        ("pointwise-idq", "instruction<-query"),
        ("pointwise-dqi", "instruction<-last"),
        ("pointwise-dqi", "query.first<-query.last"),
        ("pairwise-dqi", "document_a<-document_b.first"),
    ],
)
def test_an_edge_that_would_look_ahead_is_refused_with_the_reason(prompt: str, edge: str) -> None:
    dest, _, src = edge.partition("<-")
    reason = f"{src} stands behind {dest}, and attention looks back only"
    with pytest.raises(InputError, match=rf"edges\.edges: '{edge}' is impossible in the order '...': {reason}"):
        StudyConfig(prompt=prompt, experiments={"edges": {"edges": ["last<-document", edge]}})


@pytest.mark.parametrize(
    ("prompt", "edge"),
    [
        ("pointwise-qdi", "document<-query"),
        ("pointwise-dqi", "query<-query"),
        ("pointwise-dqi", "document.first<-other"),
        ("pointwise-dqi", "all<-last"),
        ("pairwise-dqi", "document_b<-document_a.last"),
        ("pairwise-dqi", "document<-document_b"),
    ],
)
def test_an_edge_that_some_token_can_look_along_is_taken(prompt: str, edge: str) -> None:
    assert StudyConfig(prompt=prompt, experiments={"edges": {"edges": edge}}).edges == (edge,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "edges: {edges: [query-document]}",
            r"edges\.edges: 'query-document' is no edge: write destination<-source",
        ),
        ("edges: {edges: [qeury<-document]}", r"edges\.edges: region 'qeury' does not exist: did you mean 'query'"),
        ("edges: {edges: [query<-document_a]}", r"edges\.edges: region 'document_a' does not exist in a pointwise"),
        ("edges: {edges: []}", r"edges\.edges: a list of names is needed, such as \[query<-document, last<-query\]"),
        ("edges: {components: [z]}", r"edges\.components: component 'z' does not exist: use one of: scores, pattern"),
        ("edges: {regions: [last]}", r"unknown field 'experiments\.edges\.regions'"),
        (
            "joint: {heads: [L3@last]}",
            r"joint\.heads: 'L3@last' names no head at a region: write for example L12H3",
        ),
        (
            "joint: {heads: [L3H1@lst]}",
            r"joint\.heads: head 'L3H1@lst': region 'lst' does not exist: did you mean 'last'",
        ),
        (
            "joint: {heads: [L3H1@document_b, L3H1@last]}",
            r"joint\.heads: region 'document_b' does not exist in a pointwise prompt",
        ),
        ("joint: {heads: [L3H1@last]}", r"joint: joint needs at least two heads, and heads names L3H1@last alone"),
        (
            "heads: {regions: [last]}, joint: {top: 1}",
            r"joint needs at least two heads, and takes one: the strongest at the only region of heads",
        ),
        ("joint: {top: 0}", r"joint\.top: should be greater than or equal to 1"),
        ("joint: {}", r"joint chooses its heads by their effects in the experiment heads, which is not chosen"),
        (
            "interaction: {regions: [last]}",
            r"unknown field 'experiments\.interaction\.regions': interaction has no options; leave it out$",
        ),
        ("vocabulary: {regions: [lst]}", r"vocabulary\.regions: region 'lst' does not exist: did you mean 'last'"),
    ],
)
def test_what_an_experiment_cannot_do_is_said_with_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_yaml(f"experiments: {{{text}}}")


def test_the_interaction_score_needs_the_query_behind_the_document() -> None:
    for prompt in ("pointwise-dqi", "pointwise-idq", "pairwise-dqi"):
        assert StudyConfig(prompt=prompt, experiments="interaction").experiments.interaction == Interaction()
    with pytest.raises(InputError, match=r"experiments\.interaction: needs the query behind the document, .*'qdi'"):
        StudyConfig(prompt="pointwise-qdi", experiments="interaction")


def test_where_and_how_fast_it_runs_is_not_part_of_the_identity() -> None:
    config = StudyConfig()
    assert StudyConfig(device="cpu", memory="1MiB").identity() == config.identity()
    for changed in (
        {"seed": 1}, {"pairs": 3}, {"filter": "correct"}, {"direction": "noise"}, {"negatives": "random"},
        {"experiments": "heads"}, {"dtype": "bfloat16"}, {"model": "other"}, {"data": "other"}, {"adapter": "other"},
        {"revision": "other"},
    ):  # fmt: skip
        assert StudyConfig(**changed).identity() != config.identity(), changed


def test_a_configuration_read_back_from_its_identity_is_the_same() -> None:
    config = from_yaml("experiments: {heads: {regions: [last]}}\nnegatives: {per_query: 2}\nseed: 3\n")
    assert StudyConfig.from_mapping(config.identity(), "manifest.json").identity() == config.identity()


def test_the_seed_decides_the_negatives() -> None:
    assert StudyConfig(seed=9, negatives={"per_query": 2, "depth": 50}).sampling().seed == 9


def test_an_empty_yaml_file_holds_no_fields(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize("study", sorted(path.name for path in (REPOSITORY / "examples").glob("*.yaml")))
def test_every_study_among_the_examples_can_be_run(study: str) -> None:
    fields = read_yaml(REPOSITORY / "examples" / study)
    assert StudyConfig.from_mapping(fields, study).sites(30, 9)
