"""The losses of PLUM-Net in its stages; equations are numbered as in the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .class_contrast import across_modalities_contrast, within_modality_contrast
from .configuration_plum_net import PlumNetConfig
from .losses import soft_target_loss, task_loss
from .plum_net_outputs import PlumNetModelOutput
from .prototype_labels import PrototypeLabels


def stage_loss(
    config: PlumNetConfig,
    labeller: PrototypeLabels,
    logits: Tensor,
    branch_logits: dict[str, Tensor],
    out: PlumNetModelOutput,
    labels: Tensor,
    classes: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    The loss of `config.training_stage`: Eq. (10) in the stage `alignment`, Eq. (13) otherwise.

    Args:
        labeller: prototypes, class counts and the epochs of the warm-up.
        logits: (B, num_labels).
        branch_logits: `common` and `private`, (B, M, C) each; empty without branches.
        out: of the base model.
        labels: (B,), as the user gave them.
        classes: (B,) long, class of each label, −1 where unknown.

    Returns:
        () float32, and the terms that were computed by name, unweighted and detached.

    Raises:
        ValueError: the model has no loss for this stage.
    """
    terms: dict[str, Tensor] = {}
    total = logits.new_zeros((), dtype=torch.float32)
    stage1_weight = 1.0
    if config.training_stage != "alignment":
        stage1_weight = config.stage1_weight_in_stage2
        regression = config.problem_type == "regression"
        weight = labeller.class_weight() if config.class_balanced_ce and not regression else None
        terms["task"] = task_loss(logits, labels, config.problem_type, "l1", weight)  # Eq. (11) and (12)
        total = total + terms["task"]
    if stage1_weight > 0:
        if branch_logits:  # Eq. (8)
            terms["common"], terms["private"] = branch_terms(config, labeller, branch_logits, out, classes)
            total = total + stage1_weight * (terms["common"] + terms["private"])
        if config.use_msa and config.msa_loss_weight > 0:  # Eq. (3)
            terms["msa_inter"], terms["msa_intra"] = alignment_terms(config, out, classes)
            total = total + stage1_weight * config.msa_loss_weight * (
                terms["msa_inter"] + terms["msa_intra"]
            )  # Eq. (10)
    if not terms:
        raise ValueError(
            f"`training_stage` is {config.training_stage!r} but the model has no loss for it: `use_msa` is "
            f"{config.use_msa}, `use_psl_tfb` is {config.use_psl_tfb}. Call `set_stage('refinement')`."
        )
    return total, {name: term.detach() for name, term in terms.items()}


def branch_terms(
    config: PlumNetConfig,
    labeller: PrototypeLabels,
    branch_logits: dict[str, Tensor],
    out: PlumNetModelOutput,
    classes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Eq. (6) on the true class and Eq. (7) on the label of the modality, each summed over the modalities."""
    weight = labeller.class_weight() if config.class_balanced_ce else None
    warm = labeller.ready & (labeller.epochs_started > config.psl_warmup_epochs)  # (M,)
    common, private = [], []
    for index in range(len(config.modalities)):
        known = out.presence[:, index] & (classes >= 0)
        truth = nn.functional.one_hot(classes.clamp(min=0), config.num_structure_classes).float()
        own = out.soft_labels[:, index].float()
        if config.psl_target == "hard":
            own = nn.functional.one_hot(out.hard_labels[:, index].clamp(min=0), own.shape[-1]).float()
        own = torch.where(warm[index], own, truth)
        common.append(soft_target_loss(branch_logits["common"][:, index], truth, known, weight))
        private.append(soft_target_loss(branch_logits["private"][:, index], own, known, weight))
    return torch.stack(common).sum(), torch.stack(private).sum()


def alignment_terms(config: PlumNetConfig, out: PlumNetModelOutput, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (2) across modalities, and Eq. (1) summed over the modalities."""
    valid = out.presence & (classes >= 0)[:, None]
    options = (config.msa_temperature, config.msa_form)
    inter = across_modalities_contrast(out.projected_embeddings, classes, valid, *options)
    intra = [
        within_modality_contrast(out.raw_embeddings[:, i], classes, valid[:, i], *options)
        for i in range(len(config.modalities))
    ]
    return inter, torch.stack(intra).sum()
