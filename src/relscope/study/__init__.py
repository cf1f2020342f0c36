"""The study: one frozen configuration, run to rows; and what can be asked before it runs.

Names are imported when they are first used, so that options are checked before torch is loaded. `prepare` and
`rerank_run` are modules of this package, and functions in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relscope.lazy import lazily

if TYPE_CHECKING:
    from relscope.analysis import HeadSet, RankingComparison, chosen_heads
    from relscope.prompts import print_prompt, read_yaml
    from relscope.results import open_run, verdicts_folder
    from relscope.study.ablating import Machine, ablate_run
    from relscope.study.ablation_options import AblationOptions
    from relscope.study.checking import ModelCheck, check_model
    from relscope.study.circuit_options import CircuitOptions
    from relscope.study.circuits import evaluate_circuit, find_circuit, load_circuit, transfer_config
    from relscope.study.comparing import compare_models
    from relscope.study.config import PROMPTS, Negatives, StudyConfig, config_problems, prompt_fields
    from relscope.study.evaluation import Measured, evaluate, evaluate_model, query_texts
    from relscope.study.experiments import (
        EXPERIMENTS,
        WITH_REGIONS,
        Edges,
        Experiments,
        Flow,
        Heads,
        Interaction,
        JointHeads,
        Paths,
        Vocabulary,
        experiment_options,
    )
    from relscope.study.given import require_out, require_run_file, require_sources
    from relscope.study.judging import Judgement, error_of, judge_pairs, quality_of
    from relscope.study.manifest import hardware_names, package_versions
    from relscope.study.plan import Plan, PlannedPart, plan_study
    from relscope.study.prepare import Prepared, Progress, Silent, render_prompts
    from relscope.study.ranking_methods import METHODS
    from relscope.study.rerank_options import Reranking
    from relscope.study.rerank_run import RerankRun, measure_reranked
    from relscope.study.reranking import Reranked, rerank
    from relscope.study.run import run_study

_MODULE_OF = {
    "AblationOptions": "relscope.study.ablation_options",
    "CircuitOptions": "relscope.study.circuit_options",
    "EXPERIMENTS": "relscope.study.experiments",
    "Edges": "relscope.study.experiments",
    "Experiments": "relscope.study.experiments",
    "Flow": "relscope.study.experiments",
    "HeadSet": "relscope.analysis",
    "Heads": "relscope.study.experiments",
    "Interaction": "relscope.study.experiments",
    "JointHeads": "relscope.study.experiments",
    "Judgement": "relscope.study.judging",
    "METHODS": "relscope.study.ranking_methods",
    "Machine": "relscope.study.ablating",
    "Measured": "relscope.study.evaluation",
    "ModelCheck": "relscope.study.checking",
    "Negatives": "relscope.study.config",
    "PROMPTS": "relscope.study.config",
    "Paths": "relscope.study.experiments",
    "Plan": "relscope.study.plan",
    "PlannedPart": "relscope.study.plan",
    "Prepared": "relscope.study.prepare",
    "Progress": "relscope.study.prepare",
    "RankingComparison": "relscope.analysis",
    "RerankRun": "relscope.study.rerank_run",
    "Reranked": "relscope.study.reranking",
    "Reranking": "relscope.study.rerank_options",
    "Silent": "relscope.study.prepare",
    "StudyConfig": "relscope.study.config",
    "Vocabulary": "relscope.study.experiments",
    "WITH_REGIONS": "relscope.study.experiments",
    "ablate_run": "relscope.study.ablating",
    "check_model": "relscope.study.checking",
    "chosen_heads": "relscope.analysis",
    "compare_models": "relscope.study.comparing",
    "config_problems": "relscope.study.config",
    "error_of": "relscope.study.judging",
    "evaluate": "relscope.study.evaluation",
    "evaluate_circuit": "relscope.study.circuits",
    "evaluate_model": "relscope.study.evaluation",
    "experiment_options": "relscope.study.experiments",
    "find_circuit": "relscope.study.circuits",
    "hardware_names": "relscope.study.manifest",
    "judge_pairs": "relscope.study.judging",
    "load_circuit": "relscope.study.circuits",
    "measure_reranked": "relscope.study.rerank_run",
    "open_run": "relscope.results",
    "verdicts_folder": "relscope.results",
    "package_versions": "relscope.study.manifest",
    "plan_study": "relscope.study.plan",
    "prompt_fields": "relscope.study.config",
    "quality_of": "relscope.study.judging",
    "query_texts": "relscope.study.evaluation",
    "read_yaml": "relscope.prompts",
    "render_prompts": "relscope.study.prepare",
    "require_out": "relscope.study.given",
    "require_run_file": "relscope.study.given",
    "require_sources": "relscope.study.given",
    "rerank": "relscope.study.reranking",
    "run_study": "relscope.study.run",
    "print_prompt": "relscope.prompts",
    "transfer_config": "relscope.study.circuits",
}

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PROMPTS",
    "WITH_REGIONS",
    "AblationOptions",
    "CircuitOptions",
    "Edges",
    "Experiments",
    "Flow",
    "HeadSet",
    "Heads",
    "Interaction",
    "JointHeads",
    "Judgement",
    "Machine",
    "Measured",
    "ModelCheck",
    "Negatives",
    "Paths",
    "Plan",
    "PlannedPart",
    "Prepared",
    "Progress",
    "RankingComparison",
    "RerankRun",
    "Reranked",
    "Reranking",
    "Silent",
    "StudyConfig",
    "Vocabulary",
    "ablate_run",
    "check_model",
    "chosen_heads",
    "compare_models",
    "config_problems",
    "error_of",
    "evaluate",
    "evaluate_circuit",
    "evaluate_model",
    "experiment_options",
    "find_circuit",
    "hardware_names",
    "judge_pairs",
    "load_circuit",
    "measure_reranked",
    "open_run",
    "package_versions",
    "plan_study",
    "print_prompt",
    "prompt_fields",
    "quality_of",
    "query_texts",
    "read_yaml",
    "render_prompts",
    "require_out",
    "require_run_file",
    "require_sources",
    "rerank",
    "run_study",
    "transfer_config",
    "verdicts_folder",
]


__getattr__ = lazily(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return list(__all__)
