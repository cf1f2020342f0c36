"""The page of a comparison says what the analyses say, escapes names, is honest, and works on what there is so far."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import Page, exclusion_rows, require_exclusions_of_the_example, section

from relscope.analysis import effect_differences, quality_differences, rank_similarity, transfer_effects
from relscope.errors import InputError
from relscope.report import build_comparison_report, build_report, is_comparison, summarize_comparison, words
from relscope.report.comparison_contents import Comparison, compare
from relscope.report.comparison_findings import findings
from relscope.report.comparison_folder import read_comparison
from relscope.report.comparison_page import notices, render
from relscope.results import ExclusionRecord, Lint, RunError, open_run
from synthetic_comparison import BASE, NEW_HEAD_EFFECT, PARTS, TRANSFERRED, TUNED, new_head, write_comparison

N_LAYERS, N_HEADS = 4, 3
LAYER, HEAD = new_head(N_LAYERS)
REGIONS = ("query", "last", "all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete comparison: 12 pairs of 6 queries, 4 layers of 3 heads."""
    return write_comparison(tmp_path_factory.mktemp("pair") / "compared", 12, N_LAYERS, N_HEADS, REGIONS)


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return build_comparison_report(folder)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page.read(report)


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare(read_comparison(folder))


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A tuned model that is the base model with some noise."""
    return compared(tmp_path_factory.mktemp("alike") / "compared", alike=True)


def compared(directory: Path, **options: object) -> Comparison:
    return compare(read_comparison(write_comparison(directory, 12, N_LAYERS, N_HEADS, REGIONS, **options)))


def with_manifests(comparison: Comparison, **fields: dict[str, object]) -> Comparison:
    """The comparison with its parts of these names alone, and some fields of their manifests replaced."""
    parts = {name: comparison.stored.parts[name] for name in fields}
    changed = {
        name: replace(part, manifest=part.manifest.model_copy(update=fields[name])) for name, part in parts.items()
    }
    return replace(comparison, stored=replace(comparison.stored, parts=changed))


def said(comparison: Comparison) -> str:
    return "\n".join(f"{finding.title}\n{finding.text}" for finding in findings(comparison))


def test_every_map_on_the_page_holds_the_numbers_of_the_analysis(page: Page, folder: Path) -> None:
    runs = {name: open_run(folder / name) for name in ("base", "tuned", "into_base", "into_tuned")}
    query_of = runs["base"].manifest.query_of
    keys = ["component", "region", "layer", "head"]
    differences = effect_differences(runs["base"].rows(), runs["tuned"].rows(), query_of).set_index(keys)
    carried = {
        name: transfer_effects(runs[name].rows(), query_of).set_index(keys) for name in ("into_base", "into_tuned")
    }
    source = {
        "base": (differences, "effect_base", "ie_base"),
        "tuned": (differences, "effect_tuned", "ie_tuned"),
        "tuned − base": (differences, "difference", "ie_difference"),
        "tuned into base": (carried["into_base"], "effect", "ie"),
        "base into tuned": (carried["into_tuned"], "effect", "ie"),
    }
    maps = page.data["maps"]
    assert sum(len(m["rows"]) * len(m["layers"]) for m in maps) == 3 * len(differences) + 2 * len(carried["into_base"])
    for shown in maps:
        table, effect, ie = source[shown["panel"]]
        for (i, row), layer in itertools.product(enumerate(shown["rows"]), shown["layers"]):
            flow = shown["kind"] == "flow"
            site = table.loc[(shown["name"], row, layer, pd.NA) if flow else ("z", shown["name"], layer, int(row))]
            site = site.iloc[0] if site.ndim == 2 else site
            for name, column in (("effect", effect), ("ie", ie)):
                for end in ("", "_low", "_high"):
                    # six significant digits are written
                    np.testing.assert_allclose(
                        shown["cells"][f"{name}{end}"][i][layer], site[f"{column}{end}"], rtol=1e-5, atol=1e-300
                    )


def test_base_and_tuned_have_the_same_colours_and_no_value_lies_beyond_the_scale(page: Page) -> None:
    maps = {m["id"]: m for m in page.data["maps"]}
    for shown in maps.values():
        for quantity, limit in shown["limits"].items():
            values = [abs(v) for row in shown["cells"][quantity] for v in row if v is not None]
            assert max(values) <= limit
    for shown in maps.values():
        family = {maps[other]["panel"]: maps[other] for other in shown["family"]}
        if "base" in family:
            assert family["base"]["limits"] == family["tuned"]["limits"]


def test_the_quality_of_both_models_and_its_difference_is_that_of_the_analysis(page: Page, folder: Path) -> None:
    rows = [open_run(folder / name).rows("judge") for name in ("base", "tuned")]
    found = quality_differences(*rows, open_run(folder / "base").manifest.query_of)
    text = re.sub(r"\s+", " ", page.text)
    for estimate in (found["accuracy"], found["f1"], found["roc_auc"], found["paired_accuracy"]):
        assert f"{words.number(estimate.value)} {words.interval(estimate.low, estimate.high)}" in text


def test_the_similarity_table_is_that_of_the_analysis(page: Page, folder: Path) -> None:
    runs = [open_run(folder / name) for name in ("base", "tuned")]
    at_last = [run.rows("heads") for run in runs]
    at_last = [rows[rows["region"] == "last"] for rows in at_last]
    found = rank_similarity(at_last[0], at_last[1], runs[0].manifest.query_of)
    row = page.html.partition("heads at the last token <small")[2].partition("</tr>")[0]
    shown = re.findall(r'<td class="num">([−\d.]+|–)', row)
    assert shown == [words.number(one.value.value) for one in found]


def test_findings_name_what_was_planted_with_its_interval(comparison: Comparison) -> None:
    text = said(comparison)
    name = words.head_name(LAYER, HEAD)
    assert f"Heads: what changed most is {name}@last" in text
    attention = f"attn_out of layer {LAYER} at the last token"
    assert f"Tuned into base: {attention} alone brings 70\u00a0% of the change" in text
    assert f"Base into tuned: {attention} alone takes back 70\u00a0% of the change" in text
    assert text.count(f"next {name}@last 60\u00a0% [") == 2
    assert f"{name} moved farthest there" in text
    change = comparison.largest_changes("heads").iloc[0]
    # shares have a noise of 0.01 over 12 pairs
    assert change["ie_difference"] == pytest.approx(NEW_HEAD_EFFECT, abs=0.02)
    shares = comparison.transfers["into_base"].set_index(["component", "layer", "head", "region"])["ie"]
    assert shares["z", LAYER, HEAD, "last"] == pytest.approx(TRANSFERRED["z"], abs=0.02)


def test_findings_are_honest_where_nothing_changed(alike: Comparison) -> None:
    text = said(alike)
    assert "Verdicts: no difference in quality is shown" in text
    assert "Tuned into base: the models separate the documents alike, so there is nothing to carry" in text
    assert "may be 0; shares of it would be noise" in text
    assert "alone brings" not in text
    assert "judges better" not in text
    assert not alike.has_shares("transfer")


def test_a_model_that_judges_worse_is_said_to(comparison: Comparison, folder: Path, tmp_path: Path) -> None:
    there = read_comparison(folder)
    parts = dict(there.parts)
    rows = parts["tuned"].rows
    judged = rows["experiment"] == "judge"
    swapped = rows.assign(
        ld_clean=rows["ld_corrupted"].where(judged, rows["ld_clean"]),
        ld_corrupted=rows["ld_clean"].where(judged, rows["ld_corrupted"]),
    )
    parts["tuned"] = type(parts["tuned"])(parts["tuned"].manifest, swapped)
    worse = compare(type(there)(**{**there.__dict__, "parts": parts}))
    assert "The tuned model judges worse: ROC AUC" in said(worse)
    assert "logits closer together" in said(worse)
    (notice,) = [notice for notice in notices(worse) if notice.level == "alarm"]
    assert notice.title == "The tuned model does not judge better than chance here"


def test_failed_checks_are_named_with_the_model_that_failed_them(comparison: Comparison) -> None:
    failed = [
        Lint(name="contract: patterns sum to 1", ok=False, message="error 0.2, tolerance 0.001"),
        Lint(name="verdict: answer tokens", ok=True, message="'yes' is token 1"),
        Lint(name="verdict: answer mass", ok=False, message=""),
    ]
    found = [n for n in notices(with_manifests(comparison, base={}, tuned={"lints": failed})) if "check" in n.title]
    assert [(notice.level, notice.title) for notice in found] == [
        ("warn", "1 check of the base model failed"),
        ("warn", "2 checks of the tuned model failed"),
    ]
    for notice, name in zip(found, ("base", "tuned"), strict=True):
        doubt = "What depends on it is in doubt; the ordinary report of the run in "
        assert notice.text == f"{doubt}{name}/ lists all checks."
    assert found[0].points == ("answer tokens hold the probability mass: 'yes' and 'no' hold 0.41 <of 1>",)
    assert found[1].points == (
        "contract: patterns sum to 1: error 0.2, tolerance 0.001",
        "verdict: answer mass",
    )


def test_checks_that_all_passed_are_no_notice(comparison: Comparison) -> None:
    passed = {"lints": [Lint(name="verdict: answer mass", ok=True, message="")]}
    assert not [n for n in notices(with_manifests(comparison, base=passed, tuned=passed)) if "check" in n.title]


def test_the_failed_checks_of_both_models_stand_on_the_page(page: Page) -> None:
    for name in ("base", "tuned"):
        shown = page.html.partition(f"<h2>1 check of the {name} model failed</h2>")[2].partition("</aside>")[0]
        assert "hold 0.41 &lt;of 1&gt;</li>" in shown


def test_exclusions_that_both_models_share_are_tabled_once(page: Page) -> None:
    shown = section(page.html, "exclusions")
    require_exclusions_of_the_example(shown)
    assert "<h3>" not in shown
    assert '<a href="#exclusions">Exclusions</a>' in page.html


def test_exclusions_that_differ_are_tabled_for_each_model(comparison: Comparison) -> None:
    # after the three examples that a table shows of a reason, too
    more = [ExclusionRecord(pair_id=f"q95{i}:0", stage="alignment", reason="longer_than_context") for i in range(4)]
    other = with_manifests(comparison, base={"exclusions": more[:3]}, tuned={"exclusions": [*more[:3], more[3]]})
    shown = section(render(other, []), "exclusions")
    base, tuned = shown.split("<h3>")[1:]
    assert base.startswith("The base model</h3>")
    assert "3 pairs or queries left out; 12 of 17 loaded pairs are patched." in base
    assert exclusion_rows(base) == [("alignment", "longer than context", 3)]
    assert tuned.startswith("The tuned model</h3>")
    assert "4 pairs or queries left out" in tuned
    assert exclusion_rows(tuned) == [("alignment", "longer than context", 4)]
    swapped = [*more[:3], more[3].model_copy(update={"pair_id": "another:0"})]
    assert "<h3>" in section(
        render(with_manifests(comparison, base={"exclusions": more}, tuned={"exclusions": swapped}), []), "exclusions"
    )


def test_a_lone_part_has_its_exclusions_shown(comparison: Comparison) -> None:
    for name in ("tuned", "into_base"):
        shown = section(render(with_manifests(comparison, **{name: {}}), []), "exclusions")
        assert len(exclusion_rows(shown)) == 3
        assert "<h3>" not in shown


def test_the_saved_transfers_name_their_receiver(page: Page, comparison: Comparison) -> None:
    packed = page.scripts["file-transfer-effects"]
    saved = pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(packed))))
    for folder, receiver in (("into_base", "base"), ("into_tuned", "tuned")):
        kept = saved.loc[saved["into"] == receiver, "effect"]
        np.testing.assert_allclose(kept, comparison.transfers[folder]["effect"], rtol=1e-6)  # seven digits are written


def test_names_are_shown_as_text_and_never_as_markup(page: Page) -> None:
    for name in (BASE, TUNED):
        assert name in page.text
        assert name not in page.html.partition("<script")[0]
    assert not page.tags("b")
    assert "<base>" not in page.html.partition("<main")[0].partition("<title>")[2].partition("</title>")[0]


def test_every_link_leads_somewhere(page: Page, report: Path) -> None:
    targets = [a["href"] or "" for a in page.tags("a")]
    assert "into_tuned/manifest.json" in targets
    assert "figures/transfer_heads_last.pdf" in targets
    for target in targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in page.html
        else:
            assert (report.parent / target).is_file()


def test_every_family_and_region_is_drawn_for_a_paper(report: Path) -> None:
    stems = {path.stem for path in (report.parent / "figures").glob("*.png")}
    flow = ("attn_out", "mlp_out", "resid_post")
    expected = {f"{group}_flow_{name}" for group in ("compare", "transfer") for name in flow}
    expected |= {f"{group}_heads_{name}" for group in ("compare", "transfer") for name in REGIONS}
    assert stems == expected | {f"moved_{name}" for name in REGIONS}


def test_the_scatter_holds_every_head_with_its_weights(page: Page, comparison: Comparison) -> None:
    assert comparison.moved.heads is not None
    heads = comparison.moved.heads.set_index(["region", "layer", "head"])
    assert [plot["region"] for plot in page.data["scatters"]] == list(REGIONS)
    for plot in page.data["scatters"]:
        assert len(plot["layer"]) == N_LAYERS * N_HEADS
        for i, (layer, head) in enumerate(zip(plot["layer"], plot["head"], strict=True)):
            site = heads.loc[plot["region"], layer, head]
            for name in ("moved", "moved_low", "effect_base", "effect_tuned", "difference_high", "moved_q", "moved_o"):
                assert plot[name][i] == pytest.approx(site[name], rel=1e-5)  # six significant digits


def test_weights_that_did_not_move_are_said_to_be_unchanged(page: Page) -> None:
    row = page.html.partition("attention, k</th>")[2].partition("</tr>")[0]
    assert "unchanged" in row
    # 0.02, 0.04, 0.06 and 0.08 of equal norms
    row = page.html.partition("attention, q</th>")[2].partition("</tr>")[0]
    share = 100 * float(np.sqrt(np.mean(np.array([0.02, 0.04, 0.06, 0.08]) ** 2)))
    assert f"{share:.1f}\u00a0%" in row
    assert "layer 3: 8.0\u00a0%" in row


@pytest.mark.parametrize("parts", [(), ("tuned",), ("into_base",), ("tuned", "into_tuned"), ("changes",)], ids="-".join)
def test_an_unfinished_comparison_has_a_page_that_says_so(tmp_path: Path, parts: tuple[str, ...]) -> None:
    unfinished = compared(tmp_path / "compared", parts=parts, status="running")
    html = render(unfinished, [])
    assert "This comparison is not complete" in html
    for name in set(PARTS[1:4]) - set(parts):
        assert re.search(rf"{name} \([^)]*\): not begun", html)
    for name, donor, receiver in (("into_base", "tuned", "base"), ("into_tuned", "base", "tuned")):
        described = f"{name} (activations of the {donor} model into the {receiver} model): "
        assert (f"{described}not begun" in html) == (name not in parts)
        assert (f"{described}complete" in html) == (name in parts)
    for name, there in (("effects", "tuned" in parts), ("transfer", any(part.startswith("into") for part in parts))):
        assert ('<p class="empty">' not in section(html, name)) == there


def test_a_comparison_that_has_only_begun_has_a_page(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "comparison.json").write_bytes((folder / "comparison.json").read_bytes())
    page = Page.read(build_comparison_report(tmp_path))
    assert "nothing has been stored yet" in page.text
    assert "There is nothing to draw findings from yet" in page.text
    assert '<p class="empty">Nothing has been stored yet.</p>' in section(page.html, "exclusions")


def test_models_that_are_still_growing_are_compared_on_the_pairs_that_both_have(tmp_path: Path) -> None:
    there = read_comparison(write_comparison(tmp_path / "compared", 12, N_LAYERS, N_HEADS, REGIONS, status="running"))
    parts = dict(there.parts)
    rows = parts["tuned"].rows
    patched = sorted(rows.loc[rows["experiment"] == "heads", "pair_id"].unique())
    parts["tuned"] = type(parts["tuned"])(parts["tuned"].manifest, rows[rows["pair_id"].isin(patched[:5])])
    growing = compare(type(there)(**{**there.__dict__, "parts": parts}))
    assert (growing.differences["n_pairs"] == 5).all()
    assert {quality.n for quality in growing.quality.values()} == {5}
    assert {one.n_pairs for same in growing.same for one in same.similarities} == {5}


def test_the_same_folder_gives_the_same_bytes(report: Path, folder: Path) -> None:
    first = {path.name: path.read_bytes() for path in (report, *(folder / "figures").iterdir())}
    build_comparison_report(folder)
    assert first == {path.name: path.read_bytes() for path in (report, *(folder / "figures").iterdir())}


def test_the_summary_is_that_of_the_page(folder: Path, comparison: Comparison) -> None:
    summary = summarize_comparison(folder, 3)
    assert (summary.base, summary.tuned) == (BASE, TUNED)
    assert summary.quality == comparison.quality
    assert summary.quality_difference == comparison.quality_difference
    assert list(summary.carriers) == ["base", "tuned"]
    for carriers in summary.carriers.values():
        attention, head, _ = carriers
        assert attention.name == f"attn_out of layer {LAYER} at the last token"
        assert head.name == words.site_label(LAYER, HEAD, "last")
        assert attention.share.value == pytest.approx(TRANSFERRED["attn_out"], abs=0.02)
        assert head.share.value == pytest.approx(TRANSFERRED["z"], abs=0.02)
    assert summary.carriers["tuned"][0].effect.value < 0  # put back, the separation shrinks


def test_a_run_is_no_comparison(folder: Path) -> None:
    assert is_comparison(folder)
    assert not is_comparison(folder / "base")
    with pytest.raises(InputError, match=r"not a comparison \(no comparison.json\)"):
        build_comparison_report(folder / "base")


def test_either_models_run_has_its_ordinary_report(folder: Path) -> None:
    assert build_report(folder / "tuned").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "has schema_version 9"),
        ({"status": "lost"}, "status"),
        ({"base": None}, "base"),
    ],
)
def test_a_damaged_header_is_named(folder: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    header = json.loads((folder / "comparison.json").read_text())
    (tmp_path / "comparison.json").write_text(json.dumps(header | change))
    with pytest.raises(InputError, match=message):
        build_comparison_report(tmp_path)


def test_a_damaged_table_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_bytes((folder / "comparison.json").read_bytes())
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "heads.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RunError, match=r"heads.parquet: damaged"):
        build_comparison_report(tmp_path)
