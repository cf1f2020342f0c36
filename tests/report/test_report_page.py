"""The page says what the analysis says, escapes whatever the data holds, and says what is missing."""

from __future__ import annotations

import base64
import gzip
import html
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import Page, changed_run, exclusion_rows, page_only, require_exclusions_of_the_example, section

from relscope.analysis import judge_quality, site_effects, top_heads
from relscope.errors import InputError
from relscope.report import build_report, words
from relscope.report.maps import CELL_COLUMNS
from relscope.results import ExclusionRecord, PromptSample, Segment, open_run
from synthetic import AWKWARD_TEXTS, write_synthetic_run

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def effects_of(run_dir: Path) -> pd.DataFrame:
    run = open_run(run_dir)
    return site_effects(run.rows(), run.manifest.query_of)


def unpacked(page: Page, name: str) -> bytes:
    return gzip.decompress(base64.b64decode(page.scripts[name]))


def test_every_map_on_the_page_holds_the_numbers_of_the_analysis(page: Page, run_dir: Path) -> None:
    effects = effects_of(run_dir).set_index(["component", "region", "layer", "head"])
    maps = page.data["maps"]
    assert sum(len(m["rows"]) * len(m["layers"]) for m in maps) == len(effects)
    for shown in maps:
        for i, row in enumerate(shown["rows"]):
            for j, layer in enumerate(shown["layers"]):
                flow = shown["kind"] == "flow"
                key = (shown["name"], row, layer, pd.NA) if flow else ("z", shown["name"], layer, int(row))
                site = effects.loc[key]
                for column in CELL_COLUMNS:
                    # six significant digits are written
                    np.testing.assert_allclose(shown["cells"][column][i][j], site[column], rtol=1e-5, atol=1e-300)


def test_the_quality_on_the_page_is_that_of_the_analysis(page: Page, run_dir: Path) -> None:
    run = open_run(run_dir)
    quality = judge_quality(run.rows("judge"), run.manifest.query_of)
    for estimate in (quality.accuracy, quality.f1, quality.roc_auc, quality.paired_accuracy):
        assert re.search(
            rf">{words.number(estimate.value)}</p>\s*<p class=\"tile-interval\">"
            + re.escape(words.interval(estimate.low, estimate.high)),
            page.html,
        )
    assert quality.sentence in page.text


def test_every_exclusion_is_counted_under_its_stage_and_reason(page: Page) -> None:
    shown = section(page.html, "exclusions")
    require_exclusions_of_the_example(shown)


def test_a_run_that_left_out_nothing_says_so(run_dir: Path, tmp_path: Path) -> None:
    shown = section(page_only(changed_run(run_dir, tmp_path / "run", exclusions=[])).read_text("utf-8"), "exclusions")
    assert exclusion_rows(shown) == []
    assert "No pair was excluded." in shown


def test_a_failed_check_of_the_model_is_a_notice_with_its_message(page: Page) -> None:
    (notice,) = re.findall(r"<h2>1 check of the model failed</h2>(.*?)</aside>", page.html, re.DOTALL)
    assert "What depends on it is in doubt; the section on verdict quality lists all checks." in notice
    points = re.findall(r"<li>(.*?)</li>", notice)
    assert [html.unescape(point) for point in points] == [
        "answer tokens hold the probability mass: 'yes' and 'no' hold 0.41 <of 1>"
    ]


def test_the_listed_heads_are_the_top_ten_of_the_analysis_in_its_order(page: Page, run_dir: Path) -> None:
    effects = effects_of(run_dir)
    listed = [
        (int(row["data-layer"] or 0), int(row["data-head"] or 0)) for row in page.tags("tr") if "data-head" in row
    ]
    expected = [
        (site.layer, site.head)
        for region in ("query", "document", "instruction", "last", "all")
        for site in top_heads(effects, region, 10).itertuples()
    ]
    assert listed == expected
    strongest = top_heads(effects, "last", 1).iloc[0]
    shown = f"{words.number(strongest['effect'])} {words.interval(strongest['effect_low'], strongest['effect_high'])}"
    assert shown in page.text


def test_the_histogram_counts_each_verdict_once_with_an_edge_at_zero(page: Page, run_dir: Path) -> None:
    rows = open_run(run_dir).rows("judge")
    shown = page.data["verdicts"]
    edges = np.array(shown["edges"])
    assert 0.0 in shown["edges"]
    for run in ("clean", "corrupted"):
        values = rows[f"ld_{run}"].to_numpy(dtype=np.float64)
        assert sum(shown[run]) == len(values)
        yes = [n for n, edge in zip(shown[run], edges[:-1], strict=True) if edge >= 0]
        assert sum(yes) == (values > 0).sum()


def test_the_embedded_files_hold_the_effects_and_the_rows(page: Page, run_dir: Path) -> None:
    effects = effects_of(run_dir)
    saved = pd.read_csv(io.BytesIO(unpacked(page, "file-site-effects")))
    assert list(saved.columns) == list(effects.columns)
    np.testing.assert_allclose(saved["ie"], effects["ie"], rtol=1e-6)  # seven significant digits
    rows = open_run(run_dir).rows()
    stored = pd.read_csv(io.BytesIO(unpacked(page, "file-rows")))
    assert len(stored) == len(rows)
    np.testing.assert_array_equal(stored["ld_patched"].astype("float32"), rows["ld_patched"])


def test_rows_that_are_too_many_are_linked_and_not_carried(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("relscope.report.downloads.MOST_EMBEDDED_BYTES", 1000)
    page = Page.read(page_only(changed_run(run_dir, tmp_path / "run")))
    assert "file-rows" not in page.scripts
    assert {"rows/flow-00000.parquet", "rows/heads-00000.parquet"} <= {a.get("href") for a in page.tags("a")}


def test_every_link_into_the_run_folder_leads_somewhere(page: Page, report: Path) -> None:
    targets = [a["href"] or "" for a in page.tags("a")]
    for target in targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in page.html
        else:
            assert (report.parent / target).is_file()


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    assert all("src" not in a for a in page.tags("script") + page.tags("img") + page.tags("iframe"))
    assert [a.get("href") for a in page.tags("link")] == ["data:,"]
    style = page.html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for a in page.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_awkward_texts_show_as_they_are(page: Page) -> None:
    for text in AWKWARD_TEXTS:
        # in the prompts, or in the manifest, where JSON writes line breaks and quotes its own way
        assert text in page.text or json.dumps(text, ensure_ascii=False) in page.text
    assert "synthetic/<model>" in page.text
    assert "line 13: <script>alert(3)</script>" in page.text
    assert "'yes' and 'no' hold 0.41 <of 1>" in page.text


def test_no_text_of_the_run_becomes_an_element(run_dir: Path, tmp_path: Path) -> None:
    old = open_run(run_dir).manifest
    identity = json.loads(json.dumps(old.identity))
    identity["model"]["name"] = identity["data"]["name"] = identity["prompt"]["order"] = ATTACK
    identity["config"]["filter"] = identity["relscope_version"] = ATTACK
    pairs = [p.model_copy(update={"query_text": ATTACK}) for p in old.pairs]
    attacked = changed_run(
        run_dir,
        tmp_path / "run",
        keep=lambda rows: rows.assign(region=rows["region"].cat.rename_categories({"query": ATTACK})),
        identity=identity,
        pairs=[p.model_dump() for p in pairs],
        created=ATTACK,
        exclusions=[ExclusionRecord(pair_id=ATTACK, stage="data", reason=ATTACK, detail=ATTACK).model_dump()],
        prompt_samples=[
            PromptSample(
                pair_id=pairs[0].pair_id, run="clean", segments=[Segment(text=ATTACK, region="document")]
            ).model_dump()
        ],
        lints=[{"name": ATTACK, "ok": ok, "message": ATTACK} for ok in (True, False)],
        environment={"hardware": {"device": ATTACK}},
    )
    page = Page.read(build_report(attacked))
    assert page.tags("img") == []
    # the two embedded files, the numbers, plotly and the page's own script
    assert len(page.tags("script")) == 5
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(ATTACK) > 10
    assert any(ATTACK in shown["rows"] for shown in page.data["maps"])


def test_half_a_surrogate_pair_does_not_break_the_page(run_dir: Path, tmp_path: Path) -> None:
    directory = changed_run(run_dir, tmp_path / "run")
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    manifest["pairs"][0]["query_text"] = "half \ud83d"
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="ascii")
    assert "half ?" in Page.read(page_only(directory)).text


def test_the_same_run_gives_the_same_bytes(report: Path, run_dir: Path, tmp_path: Path) -> None:
    figures = sorted((run_dir / "figures").iterdir())
    before = {path: path.read_bytes() for path in [report, *figures]}
    build_report(run_dir)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_in_progress_says_how_far_it_is(run_dir: Path, tmp_path: Path) -> None:
    def half(rows: pd.DataFrame) -> pd.DataFrame:
        kept = sorted(set(rows["pair_id"]))[:6]
        return rows[(rows["experiment"] == "judge") | ((rows["experiment"] == "flow") & rows["pair_id"].isin(kept))]

    partial = changed_run(run_dir, tmp_path / "run", half, status="running")
    text = " ".join(Page.read(page_only(partial)).text.split())
    assert "This run is not complete" in text
    assert "judge: 14 of 14 rows (100 %)" in text
    assert "flow: 450 of 900 rows (50 %)" in text  # 12 pairs x 5 layers x 3 components x 5 regions
    assert "heads: 0 of 900 rows (0 %)" in text  # 12 pairs x 5 layers x 3 heads x 5 regions
    assert "No rows of the experiment heads are stored yet." in text


def test_a_complete_run_does_not_claim_to_be_unfinished(page: Page) -> None:
    assert "not complete" not in page.text


def test_a_run_with_one_experiment_has_no_section_on_the_other(run_dir: Path, tmp_path: Path) -> None:
    identity = json.loads(json.dumps(open_run(run_dir).manifest.identity))
    del identity["config"]["experiments"]["flow"]
    only = changed_run(run_dir, tmp_path / "run", lambda rows: rows[rows["experiment"] != "flow"], identity=identity)
    page = Page.read(build_report(only))
    assert 'id="flow"' not in page.html
    assert 'href="#flow"' not in page.html
    assert {m["kind"] for m in page.data["maps"]} == {"heads"}
    assert not (only / "figures" / "flow.png").exists()


def test_a_run_without_any_pair_left_says_so_instead_of_drawing_maps(run_dir: Path, tmp_path: Path) -> None:
    pairs = [{**p.model_dump(), "filtered": True} for p in open_run(run_dir).manifest.pairs]
    empty = changed_run(run_dir, tmp_path / "run", lambda rows: rows[rows["experiment"] == "judge"], pairs=pairs)
    page = Page.read(build_report(empty))
    assert "No pair was left to patch" in page.text
    assert page.text.count("No pair was left to patch after the exclusions above") == 2
    assert page.data["maps"] == []
    assert sum(page.data["verdicts"]["clean"]) == 14


def test_a_run_that_has_only_begun_has_a_report(run_dir: Path, tmp_path: Path) -> None:
    begun = changed_run(run_dir, tmp_path / "run", lambda rows: rows[:0], status="running")
    page = Page.read(build_report(begun))
    assert "No verdicts are stored yet." in page.text
    assert "judge: 0 of 14 rows" in page.text
    assert len(page.tags("script")) == 2  # nothing to draw, so plotly is left out


def test_a_single_pair_shows_effects_without_intervals_and_warns(tmp_path: Path) -> None:
    page = Page.read(page_only(write_synthetic_run(tmp_path / "run", n_pairs=1)))
    assert "One query cannot tell the verdicts from chance" in page.text
    assert "A single query allows no interval over queries" in page.text
    assert page.data["quantity"] == "effect"
    assert page.data["maps"][0]["cells"]["effect_low"][0][0] is None
    assert page.data["maps"][0]["cells"]["effect"][0][0] is not None
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_model_at_chance_is_announced_and_its_maps_show_raw_effects(tmp_path: Path, direction: str) -> None:
    page = Page.read(page_only(write_synthetic_run(tmp_path / "run", judges_well=False, direction=direction)))
    assert any("alarm" in (a.get("class") or "") and a.get("role") == "alert" for a in page.tags("aside"))
    assert "The verdicts are not better than chance" in page.text
    assert page.data["quantity"] == "effect"
    text = " ".join(page.text.split())
    assert "Colours show the effect in logits and not the indirect effect" in text
    assert "Red raises LD (towards yes), blue lowers it (towards no)" in text
    assert "the activation was taken from" not in text


def test_noise_keeps_its_gap_positive_and_its_indirect_effect_a_share(tmp_path: Path) -> None:
    run_dir = write_synthetic_run(tmp_path / "run", direction="noise")
    page = Page.read(page_only(run_dir))
    gap = -effects_of(run_dir)["gap"].iloc[0]
    assert gap > 0
    assert f"the clean and the corrupted run is {words.number(gap)} [" in page.text
    assert page.data["quantity"] == "ie"
    assert "Red moves the verdict towards that of the run that the activation was taken from" in page.text
    assert "Red raises" not in page.text
    assert "noise (one activation of the corrupted run is put into the clean run)" in page.text


@pytest.mark.parametrize("judges_well", [True, False])
def test_a_run_of_heads_alone_says_what_its_colours_mean(tmp_path: Path, judges_well: bool) -> None:
    page = Page.read(page_only(write_synthetic_run(tmp_path / "run", components=["z"], judges_well=judges_well)))
    text = " ".join(page.text.split())
    assert text.count("Red moves the verdict") == judges_well
    assert text.count("Red raises LD") == (not judges_well)
    assert text.count("Colours show the effect in logits and not the indirect effect") == (not judges_well)
    assert "the section above" not in text


def test_clean_and_corrupted_are_named_where_reading_is_explained(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "Clean is the prompt with the relevant (positive) document" in text
    assert "corrupted the same prompt with the other (negative) document" in text
    assert (
        "in pairwise prompts clean has the relevant document as document A, and in corrupted the two are swapped"
        in text
    )


def test_what_was_run_is_read_from_the_identity_that_a_study_writes(page: Page) -> None:
    for name, value in (
        ("Negative documents", "hard (from the first 100 candidates), up to 2 for each query"),
        ("Prompt", "pointwise"),
        ("Answers", "yes or no"),
        ("Numbers", "float32"),
        ("Device", "cpu (none)"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page.html


def test_pairwise_prompts_are_described_as_swapped_documents(run_dir: Path, tmp_path: Path) -> None:
    identity = json.loads(json.dumps(open_run(run_dir).manifest.identity))
    identity["prompt"] = {"format": "pairwise", "order": "idq", "answers": ["Yes", "No"]}
    page = Page.read(page_only(changed_run(run_dir, tmp_path / "run", identity=identity)))
    assert "clean prompts (relevant document as A)" in page.text
    assert "instruction, document, query" in page.text
    assert "Yes or No" in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        build_report(tmp_path)


def test_headings_descend_without_gaps_and_every_plot_has_words(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    plots = [a for a in page.tags("div") if a.get("class") == "plot"]
    assert len(plots) == len(page.data["maps"]) + 1
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 40 for a in plots)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(page: Page, scheme: str) -> None:
    style = page.html.partition("<style>")[2]
    block = style.split(":root {")[1 if scheme == "light" else 2].partition("}")[0]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
    for text in ("ink", "muted", "accent", "alarm", "warn", "ok"):
        for ground in ("paper", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for region in ("query", "document", "instruction", "last"):
        assert contrast(colours["ink"], colours[region]) >= 7
        assert contrast(colours[f"{region}-line"], colours[region]) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    luminances = []
    for colour in (one, other):
        srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_the_report_needs_no_torch_and_the_room_loads_no_plotting_library() -> None:
    code = "import sys, relscope.report; print([m for m in ('torch', 'matplotlib', 'plotly') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_a_report_imports_no_torch(run_dir: Path, report: Path) -> None:
    build = f"from relscope.report import build_report; build_report({str(run_dir)!r})"
    code = f"import sys; {build}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
