"""Training on `transformers.Trainer`: run configurations, one thin trainer, complete checkpoints."""

from .checkpoints import last_complete_checkpoint
from .run_config import DataSettings, RunConfig
from .runs import TrainedRun, train_run, train_seeds
from .trainer import MultimodalTrainer

__all__ = [
    "DataSettings",
    "MultimodalTrainer",
    "RunConfig",
    "TrainedRun",
    "last_complete_checkpoint",
    "train_run",
    "train_seeds",
]
