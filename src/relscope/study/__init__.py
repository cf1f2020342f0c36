"""The study: one frozen configuration, run to rows; and what can be asked before it runs."""

from relscope.analysis import HeadSet, RankingComparison, chosen_heads
from relscope.prompts import print_prompt as show_prompt
from relscope.prompts import read_yaml
from relscope.results import open_run
from relscope.study.ablating import Machine, ablate_run
from relscope.study.ablation_plan import AblationOptions
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
from relscope.study.judging import Judgement, error_of, judge_pairs, quality_of
from relscope.study.manifest import hardware_names, package_versions
from relscope.study.plan import Plan, plan_study
from relscope.study.prepare import Prepared, Progress, Silent, prepare, render_prompts
from relscope.study.ranking_methods import METHODS
from relscope.study.rerank_run import RerankRun, measure_reranked, rerank_run
from relscope.study.reranking import Reranked, Reranking, rerank
from relscope.study.run import run_study

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
    "prepare",
    "prompt_fields",
    "quality_of",
    "query_texts",
    "read_yaml",
    "render_prompts",
    "rerank",
    "rerank_run",
    "run_study",
    "show_prompt",
    "transfer_config",
]
