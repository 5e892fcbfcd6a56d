"""
BERTScore (Zhang et al., 2020) with a model from a local folder; never downloaded, never rescaled.

Greedy matching by cosine without idf weights, as the reference package computes it: the weight of special tokens
([CLS], [SEP]) is 0, but other tokens may be matched to them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from .base import check_same_length


class BertScorer:
    """
    Scores pairs of texts with one layer of a local encoder.

    Args:
        model_path: Folder with a model and its tokenizer.
        layer: Index into `hidden_states` (0 = embeddings); negative counts from the last. State it with the score.
        batch_size: Pairs per forward pass.
        device: Where the model runs.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The model has no such layer.
    """

    def __init__(
        self, model_path: str | Path, layer: int = -1, batch_size: int = 32, device: str | torch.device = "cpu"
    ) -> None:
        if not Path(model_path).is_dir():
            raise FileNotFoundError(
                f"`model_path` is {str(model_path)!r}, not a local folder: download the model first."
            )
        self.tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
        self.model: Any = AutoModel.from_pretrained(model_path, local_files_only=True).to(device).eval()
        states = self.model.config.num_hidden_layers + 1
        if not -states <= layer < states:
            raise ValueError(f"`layer` is {layer} but the model has {states} hidden states (0…{states - 1}).")
        self.layer = layer % states
        self.batch_size = batch_size
        self.name = Path(model_path).name

    @property
    def settings(self) -> dict[str, Any]:
        """What must be printed beside the score."""
        return {"model": self.name, "layer": self.layer, "idf": False, "rescale": False}

    def f1_each(self, references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """
        F1 of greedy token matching per pair.

        Args:
            references, hypotheses: One text per sample; longer ones are cut at the model's maximum length.

        Returns:
            float64 of shape `(n,)`, 0 where either text is empty.
        """
        n = check_same_length(references=references, hypotheses=hypotheses)
        values = np.zeros(n)
        # equal lengths together waste little padding; the order does not change the scores
        order = sorted(range(n), key=lambda i: len(hypotheses[i]) + len(references[i]))
        pairs = [i for i in order if references[i].strip() and hypotheses[i].strip()]
        for batch in _batches(pairs, self.batch_size):
            truth, truth_mask, truth_weight = self._embed([references[i] for i in batch])
            guess, guess_mask, guess_weight = self._embed([hypotheses[i] for i in batch])
            similarity = guess @ truth.transpose(1, 2)  # (B, hypothesis tokens, reference tokens)
            similarity = similarity * (guess_mask.unsqueeze(2) * truth_mask.unsqueeze(1))
            precision = (similarity.amax(2) * guess_weight).sum(1)
            recall = (similarity.amax(1) * truth_weight).sum(1)
            f1 = torch.nan_to_num(2 * precision * recall / (precision + recall), nan=0.0)
            values[batch] = f1.double().cpu().numpy()
        return values

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unit vectors (B, T, D), mask (B, T) and weights (B, T) that sum to 1 over the ordinary tokens of a text."""
        limit = min(self.model.config.max_position_embeddings, self.tokenizer.model_max_length)
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt", return_special_tokens_mask=True
        )
        special = inputs.pop("special_tokens_mask").to(self.model.device)
        inputs = inputs.to(self.model.device)
        hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer].float()
        mask = inputs["attention_mask"].float()
        weight = mask * (1 - special)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(hidden, dim=-1), mask, weight


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in tqdm(range(0, len(items), size), desc="BERTScore", disable=len(items) <= size):
        yield items[start : start + size]
