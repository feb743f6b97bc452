"""W + ΔW of every kind in float64 NumPy, written from the definitions: nothing of the package is used here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

Arrays = dict[str, np.ndarray]


def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """The stored tensors as float64."""
    return {name: t.double().numpy() for name, t in tensors.items()}


def reference(kind: str, tensors: Mapping[str, Tensor], weight: np.ndarray) -> np.ndarray:
    """W + ΔW at weight 1, float64, in the shape of `weight`. `kind`: a name of `makers.KINDS`."""
    t, w = arrays(tensors), weight.astype(np.float64)
    family = kind.split("-")[0]
    delta = DELTAS[family](t, w).reshape(w.shape)
    delta = (delta + _residual(t, w)) * _scale(kind, t)
    return _dora(t["dora_scale"], w, w + delta) if "dora_scale" in t else w + delta


def reference_bias(tensors: Mapping[str, Tensor]) -> np.ndarray | None:
    """What is added to the layer's bias at weight 1, or None."""
    t = arrays(tensors)
    if "lora_up.bias" in t:
        return t["lora_up.bias"] * _scale("lora", t)
    return next((t[name] for name in ("diff_b", "b_norm") if name in t), None)


def _scale(kind: str, t: Arrays) -> float:
    """alpha/rank for the kinds that have both; 1 otherwise."""
    rank = RANKS.get(kind.split("-")[0], lambda kind, t: None)(kind, t)
    if "scale" in t:
        return float(t["scale"])
    return float(t["alpha"]) / rank if rank and "alpha" in t else 1.0


def _residual(t: Arrays, w: np.ndarray) -> np.ndarray:
    full = np.zeros((w.shape[0], w[0].size))
    if "bias" in t:
        full += t["bias"]
    if "bias_values" in t:
        for (row, column), value in zip(t["bias_indices"].T.astype(int), t["bias_values"], strict=True):
            full[row, column] += value
    return full.reshape(w.shape)


def _dora(magnitude: np.ndarray, w: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """Every row (or input column) of W + ΔW keeps its direction and takes its length from `magnitude`."""
    result = np.zeros_like(merged)
    if magnitude.shape[0] == 1:
        for i in range(w.shape[1]):
            result[:, i] = merged[:, i] / np.sqrt((merged[:, i] ** 2).sum()) * magnitude[0, i]
    else:
        for o in range(w.shape[0]):
            result[o] = merged[o] / np.sqrt((merged[o] ** 2).sum()) * magnitude[o]
    return result


def _lora(t: Arrays, w: np.ndarray) -> np.ndarray:
    up, down = t["lora_up.weight"], t["lora_down.weight"]
    if "lora_mid.weight" in t:
        return np.einsum("on,nmhw,mi->oihw", up[:, :, 0, 0], t["lora_mid.weight"], down[:, :, 0, 0])
    return sum(np.outer(up[:, k], down[k]) for k in range(down.shape[0]))


def _loha(t: Arrays, w: np.ndarray) -> np.ndarray:
    def side(i: int) -> np.ndarray:
        a, b = t[f"hada_w{i}_a"], t[f"hada_w{i}_b"]
        if f"hada_t{i}" in t:
            return np.einsum("nmhw,no,mi->oihw", t[f"hada_t{i}"], a, b)
        return np.einsum("or,rc->oc", a, b)

    return side(1) * side(2)


def _lokr(t: Arrays, w: np.ndarray) -> np.ndarray:
    left = t["lokr_w1"] if "lokr_w1" in t else np.einsum("ar,rc->ac", t["lokr_w1_a"], t["lokr_w1_b"])
    rows, columns = left.shape
    inner = (w.shape[0] // rows, w.shape[1] // columns, *w.shape[2:])
    if "lokr_w2" in t:
        right = t["lokr_w2"]
    elif "lokr_t2" in t:
        right = np.einsum("nmhw,nb,md->bdhw", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        right = np.einsum("br,rc->bc", t["lokr_w2_a"], t["lokr_w2_b"])
    right = right.reshape(inner)
    delta = np.zeros_like(w)
    for a in range(rows):
        for c in range(columns):
            block = slice(a * inner[0], (a + 1) * inner[0]), slice(c * inner[1], (c + 1) * inner[1])
            delta[block] = left[a, c] * right
    return delta


def _ia3(t: Arrays, w: np.ndarray) -> np.ndarray:
    factors, delta = t["weight"].ravel(), np.zeros_like(w)
    for n, factor in enumerate(factors):
        place = (slice(None), n) if t["on_input"] else (n,)
        delta[place] = w[place] * factor
    return delta


def _glora(t: Arrays, w: np.ndarray) -> np.ndarray:
    a1, a2, b1, b2 = (t[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    a1, a2 = a1[..., 0, 0] if a1.ndim == 4 else a1, a2[..., 0, 0] if a2.ndim == 4 else a2
    if a1.shape[0] < a1.shape[1]:  # older: a1 (r, in)
        left, right, right_b, left_b = a2, a1, b1, b2
    else:
        left, right, right_b, left_b = a1, a2, b2, b1
    added = np.einsum("or,r...->o...", left_b.reshape(w.shape[0], -1), right_b)
    return added.reshape(w.shape) + np.einsum("oi...,ir,rj->oj...", w, left, right)


def _oft(t: Arrays, w: np.ndarray) -> np.ndarray:
    turned = np.zeros_like(w)
    blocks = t["oft_diag"] if "oft_diag" in t else _cayley(t, w.shape[0])
    size = blocks.shape[-1]
    for k, block in enumerate(blocks):
        rows = slice(k * size, (k + 1) * size)
        turned[rows] = np.einsum("nm,n...->m...", block, w[rows])
    return _rescaled(t, turned, w) - w


def _oft_v2(t: Arrays, w: np.ndarray) -> np.ndarray:
    """One large block-diagonal matrix on the right."""
    rows = w.reshape(w.shape[0], -1)
    numbers = t["oft_R.weight"]
    size = next(n for n in range(2, 99) if n * (n - 1) // 2 == numbers.shape[1])
    whole = np.zeros((rows.shape[1], rows.shape[1]))
    for k in range(rows.shape[1] // size):
        q = np.zeros((size, size))
        q[np.triu_indices(size, 1)] = numbers[k if len(numbers) > 1 else 0]
        q = (q - q.T) / (2 * (size - 1) ** 0.5 if t.get("oft_R.scaled_oft", False) else 1)
        one = np.eye(size)
        if t.get("oft_terms", 5) == 0:
            block = (one - q) @ np.linalg.inv(one + q)
        else:  # 5 terms end with Q⁴, 4 with Q³
            last = 4 if t.get("oft_terms", 5) == 5 else 3
            powers = [np.linalg.matrix_power(q, i) for i in range(last + 1)]
            block = powers[0] + 2 * sum(powers[1:last]) + powers[last]
        whole[k * size : (k + 1) * size, k * size : (k + 1) * size] = block
    return (rows @ (whole if w.ndim == 4 and "oft_terms" not in t else whole.T)).reshape(w.shape) - w


def _boft(t: Arrays, w: np.ndarray) -> np.ndarray:
    """Each factor as one sparse out × out matrix: a permutation, the blocks, the permutation back."""
    turned = w.reshape(w.shape[0], -1)
    for i, blocks in enumerate(_cayley(t, w.shape[0])):
        number, size, _ = blocks.shape
        reach = size // 2 * 2**i
        whole = np.zeros((w.shape[0], w.shape[0]))
        # place p of the shuffled rows holds row order[p]: pairs (row, row + reach) become neighbours
        starts = range(0, w.shape[0], 2 * reach)
        order = [start + k + g * reach for start in starts for k in range(reach) for g in (0, 1)]
        for k in range(number):
            places = order[k * size : (k + 1) * size]
            whole[np.ix_(places, places)] = blocks[k]
        turned = whole @ turned
    return _rescaled(t, turned.reshape(w.shape), w) - w


def _rescaled(t: Arrays, turned: np.ndarray, w: np.ndarray) -> np.ndarray:
    return turned * t["rescale"].reshape(-1, *(1 for _ in w.shape[1:])) if "rescale" in t else turned


def _cayley(t: Arrays, out: int) -> np.ndarray:
    q = t["oft_blocks"] - np.swapaxes(t["oft_blocks"], -1, -2)
    bound, norm = float(t.get("alpha", 0)) * out, np.sqrt((q**2).sum())
    if bound and norm > bound:
        q = q * bound / norm
    eye = np.eye(q.shape[-1])
    return (eye + q) @ np.linalg.inv(eye - q)


DELTAS = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "ia3": _ia3,
    "full": lambda t, w: t["diff"],
    "norm": lambda t, w: t["w_norm"],
    "glora": _glora,
    "oft": _oft,
    "oftv2": _oft_v2,
    "boft": _boft,
}
"""The first word of a variant's name → ΔW before alpha, from its stored arrays and W."""
RANKS = {
    "lora": lambda kind, t: t["lora_up.weight"].shape[1],
    "loha": lambda kind, t: t["hada_w1_b"].shape[0],
    "lokr": lambda kind, t: t["lokr_w2_b"].shape[0] if "lokr_w2_b" in t else None,
    "glora": lambda kind, t: None if kind == "glora-old" else t["b1.weight"].shape[1],
}
"""The rank that alpha is divided by, of the kinds whose ΔW alpha scales."""
