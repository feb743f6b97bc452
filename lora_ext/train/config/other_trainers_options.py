"""Names of options in diffusers' training scripts and in cloneofsimo's `lora_pti`, and what each is here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RENAMED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        # diffusers: train_text_to_image_lora.py, train_dreambooth_lora.py
        "class_data_dir": "reg_data_dir",
        "dataloader_num_workers": "max_data_loader_n_workers",
        "enable_xformers_memory_efficient_attention": "xformers",
        "image_interpolation_mode": "resize_interpolation",
        "instance_data_dir": "train_data_dir",
        "lr_num_cycles": "lr_scheduler_num_cycles",
        "lr_power": "lr_scheduler_power",
        "num_train_epochs": "max_train_epochs",
        "optimizer": "optimizer_type",
        "pre_compute_text_embeddings": "cache_text_encoder_outputs",
        "random_flip": "flip_aug",
        "repeats": "dataset_repeats",
        "resume_from_checkpoint": "resume",
        "snr_gamma": "min_snr_gamma",
        "use_dora": "dora_wd",
        "validation_epochs": "sample_every_n_epochs",
        "with_prior_preservation": "reg_generate",
        # cloneofsimo: lora_pti
        "cached_latents": "cache_latents",
        "color_jitter": "color_aug",
        "continue_inversion": "inversion_continue",
        "initializer_tokens": "init_word",
        "learning_rate_text": "text_encoder_lr",
        "learning_rate_ti": "inversion_lr",
        "learning_rate_unet": "unet_lr",
        "lr_scheduler_lora": "lr_scheduler",
        "lr_warmup_steps_lora": "lr_warmup_steps",
        "max_train_steps_ti": "inversion_steps",
        "max_train_steps_tuning": "max_train_steps",
        "out_name": "output_name",
        "placeholder_tokens": "token_string",
        "save_steps": "save_every_n_steps",
        "wandb_project_name": "log_tracker_name",
    }
)
"""Name there → the same option here."""

TRANSLATED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "adam_beta1": "betas of optimizer_args",
        "adam_beta2": "betas of optimizer_args",
        "adam_epsilon": "eps of optimizer_args",
        "adam_weight_decay": "weight_decay of optimizer_args",
        "checkpointing_steps": "save_every_n_steps and save_state",
        "checkpoints_total_limit": "save_last_n_steps and save_last_n_steps_state, times checkpointing_steps",
        "dataset_name": "train_data_dir, where it is a folder of this machine",
        "huggingface_repo_id": "push_to_hub and hub_model_id",
        "log_wandb": "log_with wandb",
        "lora_rank": "network_dim and, as there, network_alpha; with lora_scale",
        "lora_scale": "network_alpha, as the factor on the rank",
        "perform_inversion": "without it placeholder_tokens and initializer_tokens are left out",
        "prediction_type": "v_parameterization",
        "prodigy_beta3": "beta3 of optimizer_args",
        "prodigy_decouple": "decouple of optimizer_args",
        "prodigy_safeguard_warmup": "safeguard_warmup of optimizer_args",
        "prodigy_use_bias_correction": "use_bias_correction of optimizer_args",
        "rank": "network_dim and, as there, network_alpha, network_targets attention and, without train_text_encoder, "
        "network_train_unet_only",
        "report_to": "log_with",
        "train_text_encoder": "the text encoder is trained unless network_train_unet_only is set; see rank",
        "use_extended_lora": "network_module c3lier",
        "weight_decay_lora": "weight_decay of optimizer_args",
    }
)
"""Name there → what it sets here."""

_LOCAL = "models and pictures are files of this machine"
_ONE_BY_ONE = "pictures are generated one by one, in the model's own precision"
OTHER_IGNORED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "allow_tf32": "products in float32 keep their precision; mixed_precision is quicker",
        "cache_dir": _LOCAL,
        "center_crop": "pictures are cropped at the centre unless random_crop is given",
        "debug_loss": "the loss of every step is in the CSV file anyway",
        "local_rank": "accelerate launch tells it",
        "output_kohya_format": "files have kohya's key format anyway; 'convert' writes diffusers'",
        "prior_generation_precision": _ONE_BY_ONE,
        "proxy_token": "pictures are not scored by CLIP during training",
        "sample_batch_size": _ONE_BY_ONE,
        "variant": "the variant of a model folder is found by itself",
        "wandb_entity": "wandb's own settings name it",
        "wandb_log_prompt_cnt": "pictures are not scored by CLIP during training",
    }
)
"""Option that is accepted and does nothing here → why."""

NO_TOKEN = "log in with 'hf auth login' or set HF_TOKEN, so that no token is in a command line or a file"
_DROPOUT = "dropout acts elsewhere here: on the values between the factors; use network_dropout"
_CLASSES = "layers are chosen by network_targets, network_include and network_exclude"
OTHER_UNSUPPORTED_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "adam_weight_decay_text_encoder": "all parameters have one weight decay; use adam_weight_decay",
        "class_labels_conditioning": "such models (DeepFloyd IF) are not trained",
        "clip_ti_decay": "the norm of the new token's embedding is not pulled to 0.4",
        "continue_inversion_lr": "the token keeps learning at inversion_lr",
        "dataset_config_name": f"{_LOCAL}; give the folder of one configuration as train_data_dir",
        "do_edm_style_training": "EDM models are not trained",
        "enable_npu_flash_attention": "use sdpa",
        "extra_args": "give each of them as an option",
        "hub_token": NO_TOKEN,
        "lora_clip_target_modules": _CLASSES,
        "lora_dropout": _DROPOUT,
        "lora_dropout_p": _DROPOUT,
        "lora_unet_target_modules": _CLASSES,
        "mask_temperature": "masks are used as they are; use masked_loss",
        "max_train_samples": "give a folder with fewer pictures",
        "placeholder_token_at_data": "write the token of token_string into the captions",
        "pretrained_vae_model_name_or_path": "the checkpoint's own VAE is used; put the other one into the checkpoint",
        "pretrained_vae_name_or_path": "the checkpoint's own VAE is used; put the other one into the checkpoint",
        "revision": f"{_LOCAL}; download that revision and give its folder",
        "scale_lr": "multiply learning_rate by train_batch_size and gradient_accumulation_steps yourself",
        "text_encoder_use_attention_mask": "such models (DeepFloyd IF) are not trained",
        "tokenizer_max_length": "use max_token_length 75, 150 or 225",
        "tokenizer_name": "use --tokenizer with a folder",
        "use_face_segmentation_condition": "use masked_loss with masks in conditioning_data_dir",
        "use_mask_captioned_data": "use masked_loss with masks in conditioning_data_dir",
        "use_template": "write captions, or instance_prompt",
        "validation_images": "such models (DeepFloyd IF) are not trained",
        "weight_decay_ti": "the new token has the optimizer's weight decay",
    }
)
"""Option that fails if its value turns something on → what to use, or why not."""

OTHER_TRAINERS_OPTIONS = frozenset({*RENAMED_OPTIONS, *TRANSLATED_OPTIONS})
"""Options of other trainers that set options of other names here."""
