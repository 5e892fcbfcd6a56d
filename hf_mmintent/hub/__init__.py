"""Publishing a trained model: its card, an all-or-nothing save, and one commit on the Hub."""

from .model_card import build_model_card
from .push import push_checkpoint, save_checkpoint
from .run_summary import AblationRow, InputRow, ReferenceRow, RunSummary, SplitScores, describe_inputs

__all__ = [
    "AblationRow",
    "InputRow",
    "ReferenceRow",
    "RunSummary",
    "SplitScores",
    "build_model_card",
    "describe_inputs",
    "push_checkpoint",
    "save_checkpoint",
]
