"""Training on `transformers.Trainer`: run configurations, one thin trainer, complete checkpoints."""

from .checkpoints import last_complete_checkpoint
from .run_config import DataSettings, RunConfig
from .runs import TrainedRun, train_run, train_seeds
from .stages import FinishedStage, StageEpochs, train_in_stages
from .trainer import MultimodalTrainer

__all__ = [
    "DataSettings",
    "FinishedStage",
    "MultimodalTrainer",
    "RunConfig",
    "StageEpochs",
    "TrainedRun",
    "last_complete_checkpoint",
    "train_in_stages",
    "train_run",
    "train_seeds",
]
