"""Tiny connectors and their inputs; no test code in here. `CONNECTOR_TESTERS` switches on the suite of connectors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_mmintent.modeling.configuration_cat_mod import CatModConfig
from hf_mmintent.modeling.configuration_lq_former import LQFormerConfig
from hf_mmintent.modeling.modeling_cat_mod import CatModModel
from hf_mmintent.modeling.modeling_lq_former import LQFormerModel

from .testers import CLS, SEP, VOCAB, tiny_bert

WIDTH = 12  # of the features


class ConnectorTester:
    """Tiny config and inputs of one connector; a subclass per variant."""

    model_class: ClassVar[type]
    config_class: ClassVar[type]
    fields: ClassVar[dict[str, Any]] = {}
    misspelt: ClassVar[tuple[str, str]]
    caption_lengths: ClassVar[tuple[int, ...]] = (4, 2, 0, 3)
    feature_lengths: ClassVar[tuple[int, ...]] = (9, 5, 7, 9)
    # values -> mask, both padded along dimension 1
    sequence_inputs: ClassVar[dict[str, str]] = {
        "input_ids": "attention_mask",
        "encoder_hidden_states": "encoder_attention_mask",
    }

    def config(self, **overrides: Any) -> Any:
        bert = tiny_bert()
        fields: dict[str, Any] = {
            "hidden_size": bert.hidden_size,
            "num_attention_heads": bert.num_attention_heads,
            "intermediate_size": bert.intermediate_size,
            "num_hidden_layers": 2,
            "encoder_hidden_size": WIDTH,
            "vocab_size": VOCAB,
            "max_position_embeddings": bert.max_position_embeddings,
            **self.fields,
        }
        return self.config_class(**{**fields, **overrides})

    def model(self, seed: int = 0, spread: float = 0.3, **overrides: Any) -> Any:
        """In eval mode; weights of standard deviation `spread`, so that every part of it has an effect."""
        torch.manual_seed(seed)
        model = self.model_class(self.config(initializer_range=spread, **overrides))
        return model.eval()

    def inputs(self, seed: int = 7) -> dict[str, Tensor]:
        """Four samples: captions of several lengths and one without, ragged features."""
        generator = torch.Generator().manual_seed(seed)
        longest = max(self.caption_lengths)
        ids, mask = torch.zeros(4, longest, dtype=torch.long), torch.zeros(4, longest, dtype=torch.long)
        for row, length in enumerate(self.caption_lengths):
            if length:
                ids[row, :length] = torch.randint(5, VOCAB, (length,), generator=generator)
                ids[row, 0], ids[row, length - 1] = CLS, SEP
                mask[row, :length] = 1
        steps = max(self.feature_lengths)
        valid = (torch.arange(steps) < torch.tensor(self.feature_lengths)[:, None]).long()
        features = torch.randn(4, steps, WIDTH, generator=generator) * valid[..., None]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "encoder_hidden_states": features,
            "encoder_attention_mask": valid,
        }

    def pad(self, inputs: dict[str, Tensor], extra: int, fill: float) -> dict[str, Tensor]:
        """Append `extra` masked steps to the caption and to the features, whose padding holds `fill`."""
        inputs = dict(inputs)
        for values, mask in self.sequence_inputs.items():
            steps = inputs[values][:, :1].expand(-1, extra, *inputs[values].shape[2:])
            padding = torch.full_like(steps, 5 if values == "input_ids" else fill)
            inputs[values] = torch.cat([inputs[values], padding], 1)
            inputs[mask] = torch.nn.functional.pad(inputs[mask], (0, extra))
        return inputs


class LQFormerTester(ConnectorTester):
    model_class, config_class = LQFormerModel, LQFormerConfig
    fields = {"num_caption_tokens": 6, "num_learned_queries": 3}
    misspelt = ("num_learnt_queries", "num_learned_queries")


class MaskedLQFormerTester(LQFormerTester):
    fields = {**LQFormerTester.fields, "caption_fill": "mask"}


class CatModTester(ConnectorTester):
    model_class, config_class = CatModModel, CatModConfig
    fields = {
        "num_hidden_layers": 3,
        "num_guide_tokens": 6,
        "num_explorer_tokens": 3,
        "guide_schedule": (6, 3, 0),
        "router_loss_weight": 0.01,
    }
    misspelt = ("num_guides_tokens", "num_guide_tokens")


class ThresholdCatModTester(CatModTester):
    fields = {**CatModTester.fields, "router_mode": "threshold", "prune_scope": "ca+ffn", "router_threshold_init": 0.6}


class SharedCatModTester(CatModTester):
    fields = {**CatModTester.fields, "share_cross_kv": True, "norm_style": "pre", "router_similarity": "other_queries"}


class SymmetricCatModTester(CatModTester):
    fields = {**CatModTester.fields, "route_explorers": True, "guide_schedule": (6, 4, 2), "router_sticky": False}


class FoldedCatModTester(CatModTester):
    fields = {**CatModTester.fields, "fold_cross_kv": True}


class RandomCatModTester(CatModTester):
    fields = {**CatModTester.fields, "router_mode": "random", "router_loss_weight": 0.0}


CONNECTOR_TESTERS: list[ConnectorTester] = [
    LQFormerTester(),
    MaskedLQFormerTester(),
    CatModTester(),
    ThresholdCatModTester(),
    SharedCatModTester(),
    SymmetricCatModTester(),
    FoldedCatModTester(),
    RandomCatModTester(),
]
