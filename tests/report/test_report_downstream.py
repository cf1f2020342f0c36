"""The section of a run's report on its ablations and circuits: what it shows, and whose it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened
from pages import Page, section

from relscope.errors import InputError
from relscope.report import build_ablation_report, build_circuit_report, build_report
from relscope.report.ablation_contents import read_ablation
from relscope.report.ablation_findings import findings
from relscope.report.ablation_table import cells
from relscope.results import identity_hash, open_run
from synthetic import write_synthetic_run
from synthetic_ablation import ablation_header, write_synthetic_ablation
from synthetic_circuit import circuit_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "a run", n_pairs=4)


@pytest.fixture(scope="module")
def ablation(run: Path) -> Path:
    """Of the run, beside it, in a folder whose name a link must quote."""
    identity = ablation_header().identity | {"run": open_run(run).manifest.identity_hash}
    fields = {"identity": identity, "identity_hash": identity_hash(identity)}
    folder = write_synthetic_ablation(run.parent / "a #1", **fields)
    build_ablation_report(folder)
    return folder


@pytest.fixture(scope="module")
def circuit(run: Path) -> Path:
    folder = circuit_folder(run.parent / "circuit", run=open_run(run).manifest.identity_hash)
    build_circuit_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path, ablation: Path, circuit: Path) -> Page:
    return Page.read(build_report(run, [ablation, circuit]))


def test_the_table_is_that_of_the_ablations_own_page(page: Page, ablation: Path) -> None:
    shown, own = section(page.html, "downstream"), section((ablation / "report.html").read_text(), "table")

    def table(html: str) -> str:
        return html[html.index("<table") : html.index("</table>")]

    assert table(shown) == table(own)
    contents = read_ablation(ablation)
    assert shown.count('<th scope="row">') == len(cells(contents))
    for finding in findings(contents):
        assert finding.title in shown
    assert "Brackets: 95 % intervals over queries" in shown


def test_curves_are_drawn_under_ids_of_their_own(page: Page, circuit: Path) -> None:
    own = Page.read(circuit / "report.html").data["lines"]
    curves = [plot for plot in page.data["lines"] if plot["id"].startswith("downstream-1-")]
    assert [plot["lines"] for plot in curves] == [plot["lines"] for plot in own]
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {plot["id"] for plot in curves} <= set(ids)
    assert "2 sites of 4 keep f = 0.75 of the difference of LD" in section(page.html, "downstream")


def test_the_full_pages_are_linked_from_the_run(page: Page, run: Path) -> None:
    links = [str(link["href"]) for link in page.tags("a")]
    assert {"../a%20%231/report.html", "../circuit/report.html"} <= set(links)
    assert '<a href="#downstream">Do these heads carry relevance?</a>' in page.html


def test_warnings_of_the_evaluation_come_with_it_and_are_told_once(page: Page) -> None:
    shown = section(page.html, "downstream")
    assert "Heads at the template&#39;s own words are never ablated" in shown
    assert page.html.count("This is a model to learn and test with") <= 1


def test_without_them_the_report_is_what_it_was(run: Path, ablation: Path) -> None:
    plain = build_report(run).read_bytes()
    assert b"downstream" not in plain.replace(b"downstream of", b"")
    build_report(run, [ablation])
    assert build_report(run, [ablation]).read_bytes() == build_report(run, [str(ablation)]).read_bytes()
    assert build_report(run).read_bytes() == plain


def test_an_evaluation_of_another_run_is_refused_and_the_report_left_alone(
    run: Path, circuit: Path, tmp_path: Path
) -> None:
    before = build_report(run).read_bytes()
    other = write_synthetic_ablation(tmp_path / "other")
    build_ablation_report(other)
    with pytest.raises(InputError, match=r"other: is not of .*a run but of another run \(identity "):
        build_report(run, [other])
    foreign = circuit_folder(tmp_path / "foreign", run="0" * 64)
    build_circuit_report(foreign)
    with pytest.raises(InputError, match=r"foreign: is not of .*another run \(identity 000000000000, this one has"):
        build_report(run, [foreign])
    with pytest.raises(InputError, match="is no folder of relscope ablate or relscope circuit"):
        build_report(run, [tmp_path])
    with pytest.raises(InputError, match=r"circuit: is given twice"):
        build_report(run, [circuit, circuit.parent / "." / circuit.name])
    assert (run / "report.html").read_bytes() == before


def test_what_has_no_page_to_link_to_or_is_not_whole_is_refused(run: Path, tmp_path: Path) -> None:
    folder = circuit_folder(tmp_path / "c", run=open_run(run).manifest.identity_hash)
    with pytest.raises(InputError, match=r"has no report\.html to link to; write it with: relscope report"):
        build_report(run, [folder])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    with pytest.raises(InputError, match="is not complete; finish it"):
        build_report(run, [folder])


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_section_fits_and_draws_every_curve(
    browser: Any, run: Path, ablation: Path, circuit: Path, width: int, scheme: str
) -> None:
    report = build_report(run, [ablation, circuit])
    with Opened(browser, report, width, scheme) as page:
        assert page.tab.locator("#downstream .plot .scatterlayer .point").count() == 4 * 2 * 3
        assert page.problems == []
        page.assert_within(width)
