"""MISA: what the modalities share and what each has for itself, in two subspaces.

Hazarika, Zimmermann, Poria: "MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis", ACM
Multimedia 2020. Section 3.2: utterance vectors and their two representations; 3.3: fusion; 3.4: losses.

    u_m ─┬─ E_c (one for all) ── h_m^c ─┐                                  ┌─ joined ── layer ── head
         └─ E_p (one per m)   ── h_m^p ─┴─ attention over all 2M of them ──┘
    û_m = D(h_m^c + h_m^p);   loss = task + α similarity + β difference + γ reconstruction, see `subspace_losses.py`
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .configuration_misa import MisaConfig
from .fusion_base import FusionClassifier, FusionModel, FusionPreTrainedModel
from .layers import Dropout, MaskedBiLSTM, ReluLinear, TransformerLayer, clear_padding, key_mask, last_step
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .subspace_losses import central_moment_discrepancy, difference_loss, reconstruction_loss


class MisaPreTrainedModel(FusionPreTrainedModel):
    """Base of the MISA family."""

    config: MisaConfig
    config_class = MisaConfig
    citation = """@inproceedings{hazarika2020misa,
  title = {{MISA}: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis},
  author = {Hazarika, Devamanyu and Zimmermann, Roger and Poria, Soujanya},
  booktitle = {Proceedings of the 28th ACM International Conference on Multimedia},
  year = {2020}
}"""
    _auto_map = {
        "AutoConfig": "configuration_misa.MisaConfig",
        "AutoModel": "modeling_misa.MisaModel",
        "AutoModelForSequenceClassification": "modeling_misa.MisaForSequenceClassification",
    }


class StackedLstm(nn.Module):
    """The sLSTM of section 3.2: two bidirectional LSTMs, a layer norm between; last states of both directions as a vector."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lower = MaskedBiLSTM(input_size, hidden_size)
        self.norm = nn.LayerNorm(2 * hidden_size)
        self.upper = MaskedBiLSTM(2 * hidden_size, hidden_size)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, 2·hidden_size); zeros in rows without frames."""
        states = clear_padding(self.norm(self.lower(clear_padding(frames, mask), mask)), mask)
        ahead, back = self.upper(states, mask).chunk(2, -1)
        return torch.cat([last_step(ahead, mask), back[:, 0]], -1)


class MisaModel(MisaPreTrainedModel, FusionModel):
    """Utterance vectors, their two projections and the attention over all of them."""

    def __init__(self, config: MisaConfig) -> None:
        super().__init__(config)
        names, size = list(config.modalities), config.hidden_size
        hidden = config.lstm_hidden_size
        sizes = config.feature_sizes
        self.lstms = nn.ModuleDict({name: StackedLstm(sizes[name], hidden) for name in names if name != "text"})
        text_width = config.text_config.hidden_size if "text" in names else 0
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(text_width if name == "text" else 2 * hidden, size), nn.LayerNorm(size))
                for name in names
            }
        )
        # The sigmoid keeps the entries in [0, 1], the interval of the discrepancy.
        self.shared_encoder = nn.Linear(size, size)  # E_c
        self.private_encoders = nn.ModuleDict({name: nn.Linear(size, size) for name in names})  # E_p
        self.decoder = nn.Linear(size, size)  # D
        self.attention = TransformerLayer(config, size, config.fusion_heads, None, config.fusion_dropout)
        self.embedding_size = len(names) * size
        self.dropout = Dropout(config.fusion_dropout)
        self.fusion = ReluLinear(2 * len(names) * size, self.embedding_size)
        self.post_init()

    def utterance(self, name: str, item: ModalityInput, token_type_ids: Tensor | None, recorder: Recorder) -> Tensor:
        """u_m, (B, d_h); zeros where a sample lacks m."""
        if name == "text":
            row = self.pool_text(self.encode_text(item, token_type_ids, recorder), item.mask)
        else:
            row = self.lstms[name](item.states, item.mask)
        return self.projections[name](row).masked_fill(~item.present[:, None], 0.0)

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        rows = [self.utterance(name, item, token_type_ids, recorder) for name, item in given.items()]
        utterances = torch.stack(rows, 1)  # (B, M, d_h)
        present = torch.stack([item.present for item in given.values()], 1)  # (B, M)
        shared = torch.sigmoid(self.shared_encoder(utterances))  # h_m^c = E_c(u_m), section 3.2
        private = torch.stack(
            [torch.sigmoid(self.private_encoders[name](row)) for name, row in zip(given, rows, strict=True)], 1
        )
        both = present.repeat(1, 2)
        # Section 3.3: h̄ = MultiHead(M), a Transformer layer around it [public]; h_out = [h̄^c …; h̄^p …] in one vector.
        tokens = clear_padding(torch.cat([shared, private], 1), both)  # M = [h^c …; h^p …], (B, 2M, d_h)
        states, weights = self.attention(tokens, key_mask(self.config, tokens, tokens, both))
        recorder.add(states, weights)
        joined = clear_padding(states, both).flatten(1)
        embeddings = torch.relu(self.fusion(self.dropout(joined)))
        regularizers = self.regularizers(utterances, shared, private, present) if self.training else None
        return embeddings, regularizers

    def regularizers(self, utterances: Tensor, shared: Tensor, private: Tensor, present: Tensor) -> dict[str, Tensor]:
        """
        The losses of section 3.4 beside that of the task, over the rows H of a batch:

            3.4.1  L_sim   = mean over pairs m < n of CMD_K(H_m^c, H_n^c)
            3.4.2  L_diff  = Σ_m ‖H_m^cᵀ H_m^p‖²_F + Σ_{m<n} ‖H_m^pᵀ H_n^p‖²_F
            3.4.3  L_recon = mean over m of ‖u_m − û_m‖² / d_h,  û_m = D(h_m^c + h_m^p)

        Args:
            utterances, shared, private: u, h^c, h^p, (B, M, d_h).
            present: (B, M) bool.
        """
        config, count = self.config, utterances.shape[1]
        pairs = list(itertools.combinations(range(count), 2))
        similarity = [
            central_moment_discrepancy(shared[:, i], shared[:, j], present[:, i], present[:, j], config.num_moments)
            for i, j in pairs
        ]
        own = [(shared[:, i], private[:, i], present[:, i]) for i in range(count)]
        across = [(private[:, i], private[:, j], present[:, i] & present[:, j]) for i, j in pairs]
        difference = [difference_loss(*terms, config.difference_reduction) for terms in (*own, *across)]
        decoded = self.decoder(shared + private)
        reconstruction = [reconstruction_loss(utterances[:, i], decoded[:, i], present[:, i]) for i in range(count)]
        return {
            "similarity": torch.stack(similarity).mean(),
            "difference": torch.stack(difference).sum(),
            "reconstruction": torch.stack(reconstruction).mean(),
        }


class MisaForSequenceClassification(MisaPreTrainedModel, FusionClassifier):
    """[`MisaModel`] with its losses; regression with `num_labels=1`."""

    model_class = MisaModel
