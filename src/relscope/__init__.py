"""relscope: which parts of a language model cause the verdict "relevant".

The names below are the whole everyday interface; they are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relscope.lazy import lazily
from relscope.version import __version__

if TYPE_CHECKING:
    from relscope.analysis import (
        Circuit,
        HeadSet,
        HeadSource,
        chosen_heads,
        compare_rankings,
        judge_quality,
        matched_sets,
        random_sets,
        ranking_values,
        region_sets,
        site_effects,
        split_queries,
        top_heads,
        top_set,
    )
    from relscope.data import load_collection, load_pairs
    from relscope.interventions import (
        Joint,
        Site,
        Transfer,
        ablated,
        all_sites,
        patch_pair,
        patch_pairs,
        reference_of,
        relevance_scores,
        transfer_pair,
    )
    from relscope.models import check_contract, load_judge, load_judges
    from relscope.prompts import PromptRenderer, PromptTemplate, align, align_all
    from relscope.report import (
        build_ablation_report,
        build_circuit_report,
        build_comparison_report,
        build_report,
        build_similarity_report,
    )
    from relscope.results import open_run
    from relscope.study import (
        AblationOptions,
        CircuitOptions,
        Reranking,
        StudyConfig,
        ablate_run,
        compare_models,
        evaluate,
        evaluate_circuit,
        find_circuit,
        judge_pairs,
        measure_reranked,
        plan_study,
        rerank,
        run_study,
    )
    from relscope.tuning import TuneConfig, tune

_ROOM_OF = {
    "Circuit": "analysis",
    "chosen_heads": "analysis",
    "compare_rankings": "analysis",
    "judge_quality": "analysis",
    "ranking_values": "analysis",
    "site_effects": "analysis",
    "top_heads": "analysis",
    "HeadSet": "analysis",
    "HeadSource": "analysis",
    "matched_sets": "analysis",
    "random_sets": "analysis",
    "region_sets": "analysis",
    "split_queries": "analysis",
    "top_set": "analysis",
    "load_collection": "data",
    "load_pairs": "data",
    "ablated": "interventions",
    "reference_of": "interventions",
    "relevance_scores": "interventions",
    "Joint": "interventions",
    "Site": "interventions",
    "all_sites": "interventions",
    "Transfer": "interventions",
    "patch_pair": "interventions",
    "patch_pairs": "interventions",
    "transfer_pair": "interventions",
    "check_contract": "models",
    "load_judge": "models",
    "load_judges": "models",
    "PromptRenderer": "prompts",
    "PromptTemplate": "prompts",
    "align": "prompts",
    "align_all": "prompts",
    "build_ablation_report": "report",
    "build_comparison_report": "report",
    "build_report": "report",
    "build_circuit_report": "report",
    "build_similarity_report": "report",
    "open_run": "results",
    "AblationOptions": "study",
    "CircuitOptions": "study",
    "evaluate_circuit": "study",
    "find_circuit": "study",
    "Reranking": "study",
    "StudyConfig": "study",
    "ablate_run": "study",
    "compare_models": "study",
    "evaluate": "study",
    "judge_pairs": "study",
    "measure_reranked": "study",
    "plan_study": "study",
    "rerank": "study",
    "run_study": "study",
    "TuneConfig": "tuning",
    "tune": "tuning",
}

__all__ = [
    "AblationOptions",
    "Circuit",
    "CircuitOptions",
    "HeadSet",
    "HeadSource",
    "Joint",
    "PromptRenderer",
    "PromptTemplate",
    "Reranking",
    "Site",
    "StudyConfig",
    "Transfer",
    "TuneConfig",
    "__version__",
    "ablate_run",
    "ablated",
    "align",
    "align_all",
    "all_sites",
    "build_ablation_report",
    "build_circuit_report",
    "build_comparison_report",
    "build_report",
    "build_similarity_report",
    "check_contract",
    "chosen_heads",
    "compare_models",
    "compare_rankings",
    "evaluate",
    "evaluate_circuit",
    "find_circuit",
    "judge_pairs",
    "judge_quality",
    "load_collection",
    "load_judge",
    "load_judges",
    "load_pairs",
    "matched_sets",
    "measure_reranked",
    "open_run",
    "patch_pair",
    "patch_pairs",
    "plan_study",
    "random_sets",
    "ranking_values",
    "reference_of",
    "region_sets",
    "relevance_scores",
    "rerank",
    "run_study",
    "site_effects",
    "split_queries",
    "top_heads",
    "top_set",
    "transfer_pair",
    "tune",
]


__getattr__ = lazily(__name__, {name: f"relscope.{room}" for name, room in _ROOM_OF.items()})


def __dir__() -> list[str]:
    return list(__all__)
