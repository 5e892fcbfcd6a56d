"""Inputs, outputs and losses of the baselines: each architecture adds the fusion alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_fusion import FusionConfig
from .layers import Dropout, masked_mean
from .losses import task_loss
from .modality_inputs import ModalityInput, as_bool_mask, check_batch_sizes, check_beside_text, feature_input
from .modeling_base import MMIntentPreTrainedModel
from .modeling_media_encoder import MediaEncoderModel
from .outputs import MultimodalOutput
from .recorder import Recorder
from .text_backbone import build_text_backbone, run_text_backbone


@dataclass
class FusionModelOutput(ModelOutput):
    """
    Output of the baselines without their head.

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, embedding_size)`): fused representation.
        regularizers (`dict[str, torch.FloatTensor]`, *optional*):
            Losses beside that of the task, unweighted, in training and where the architecture has any.
        hidden_states, attentions (`tuple`, *optional*): of every layer in the order in which they run, on request.
    """

    embeddings: torch.FloatTensor | None = None
    regularizers: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class FusionOutput(MultimodalOutput):
    """[`MultimodalOutput`] with hidden states and attention maps on request. `modality_weights` stays `None`."""

    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def _input_name(modality: str) -> str:
    return "input_ids" if modality == "text" else f"{modality}_features"


class FusionPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the baselines."""

    config: FusionConfig
    _no_split_modules = ["TransformerLayer"]


class FusionModel(FusionPreTrainedModel):
    """
    Checked inputs to a fused representation.

    Subclasses build their layers, call `post_init`, set `embedding_size` and define [`fuse`].
    """

    embedding_size: int

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.text_model = build_text_backbone(config.text_config) if "text" in config.modalities else None
        self.media_encoder = None if config.encoder_config is None else MediaEncoderModel(config.encoder_config)

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """
        Args:
            given: the declared modalities in their order; those that the batch lacks have one masked step.
            token_type_ids: (B, L), for the text backbone.
            recorder: of hidden states and attention maps.

        Returns:
            (B, embedding_size), and the regularisers in training.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `fuse`.")

    def get_input_embeddings(self) -> nn.Module | None:
        return None if self.text_model is None else self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.text_model is None:
            raise ValueError(f"`modalities` is {list(self.config.modalities)}: without text there are no embeddings.")
        self.text_model.set_input_embeddings(value)

    # ---- inputs -------------------------------------------------------------------------------------------------

    def given_modalities(self, inputs: Mapping[str, Tensor | None]) -> dict[str, ModalityInput]:
        """
        Checked inputs of all declared modalities; one step of zeros that no sample has where the batch lacks one.

        Raises:
            ValueError: nothing is given, shapes disagree, or an input belongs to a modality that the model lacks.
        """
        config = self.config
        raw = ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")
        encoded = self.encode_media(*(inputs.get(name) for name in raw))
        found: dict[str, ModalityInput | None] = {}
        for name in ("text", "audio", "video"):
            key, mask_key = _input_name(name), "attention_mask" if name == "text" else f"{name}_attention_mask"
            values, mask = inputs.get(key), inputs.get(mask_key)
            if name not in config.modalities:
                if values is not None:
                    raise ValueError(f"`{key}` is given but `config.modalities` is {list(config.modalities)}.")
            elif name == "text":
                found[name] = self._text_input(values, mask, inputs.get("token_type_ids"))
            else:
                pair = encoded.get(name, (values, mask))
                if name in encoded and values is not None:
                    raise ValueError(f"`{key}` and raw {name} are both given: pass one of them, they say the same.")
                found[name] = feature_input(name, *pair, config.feature_sizes[name], self.dtype)
        size = check_batch_sizes({_input_name(name): item for name, item in found.items()})
        device = next(item.states.device for item in found.values() if item is not None)
        return {name: found[name] or self._nothing(name, size, device) for name in config.modalities}

    @staticmethod
    def _text_input(ids: Tensor | None, mask: Tensor | None, token_type_ids: Tensor | None) -> ModalityInput | None:
        if ids is None:
            if mask is not None or token_type_ids is not None:
                raise ValueError("`attention_mask` or `token_type_ids` is given without `input_ids`.")
            return None
        check_beside_text({"token_type_ids": token_type_ids}, tuple(ids.shape))
        return ModalityInput(ids, as_bool_mask("text", mask, tuple(ids.shape), ids.device))

    def _nothing(self, name: str, size: int, device: torch.device) -> ModalityInput:
        mask = torch.zeros(size, 1, dtype=torch.bool, device=device)
        if name == "text":
            return ModalityInput(torch.zeros(size, 1, dtype=torch.long, device=device), mask)
        width = self.config.feature_sizes[name]
        return ModalityInput(torch.zeros(size, 1, width, dtype=self.dtype, device=device), mask)

    @staticmethod
    def shown_positions(text: ModalityInput) -> Tensor:
        """Positions that the text backbone is shown, (B, L) bool: the text's own, and the first one in rows without text."""
        seen = text.mask.clone()
        seen[:, 0] |= ~text.present
        return seen

    def encode_text(
        self, text: ModalityInput, token_type_ids: Tensor | None, recorder: Recorder, **options: Any
    ) -> Tensor:
        """Last states (B, L, d) of the text backbone; those of padding and of rows without text are for no one to read."""
        seen = self.shown_positions(text)
        ids = text.states.masked_fill(~text.mask, getattr(self.config.text_config, "pad_token_id", None) or 0)
        out = run_text_backbone(
            self.text_model,
            ids,
            seen,
            token_type_ids,
            output_hidden_states=recorder.hidden_states is not None,
            output_attentions=recorder.attentions is not None,
            **options,
        )
        recorder.add_all(out, ids.shape[0])
        return out.last_hidden_state

    def pool_text(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) -> (B, d) as `config.text_pooling` says; zeros in rows whose mask is empty."""
        if self.config.text_pooling == "mean":
            return masked_mean(states, mask)
        return states[:, 0].masked_fill(~mask.any(1, keepdim=True), 0.0)

    # ---- the whole ----------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> FusionModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
                Right-padded tokens. At least one modality must be given.
            attention_mask (`torch.Tensor` of shape `(batch_size, text_length)`, *optional*):
                1 for tokens. A row of zeros marks a sample without text.
            token_type_ids (`torch.LongTensor`, *optional*): passed on if the text backbone takes it.
            audio_features (`torch.FloatTensor` of shape `(batch_size, audio_length, config.audio_feature_size)`, *optional*):
                `None` when no sample of the batch has audio.
            audio_attention_mask (`torch.Tensor` of shape `(batch_size, audio_length)`, *optional*):
                1 on valid frames, a right-padded prefix. A row of zeros marks a sample without audio.
            video_features, video_attention_mask: the same for video.
            input_values, input_values_mask (`torch.FloatTensor` of shape `(batch_size, samples)`, *optional*):
                Raw 16 kHz sound, when the model owns a media encoder.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`, *optional*):
                Raw pictures with `pixel_values_mask` (batch_size, frames).
            output_attentions, output_hidden_states (`bool`, *optional*): attention maps need the eager implementation.

        Returns:
            [`FusionModelOutput`].
        """
        given = self.given_modalities(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "token_type_ids": token_type_ids,
                "audio_features": audio_features,
                "audio_attention_mask": audio_attention_mask,
                "video_features": video_features,
                "video_attention_mask": video_attention_mask,
                "input_values": input_values,
                "input_values_mask": input_values_mask,
                "pixel_values": pixel_values,
                "pixel_values_mask": pixel_values_mask,
            }
        )
        recorder = Recorder(
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            self.config.output_attentions if output_attentions is None else output_attentions,
        )
        embeddings, regularizers = self.fuse(given, token_type_ids, recorder)
        return FusionModelOutput(embeddings=embeddings, regularizers=regularizers, **recorder.fields)


class FusionClassifier(FusionPreTrainedModel):
    """A [`FusionModel`] with a linear head and the losses; regression with `num_labels=1`. Subclasses set `model_class`."""

    model_class: type[FusionModel]

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.model = self.model_class(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(self.model.embedding_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        labels: Tensor | None = None,
        class_weight: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> FusionOutput:
        r"""
        Inputs are those of [`FusionModel.forward`], and:

        Args:
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices, −100 is ignored; floats in regression; (batch_size, num_labels) with several labels.
            class_weight (`torch.FloatTensor` of shape `(num_labels,)`, *optional*): weights of the cross-entropy.

        Returns:
            [`FusionOutput`]. The regularisers enter `loss` in training mode only.
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            video_features=video_features,
            video_attention_mask=video_attention_mask,
            input_values=input_values,
            input_values_mask=input_values_mask,
            pixel_values=pixel_values,
            pixel_values_mask=pixel_values_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        config = self.config
        logits = self.classifier(self.dropout(out.embeddings))
        loss, terms = None, None
        if labels is not None:
            loss = task_loss(logits, labels, config.problem_type, config.regression_loss, class_weight)
            terms = {"task": loss.detach()}
            for name, value in (out.regularizers or {}).items():
                terms[name] = value.detach()
                loss = loss + config.regularizer_weights[name] * value
        return FusionOutput(
            loss=loss,
            logits=logits,
            embeddings=out.embeddings,
            loss_terms=terms,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
