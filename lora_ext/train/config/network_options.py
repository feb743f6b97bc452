"""`NetworkOptions`: the options of `Recipe` that describe the network: its kind, ranks, layers and blocks."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe_option import ADAPTER_ALGOS, LORA_INITS, NETWORK_MODULES, NETWORK_TARGETS, recipe_option


@dataclass(frozen=True)
class NetworkOptions:
    """What is trained; each option's help says what it does."""

    # --- network
    network_module: str = recipe_option(
        "lierla", "which network: LierLa, C3Lier, DyLoRA", "network", NETWORK_MODULES, basic=True
    )
    algo: str = recipe_option("lora", "kind of adapter: LoRA or one of LyCORIS'", "network", ADAPTER_ALGOS, basic=True)
    network_dim: int = recipe_option(4, "rank of Linear and 1x1 layers", "network", low=1, high=1024, basic=True)
    network_alpha: float = recipe_option(
        1.0, "LoRA alpha; the update is scaled by alpha / rank", "network", low=0, high=1024, basic=True
    )
    conv_dim: int | None = recipe_option(
        None, "rank of 3x3 layers (C3Lier, DyLoRA)", "network", low=1, high=1024, basic=True
    )
    conv_alpha: float | None = recipe_option(None, "alpha of 3x3 layers; 1 where conv_dim is set", "network", low=0)
    network_weights: str | None = recipe_option(None, "LoRA file to continue from", "network", kind="file")
    dim_from_weights: bool = recipe_option(False, "ranks as in network_weights", "network")
    base_weights: tuple[str, ...] = recipe_option(
        (), "LoRA files that are added to the base model while it is trained on", "network", kind="file"
    )
    base_weights_multiplier: tuple[float, ...] = recipe_option((), "their weights; 1 where none is given", "network")
    network_train_unet_only: bool = recipe_option(False, "leave the text encoder alone", "network", basic=True)
    network_train_text_encoder_only: bool = recipe_option(False, "leave the U-Net alone", "network")
    network_dropout: float | None = recipe_option(
        None, "dropout of the values between the two factors", "network", low=0, high=0.99
    )
    rank_dropout: float | None = recipe_option(
        None, "share of ranks dropped for each picture", "network", low=0, high=0.99
    )
    module_dropout: float | None = recipe_option(
        None, "share of modules skipped in a step", "network", low=0, high=0.99
    )
    scale_weight_norms: float | None = recipe_option(
        None, "largest norm of a layer's change; 1 is usual", "network", low=0
    )
    dora_wd: bool = recipe_option(False, "DoRA: the norms of W + ΔW are trained apart (LoRA, LoHa, LoKr)", "network")
    wd_on_out: bool = recipe_option(True, "DoRA: one norm for each output, else for each input", "network")
    init_lora_weights: str = recipe_option(
        "kaiming",
        "where a LoRA starts: kaiming (random, as kohya's), pissa (largest singular values of W), olora (QR of W)",
        "network",
        LORA_INITS,
    )
    freeze_down: bool = recipe_option(False, "LoRA-FA: only the up factor is trained", "network")
    rs_lora: bool = recipe_option(False, "scale by alpha / √rank instead of alpha / rank", "network")
    use_tucker: bool = recipe_option(
        False, "3x3 layers get a small core (Tucker decomposition), which makes the file smaller", "network"
    )
    factor: int = recipe_option(
        -1, "LoKr: size of the smaller matrix; -1 makes both alike", "network", low=-1, high=1024
    )
    decompose_both: bool = recipe_option(False, "LoKr: the smaller matrix has a rank too", "network")
    full_matrix: bool = recipe_option(False, "LoKr: the larger matrix has no rank", "network")
    unbalanced_factorization: bool = recipe_option(False, "LoKr: swap the two sizes of the outputs", "network")
    constraint: float = recipe_option(0.0, "OFT, BOFT: limit of the rotation; 0 is none", "network", low=0)
    rescaled: bool = recipe_option(False, "OFT, BOFT: train a factor for each output too", "network")
    train_norm: bool = recipe_option(False, "train the norms' weights and biases too", "network")
    network_targets: str = recipe_option(
        "transformer",
        "layers of the U-Net: transformer (with C3Lier the resnets too), attention, with _ff the feed-forward layers "
        "too, resnet, all (input, output and time layers too)",
        "network",
        NETWORK_TARGETS,
    )
    network_include: tuple[str, ...] = recipe_option(
        (), "patterns such as *attn2*: only layers whose names match one are trained", "network"
    )
    network_exclude: tuple[str, ...] = recipe_option(
        (), "patterns: layers whose names match one are not trained", "network"
    )
    loraplus_lr_ratio: float | None = recipe_option(
        None, "LoRA+: learning rate of the up factor over that of the down factor; 16 is usual", "network", low=0
    )
    loraplus_unet_lr_ratio: float | None = recipe_option(None, "LoRA+: the ratio in the U-Net", "network", low=0)
    loraplus_text_encoder_lr_ratio: float | None = recipe_option(
        None, "LoRA+: the ratio in text encoders", "network", low=0
    )
    network_reg_dims: str | None = recipe_option(
        None, "ranks of layers whose names match a regular expression: attn2.*to_k=8,ff_net=4", "network"
    )
    network_reg_lrs: str | None = recipe_option(
        None, "learning rates of layers whose names match a regular expression: attn2=1e-4,ff_net=5e-5", "network"
    )
    # --- DyLoRA
    unit: int = recipe_option(4, "ranks drawn together; the file can be cut to any multiple of it", "dylora", low=1)
    dylora_variant: str = recipe_option(
        "unit",
        "ranks that a step trains: unit (the drawn unit), prefix (all ranks up to it), kohya (the older script's rule)",
        "dylora",
        ("unit", "prefix", "kohya"),
    )
    dylora_draw: str = recipe_option(
        "step", "one draw a step for the network, or for each module", "dylora", ("step", "module")
    )
    # --- blocks
    down_lr_weight: str | None = recipe_option(
        None,
        "a number for each of IN00..IN11 (SDXL: IN00..IN08), or sine, cosine, linear, reverse_linear, zeros, each with "
        "+offset",
        "blocks",
    )
    mid_lr_weight: str | None = recipe_option(
        None, "MID: one number; SDXL may have three, for its resnet, attention and resnet", "blocks"
    )
    up_lr_weight: str | None = recipe_option(None, "OUT00..OUT11 (SDXL: OUT00..OUT08), as down_lr_weight", "blocks")
    block_lr_zero_threshold: float = recipe_option(0.0, "blocks of this weight or less get no modules", "blocks", low=0)
    block_dims: tuple[int, ...] | None = recipe_option(
        None, "25 ranks, IN00..IN11, MID, OUT00..OUT11; SDXL: 19, or 23 as in kohya's scripts", "blocks"
    )
    block_alphas: tuple[float, ...] | None = recipe_option(
        None, "alphas, as many as block_dims; else network_alpha", "blocks"
    )
    conv_block_dims: tuple[int, ...] | None = recipe_option(
        None, "ranks of 3x3 layers, as many as block_dims", "blocks"
    )
    conv_block_alphas: tuple[float, ...] | None = recipe_option(
        None, "alphas of 3x3 layers, as many as block_dims; else conv_alpha", "blocks"
    )
