"""Metrics, significance tests, result files and tables. Scores come from saved predictions, offline."""

from .base import LocalMetric, Scores, TrainCounts
from .bertscore import BertScorer
from .compute import build_compute_metrics
from .explanation import (
    ExplanationMetric,
    explanation_scores,
    explanation_scores_by_field,
    explanation_settings,
    text_scores,
)
from .intent import (
    IntentMetric,
    PerClassReport,
    intent_scores,
    joint_scores,
    multi_label_scores,
    per_class_report,
    rare_classes,
)
from .out_of_scope import (
    OutOfScopeMetric,
    detection_scores,
    doc_predict,
    doc_sigma,
    doc_thresholds,
    oos_outputs,
    oos_scores,
    open_scores,
)
from .predictions import Predictions
from .results import ReferenceValue, RunResult, label_order_hash, library_versions, metric_versions, read_runs
from .sample_statistics import Statistic, class_statistic, mean_statistic, open_statistic, rare_statistic, statistic
from .sentiment import RegressionMetric, regression_scores
from .significance import BootstrapResult, Summary, holm, mean_std, paired_bootstrap
from .tables import (
    difference_from_paper,
    format_score,
    format_summary,
    table_cells,
    table_rows,
    to_csv,
    to_markdown,
    units,
    write_table,
)
from .text_overlap import bleu4, cider_d_each, rouge_l_each, strip_label_prefix, tokenize

__all__ = [
    "BertScorer",
    "BootstrapResult",
    "ExplanationMetric",
    "IntentMetric",
    "LocalMetric",
    "OutOfScopeMetric",
    "PerClassReport",
    "Predictions",
    "ReferenceValue",
    "RegressionMetric",
    "RunResult",
    "Scores",
    "Statistic",
    "Summary",
    "TrainCounts",
    "bleu4",
    "build_compute_metrics",
    "cider_d_each",
    "class_statistic",
    "detection_scores",
    "difference_from_paper",
    "doc_predict",
    "doc_sigma",
    "doc_thresholds",
    "explanation_scores",
    "explanation_scores_by_field",
    "explanation_settings",
    "format_score",
    "format_summary",
    "holm",
    "intent_scores",
    "joint_scores",
    "label_order_hash",
    "library_versions",
    "mean_statistic",
    "mean_std",
    "metric_versions",
    "multi_label_scores",
    "oos_outputs",
    "oos_scores",
    "open_scores",
    "open_statistic",
    "paired_bootstrap",
    "per_class_report",
    "rare_classes",
    "rare_statistic",
    "read_runs",
    "regression_scores",
    "rouge_l_each",
    "statistic",
    "strip_label_prefix",
    "table_cells",
    "table_rows",
    "text_scores",
    "to_csv",
    "to_markdown",
    "tokenize",
    "units",
    "write_table",
]
