"""Media in the prompts of a language model: features to word vectors, and these in the places of placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .modality_inputs import ModalityInput, check_rows, feature_input

# Inputs that only the first step of a generation reads: what they say is in the cache afterwards.
MEDIA_INPUTS = ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")
_PARTS = ("features", "attention_mask", "caption_ids", "caption_mask")
PROMPT_INPUTS = (*(f"{name}_{part}" for name in ("video", "audio") for part in _PARTS), *MEDIA_INPUTS)


class MediaPrompts:
    """
    Mixin of a model whose language model reads media.

    The model has, per modality, `<m>_tokens`, a connector and `<m>_projector`; `text_model` where captions are read as
    states; `encode_media`; and a config with `media`, `num_tokens`, `num_caption_tokens` and the ids of the placeholders.
    """

    config: Any
    text_model: Any
    video_connector: Any
    encode_media: Any
    get_input_embeddings: Any

    def connector(self, name: str) -> nn.Module:
        """What a modality's features go through."""
        return self.video_connector if self.config.share_connectors else getattr(self, f"{name}_connector")

    def media_tokens(
        self, name: str, given: ModalityInput, caption: tuple[Tensor | None, Tensor | None], **options: bool
    ) -> tuple[Tensor, Tensor, Any]:
        """
        Word vectors of one modality.

        Args:
            name: "video" or "audio".
            given: features (B, K, D).
            caption: ids and mask (B, N_g).
            options: of the connector, such as `output_attentions`.

        Returns:
            (B, N, d_LLM), which of them hold something (B, N) bool, and what the connector returned.
        """
        states, mask = getattr(self, f"{name}_tokens")(given.states, given.mask)
        ids, caption_mask = caption
        captions: dict[str, Any] = {}
        if ids is not None and self.config.num_caption_tokens(name):
            valid = torch.ones_like(ids) if caption_mask is None else caption_mask
            captions = {"input_ids": ids, "attention_mask": valid}
            if self.config.reads_caption_states(name):
                with torch.no_grad():
                    states_of = self.text_model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
                captions = {"caption_embeds": states_of, "attention_mask": valid}
        out = self.connector(name)(encoder_hidden_states=states, encoder_attention_mask=mask, **captions, **options)
        tokens = getattr(self, f"{name}_projector")(out.last_hidden_state)
        return tokens, out.query_attention_mask.bool(), out

    def splice(self, name: str, input_ids: Tensor, embeds: Tensor, tokens: Tensor | None, present: Tensor) -> Tensor:
        """
        Put the word vectors of the samples that have a modality in the places of its placeholders, in order.

        Args:
            name: "video" or "audio".
            input_ids, embeds: (B, L) and (B, L, d_LLM).
            tokens: (B, N, d_LLM), `None` when no sample has the modality.
            present: (B,) bool.

        Raises:
            ValueError: a sample has another number of placeholders than its modality has tokens.
        """
        slots = self.places(name, input_ids, present)
        if tokens is None:
            return embeds
        return embeds.masked_scatter(slots[..., None], tokens[present].to(embeds.dtype))

    def places(self, name: str, input_ids: Tensor, present: Tensor | None = None) -> Tensor:
        """
        Where the placeholders of a modality are, (B, L) bool.

        Args:
            name: "video" or "audio".
            input_ids: (B, L).
            present: (B,) bool, which samples have the modality; by default those with a placeholder of it.

        Raises:
            ValueError: a sample has another number of placeholders than its modality has tokens.
        """
        token = getattr(self.config, f"{name}_token_id")
        places = input_ids == token
        found = places.sum(1)
        wanted = ((found > 0) if present is None else present) * self.config.num_tokens(name)
        if not torch.equal(found, wanted.to(found)):
            row = int((found != wanted).nonzero()[0])
            raise ValueError(
                f"sample {row} has {int(found[row])} {name} placeholders (token {token}) but {int(wanted[row])} {name} "
                "tokens: make prompts and features with the same processor."
            )
        return places

    def _given(self, name: str, inputs: Mapping[str, Any], encoded: Mapping[str, Any]) -> ModalityInput | None:
        features, mask = inputs.get(f"{name}_features"), inputs.get(f"{name}_attention_mask")
        if name in encoded:
            if features is not None:
                raise ValueError(f"`{name}_features` and raw {name} are both given: pass one of them.")
            features, mask = encoded[name]
        if name not in self.config.media:
            if features is not None:
                raise ValueError(f"`{name}_features` is given but `modalities` is {list(self.config.modalities)}.")
            return None
        width = getattr(self.config, f"{name}_feature_size")
        return feature_input(name, features, mask, width, self.get_input_embeddings().weight.dtype)

    def _caption_of(self, name: str, inputs: Mapping[str, Any], rows: int) -> tuple[Tensor | None, Tensor | None]:
        """Ids and mask of a modality's captions, one row per sample."""
        ids, mask = inputs.get(f"{name}_caption_ids"), inputs.get(f"{name}_caption_mask")
        if ids is None and mask is not None:
            raise ValueError(f"`{name}_caption_mask` is given without `{name}_caption_ids`: pass both or neither.")
        check_rows({f"{name}_caption_ids": ids}, rows)
        if ids is not None and mask is not None and mask.shape != ids.shape:
            raise ValueError(
                f"`{name}_caption_mask` has shape {tuple(mask.shape)} but `{name}_caption_ids` has {tuple(ids.shape)}: they "
                "describe the same tokens, make both with the processor."
            )
        return ids, mask

    def answering_mask(self, input_ids: Tensor, attention_mask: Tensor | None, inputs: Mapping[str, Any]) -> Tensor:
        """
        The attention mask (B, L) with zeros at placeholders of empty caption slots, where connectors mask these.

        Args:
            input_ids, attention_mask: of the prompts.
            inputs: holds `<modality>_caption_mask` where there are captions.

        Raises:
            ValueError: a prompt has some placeholders of a modality, but not as many as its connector gives tokens.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for name in self.config.media:
            slots = self.config.num_caption_tokens(name)
            if not slots or getattr(self.config.connector_config(name), "caption_fill", "filler") != "mask":
                continue
            caption = inputs.get(f"{name}_caption_mask")
            holds = torch.zeros(len(mask), slots, dtype=torch.bool, device=mask.device)
            if caption is not None:
                kept = caption[:, :slots].bool()
                holds[:, : kept.shape[1]] = kept
            learned = holds.new_ones(len(mask), self.config.num_tokens(name) - slots)
            places = self.places(name, input_ids)
            there = places.any(1)
            mask = mask.masked_scatter(places, torch.cat([holds, learned], 1)[there].to(mask.dtype))
        return mask

    def _check_places(self, frames: Tensor | None, encoded: Mapping[str, Any]) -> None:
        """Raise unless the own encoder's patch grid has as many places as the config says; another number is misread."""
        if frames is None or "video" not in encoded or self.config.visual_tokens != "spatiotemporal":
            return
        found, steps = encoded["video"][0].shape[1], frames.shape[1]
        wanted = self.config.num_spatial_tokens + steps
        length = (self.config.media_max_lengths or {}).get("video")
        if found not in (
            wanted if length is None else min(wanted, length),
            steps,
        ):  # a batch without a frame has no places
            raise ValueError(
                f"`num_spatial_tokens` is {self.config.num_spatial_tokens} but the media encoder makes {found - steps} tokens "
                f"of places beside {steps} of frames: build the model with `num_spatial_tokens={found - steps}`."
            )

    def read_media(
        self, rows: int, inputs: Mapping[str, Any], **options: bool
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Any]]:
        """
        Features or raw media of a batch through encoders and connectors.

        Args:
            rows: of the batch.
            inputs: those of `PROMPT_INPUTS` that were given; others are not read.
            options: of the connectors: `output_attentions`, `output_hidden_states`.

        Returns:
            Per modality that the batch has: word vectors (B, N, d_LLM) with the samples that have it (B,) bool, and what its
            connector returned.

        Raises:
            ValueError: another batch size than `rows`, or inputs that do not fit the config; names both.
        """
        encoded = self.encode_media(*(inputs.get(name) for name in MEDIA_INPUTS))
        self._check_places(inputs.get("pixel_values"), encoded)
        tokens: dict[str, tuple[Tensor, Tensor]] = {}
        connectors: dict[str, Any] = {}
        for name in ("video", "audio"):
            given = self._given(name, inputs, encoded)
            if given is None:
                continue
            if len(given.states) != rows:
                raise ValueError(
                    f"the modalities have different batch sizes: `input_ids` has {rows} samples and "
                    f"`{name}_features` {len(given.states)}."
                )
            caption = self._caption_of(name, inputs, rows)
            vectors, _, connectors[name] = self.media_tokens(name, given, caption, **options)
            tokens[name] = vectors, given.present
        return tokens, connectors

    def put_media(self, input_ids: Tensor, embeds: Tensor, tokens: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Word vectors (B, L, d_LLM) with what [`read_media`] returned in the places of its placeholders; see [`splice`]."""
        absent = None, torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for name in self.config.media:
            embeds = self.splice(name, input_ids, embeds, *tokens.get(name, absent))
        return embeds
