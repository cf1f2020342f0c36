"""How well, and how fast, do a few heads rank documents, beside the whole judge? A quality-latency curve.

On queries of the demo that did not choose any head: nDCG@10 of BM25's best documents, ranked again by

- the judge's verdict (`relscope rerank`), a full forward pass a document;
- the attention of the heads of largest |effect| at the query, of the heads of largest interaction score (what they
  attend to alone), of random heads (mean over draws) and of all heads; several numbers of heads, and several last
  layers; both readings, with and without calibration by a content-free query.

Quality is computed of one pass that reads all heads. Seconds are CPU seconds of this process, of the method alone
(prompts are there already), on one thread; all methods in turns on the same queries. Those of a set of heads depend on
the layer at which it stops: they are measured at some layers with eight heads each, and interpolated between these.

    relscope run --data demo --pairs 10 -e heads,interaction -r query --precision delta -o .bench/heads
    OMP_NUM_THREADS=1 python benchmarks/attention_ranking.py .bench/heads [--queries 24] [--depth 20] [--png curve.png]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from relscope.analysis import Estimate, chosen_heads, compare_rankings, random_sets, ranking_values
from relscope.data import Collection, first_stage, load_collection
from relscope.interventions import CONTENT_FREE_QUERY
from relscope.models import JudgeModel, QueryAttention, load_judge, query_attention
from relscope.prompts import Prompt, PromptRenderer, PromptTemplate, render_cut
from relscope.results import Run, open_run

Heads = list[tuple[int, int]]
MEASURE = "nDCG@10"
SIZES = (1, 4, 8, 16, 32)
DEPTHS = (10, 14)
N_DRAWS = 10


@dataclass(frozen=True)
class Asked:
    """One query: its documents in the first stage's order, and of each the prompts of the query and of none."""

    query_id: str
    documents: Sequence[str]
    prompts: Sequence[tuple[Prompt, Prompt]]


@dataclass
class Measured:
    """What is known of every query, and how long each way took on those that were timed."""

    asked: list[Asked]
    lds: list[np.ndarray] = field(default_factory=list)
    attention: list[QueryAttention] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    n_timed: int = 0


@dataclass(frozen=True)
class Way:
    """A set of heads (or draws of one) and what is made of their patterns."""

    name: str
    draws: Sequence[Heads]
    reading: str = "total"
    calibrated: bool = True

    @property
    def last(self) -> float:
        """The last layer that is read; of draws, their mean."""
        return float(np.mean([max(layer for layer, _ in heads) for heads in self.draws]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Run folder with the experiments heads (at query) and interaction.")
    parser.add_argument("--model", default="smoljudge")
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--timed", type=int, default=3, help="Queries on which the ways are timed.")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge, run = load_judge(options.model, device="cpu"), open_run(options.run)
    assert judge.contract.continuable  # checked here, so that no timing holds the check
    collection = load_collection("demo")
    renderer = PromptRenderer(judge.tokenizer, PromptTemplate())
    held_out = dict.fromkeys(run.manifest.query_of.values(), "chose the heads")
    first = first_stage(collection, depth=options.depth, limit=options.queries, held_out=held_out)
    asked = [ask(renderer, collection, query_id, documents) for query_id, documents in first.rankings.items()]
    measured = measure(judge, renderer, asked, options.timed)
    ways = all_ways(run, judge)
    rows = table(measured, ways, collection, judge.shape.n_layers)
    n_documents = sum(len(of.documents) for of in asked)
    print(
        f"{options.model}: {len(asked)} queries of the demo, {n_documents:,} documents; heads chosen by "
        f"{len(held_out)} other queries; CPU seconds on one thread, timed on {measured.n_timed} documents\n"
    )
    print("\n".join(markdown(rows)))
    if options.png:
        draw(rows, options.png)


def ask(renderer: PromptRenderer, collection: Collection, query_id: str, documents: Sequence[str]) -> Asked:
    prompts = []
    for doc_id in documents:
        head, prompt = render_cut(renderer, collection.queries[query_id], collection.documents[doc_id])
        prompts.append((prompt, renderer.render(CONTENT_FREE_QUERY, [head])))
    return Asked(query_id, documents, prompts)


def measure(judge: JudgeModel, renderer: PromptRenderer, asked: Sequence[Asked], n_timed: int) -> Measured:
    """All verdicts and all heads of every query; on the first queries every way in turns, in both orders."""
    measured = Measured(list(asked))
    every = [(layer, head) for layer in range(judge.shape.n_layers) for head in range(judge.shape.n_heads)]
    for number, of in enumerate(asked):
        print(of.query_id, file=sys.stderr)
        prompts = [prompt for prompt, _ in of.prompts]
        answer_ids = renderer.answer_ids(prompts[0])
        measured.attention.append(query_attention(judge, of.prompts, every))
        if number >= n_timed:
            measured.lds.append(judge.relevance(prompts, answer_ids).numpy())
            continue
        turns: dict[str, Callable[[], object]] = {
            "judge": lambda prompts=prompts, ids=answer_ids: judge.relevance(prompts, ids).numpy(),
            **{str(layer): lambda of=of, layer=layer: query_attention(judge, of.prompts, some_heads(judge, layer))
               for layer in timed_layers(judge)},
        }  # fmt: skip
        measured.n_timed += len(prompts)
        for name in list(turns) if number % 2 else list(turns)[::-1]:
            began = time.process_time()
            given = turns[name]()
            measured.seconds[name] = measured.seconds.get(name, 0.0) + time.process_time() - began
            if name == "judge":
                measured.lds.append(given)
    return measured


def timed_layers(judge: JudgeModel) -> list[int]:
    n = judge.shape.n_layers
    return sorted({0, n // 3, 2 * n // 3, n - 1})


def some_heads(judge: JudgeModel, last: int) -> Heads:
    """Eight heads of which the last is in this layer."""
    return [(last, head) for head in range(min(8, judge.shape.n_heads))]


def all_ways(run: Run, judge: JudgeModel) -> list[Way]:
    n_layers, n_heads = judge.shape.n_layers, judge.shape.n_heads

    def by(what: str, k: int, below: int | None = None) -> list[Heads]:
        return [[(head.layer, head.head) for head in chosen_heads(run, k, by=what, below=below)]]

    ways = [
        Way(f"{name}, {k}", by(what, k))
        for name, what in (("effect", "query"), ("attention alone", "interaction"))
        for k in SIZES
    ]
    ways += [
        Way(f"{name}, 8 below layer {below}", by(what, 8, below))
        for name, what in (("effect", "query"), ("attention alone", "interaction"))
        for below in DEPTHS
    ]
    for k in (1, 8, 32):
        draws = random_sets(n_layers, n_heads, k, n_draws=N_DRAWS)
        ways.append(Way(f"random, {k}", [[(head.layer, head.head) for head in drawn] for drawn in draws]))
    ways.append(Way("all heads", [[(layer, head) for layer in range(n_layers) for head in range(n_heads)]]))
    return [
        Way(way.name, way.draws, reading, calibrated)
        for way in ways
        for reading in ("total", "largest")
        for calibrated in (True, False)
    ]


@dataclass(frozen=True)
class Row:
    """A line of the table: quality of a way, with what its reading is, and its CPU seconds for 100 documents."""

    name: str
    last: float | None
    seconds: float
    value: Estimate
    how: str = ""


def table(measured: Measured, ways: Sequence[Way], collection: Collection, n_layers: int) -> list[Row]:
    """Quality of every way, the first stage and the judge, with intervals over queries; of draws, of their mean."""
    rankings = {
        "BM25": {of.query_id: list(of.documents) for of in measured.asked},
        "judge": {of.query_id: sort(of, ld) for of, ld in zip(measured.asked, measured.lds, strict=True)},
    }
    n_heads = measured.attention[0].total.shape[-1] // n_layers
    for number, way in enumerate(ways):
        for draw_number, heads in enumerate(way.draws):
            columns = [layer * n_heads + head for layer, head in heads]
            rankings[f"{number} {draw_number}"] = {
                of.query_id: sort(of, scores(read, columns, way))
                for of, read in zip(measured.asked, measured.attention, strict=True)
            }
    qrels = {of.query_id: collection.qrels[of.query_id] for of in measured.asked}
    values = ranking_values(rankings, qrels, [MEASURE])
    # The draws of a set count as one system: each query's value is their mean.
    values["system"] = [name.partition(" ")[0] for name in values["system"]]
    values = values.groupby(["system", "query_id", "measure"], sort=False)["value"].mean().reset_index()
    compared = {one.system: one for one in compare_rankings(values, "BM25")}
    per_100 = {name: 100 * seconds / measured.n_timed for name, seconds in measured.seconds.items()}
    layers = sorted(int(name) for name in per_100 if name != "judge")

    def seconds_to(layer: float) -> float:
        return float(np.interp(layer, layers, [per_100[str(at)] for at in layers]))

    rows = [Row("BM25", None, 0.0, compared["judge"].baseline_value), Row("judge", n_layers - 1, per_100["judge"],
            compared["judge"].value)]  # fmt: skip
    for number, way in enumerate(ways):
        how = f"{way.reading}{', calibrated' if way.calibrated else ''}"
        rows.append(Row(way.name, way.last, seconds_to(way.last), compared[str(number)].value, how))
    return rows


def scores(read: QueryAttention, columns: Sequence[int], way: Way) -> np.ndarray:
    """The relevance score of each document of a query."""
    of = getattr(read, way.reading)[..., list(columns)].mean(-1).numpy()
    return of[:, 0] - of[:, 1] if way.calibrated else of[:, 0]


def sort(of: Asked, values: np.ndarray) -> list[str]:
    return [of.documents[i] for i in np.argsort(-values, kind="stable")]


def markdown(rows: Sequence[Row]) -> list[str]:
    """Ways by row, readings by column."""
    hows = list(dict.fromkeys(row.how for row in rows if row.how))
    lines = [
        "| ranked by | last layer | CPU s / 100 documents | " + " | ".join(hows) + " |",
        "| --- " * (3 + len(hows)) + "|",
    ]
    for name in dict.fromkeys(row.name for row in rows):
        of = [row for row in rows if row.name == name]
        cells = [f"{row.value.value:.3f} [{row.value.low:.3f}, {row.value.high:.3f}]" for row in of]
        cells += [""] * (len(hows) - len(cells))
        last = "" if of[0].last is None else f"{of[0].last:.0f}"
        lines.append(f"| {name} | {last} | {of[0].seconds:.1f} | {' | '.join(cells)} |")
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """nDCG@10 against CPU seconds, by the reading `total`, with and without calibration."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    judge, first = (next(row for row in rows if row.name == name) for name in ("judge", "BM25"))
    for axes, how in zip(panels, ("total, calibrated", "total"), strict=True):
        for label, marker in (("effect", "o"), ("attention alone", "s"), ("random", "x"), ("all heads", "D")):
            of = [row for row in rows if row.how == how and row.name.startswith(label)]
            seconds, values = [row.seconds for row in of], [row.value.value for row in of]
            ends = [[row.value.value - row.value.low for row in of], [row.value.high - row.value.value for row in of]]
            name = label if label == "all heads" else f"heads by {label}".replace("by random", "at random")
            axes.errorbar(seconds, values, yerr=ends, fmt=marker, label=name, capsize=2, elinewidth=0.6)
            for row in of:
                said = row.name.partition(", ")[2].replace(" below layer ", " below ")
                axes.annotate(
                    said, (row.seconds, row.value.value), textcoords="offset points", xytext=(4, 3), fontsize=7
                )
        axes.plot(judge.seconds, judge.value.value, "*", markersize=12, label="judge, whole pass")
        axes.axhline(first.value.value, linestyle=":", label="BM25")
        axes.set_title("calibrated" if "calibrated" in how else "not calibrated")
        axes.set_xlabel("CPU seconds for 100 documents")
    panels[0].set_ylabel(MEASURE)
    panels[1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
