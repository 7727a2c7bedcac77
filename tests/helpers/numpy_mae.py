"""The masked autoencoder once more, in float64 NumPy with its gradients written out: the reference for `models.mae`.

Written from the paper (arXiv:2111.06377, section 3 and appendix A.1) and the ViT paper (arXiv:2010.11929), and meant to
share no idea with the package: tokens stay in image order, mask tokens are written over the whole grid and visible ones
put in their places, position tables are filled number by number. Only the parameters' names are those of the release.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray

Backward = Callable[[ndarray], ndarray]  # gradient of the output -> gradient of the input
erf = np.vectorize(math.erf, otypes=[float])


class Answer(NamedTuple):
    """What one forward and backward pass gives for N images of L patches with P values."""

    loss: float
    pred: ndarray  # (N, L, P)
    mask: ndarray  # (N, L) bool: True = masked
    grads: dict[str, ndarray]  # of the loss, by parameter


def cut(imgs: ndarray, p: int) -> ndarray:
    """(N, C, H, W) -> (N, L, p * p * C), pixel by pixel in reading order, channels last."""
    imgs = imgs.transpose(0, 2, 3, 1)  # (N, H, W, C)
    rows, cols = imgs.shape[1] // p, imgs.shape[2] // p
    patches = [imgs[:, r * p:(r + 1) * p, c * p:(c + 1) * p].reshape(len(imgs), -1)
               for r in range(rows) for c in range(cols)]
    return np.stack(patches, axis=1)


def position_table(width: int, rows: int, cols: int) -> ndarray:
    """(L, D): sin(column), cos(column), sin(row), cos(row), a quarter of the channels each."""
    quarter = width // 4
    table = np.empty((rows * cols, width))
    for r in range(rows):
        for c in range(cols):
            for i in range(quarter):
                x, y = c / math.pow(10000, i / quarter), r / math.pow(10000, i / quarter)
                table[r * cols + c, i::quarter] = math.sin(x), math.cos(x), math.sin(y), math.cos(y)
    return table


def choose_masked(noise: ndarray, ratio: float) -> ndarray:
    """(N, L) bool: in each image all patches are masked but the int(L * (1 - ratio)) with the lowest noise."""
    mask = np.ones(noise.shape, dtype=bool)
    for row, scores in zip(mask, noise, strict=True):
        row[np.argsort(scores)[:int(len(scores) * (1 - ratio))]] = False
    return mask


class Network:
    """The layers; each returns its output and its backward pass, which collects gradients in `grads`."""

    def __init__(self, params: dict[str, ndarray]) -> None:
        self.params = {name: np.asarray(value, dtype=np.float64) for name, value in params.items()}
        self.grads: dict[str, ndarray] = {}

    def linear(self, name: str, x: ndarray) -> tuple[ndarray, Backward]:
        """y = x W' + b."""
        weight, bias = self.params[f'{name}.weight'], self.params[f'{name}.bias']

        def backward(dy: ndarray) -> ndarray:
            flat = dy.reshape(-1, dy.shape[-1])
            self.grads[f'{name}.weight'] = flat.T @ x.reshape(-1, x.shape[-1])
            self.grads[f'{name}.bias'] = flat.sum(0)
            return dy @ weight

        return x @ weight.T + bias, backward

    def norm(self, name: str, x: ndarray) -> tuple[ndarray, Backward]:
        """Layer norm, eps 1e-6."""
        scale, shift = self.params[f'{name}.weight'], self.params[f'{name}.bias']
        std = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        unit = (x - x.mean(-1, keepdims=True)) / std

        def backward(dy: ndarray) -> ndarray:
            self.grads[f'{name}.weight'] = (dy * unit).sum((0, 1))
            self.grads[f'{name}.bias'] = dy.sum((0, 1))
            dy = dy * scale
            return (dy - dy.mean(-1, keepdims=True) - unit * (dy * unit).mean(-1, keepdims=True)) / std

        return unit * scale + shift, backward

    def gelu(self, x: ndarray) -> tuple[ndarray, Backward]:
        """x times the normal distribution function of x."""
        cdf = (1 + erf(x / math.sqrt(2))) / 2

        def backward(dy: ndarray) -> ndarray:
            return dy * (cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))

        return x * cdf, backward

    def attention(self, name: str, x: ndarray, heads: int) -> tuple[ndarray, Backward]:
        """softmax(q k' / sqrt(d)) v for each head, between two linear layers."""
        n, tokens, width = x.shape
        d = width // heads
        qkv, qkv_backward = self.linear(f'{name}.qkv', x)
        q, k, v = (part.reshape(n, tokens, heads, d).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
        scores = q @ k.swapaxes(2, 3) / math.sqrt(d)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v).swapaxes(1, 2).reshape(n, tokens, width)
        out, proj_backward = self.linear(f'{name}.proj', mixed)

        def backward(dy: ndarray) -> ndarray:
            dmixed = proj_backward(dy).reshape(n, tokens, heads, d).swapaxes(1, 2)
            dweights = dmixed @ v.swapaxes(2, 3)
            dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) / math.sqrt(d)
            parts = dscores @ k, dscores.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ dmixed
            return qkv_backward(np.concatenate(
                [part.swapaxes(1, 2).reshape(n, tokens, width) for part in parts], axis=-1))

        return out, backward

    def block(self, name: str, x: ndarray, heads: int) -> tuple[ndarray, Backward]:
        """x + attention(norm(x)), then x + MLP(norm(x))."""
        normed, norm1 = self.norm(f'{name}.norm1', x)
        attended, attention = self.attention(f'{name}.attn', normed, heads)
        x = x + attended
        normed, norm2 = self.norm(f'{name}.norm2', x)
        hidden, fc1 = self.linear(f'{name}.mlp.fc1', normed)
        active, gelu = self.gelu(hidden)
        out, fc2 = self.linear(f'{name}.mlp.fc2', active)

        def backward(dy: ndarray) -> ndarray:
            dy = dy + norm2(fc1(gelu(fc2(dy))))
            return dy + norm1(attention(dy))

        return x + out, backward

    def blocks(self, name: str, x: ndarray, heads: int) -> tuple[ndarray, Backward]:
        """All blocks called `name`.0, `name`.1, …"""
        depth = len({key.split('.')[1] for key in self.params if key.startswith(f'{name}.')})
        tape = []
        for i in range(depth):
            x, backward = self.block(f'{name}.{i}', x, heads)
            tape.append(backward)

        def backward(dy: ndarray) -> ndarray:
            for step in reversed(tape):
                dy = step(dy)
            return dy

        return x, backward


def run(
    params: dict[str, ndarray], imgs: ndarray, noise: ndarray, patch_size: int, heads: int, decoder_heads: int,
    mask_ratio: float, norm_pix: bool,
) -> Answer:
    """Mask, encode what is visible, decode everything; mean squared error on the masked patches, and its gradients.

    Args:
        params: by the release's names (`cls_token`, `blocks.0.attn.qkv.weight`, `decoder_pred.bias`, …).
        imgs: (N, C, H, W).
        noise: (N, L).
        heads, decoder_heads: of the attentions.
    """
    net = Network(params)
    imgs = imgs.astype(np.float64)
    n, channels, height, width = imgs.shape
    rows, cols = height // patch_size, width // patch_size
    patches = cut(imgs, patch_size)  # (N, L, P)
    mask = choose_masked(noise, mask_ratio)
    seen = [np.flatnonzero(~row) for row in mask]  # places of the visible patches, in image order

    # Encoder: class token and visible patches only. A convolution with stride p is a linear layer on patches.
    kernel = net.params['patch_embed.proj.weight']  # (D, C, p, p)
    net.params['patches.weight'] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    net.params['patches.bias'] = net.params['patch_embed.proj.bias']
    visible = np.stack([patches[i, places] for i, places in enumerate(seen)])  # (N, K, P)
    tokens, embed = net.linear('patches', visible)
    tokens = tokens + np.stack([position_table(len(kernel), rows, cols)[places] for places in seen])
    cls = np.repeat(net.params['cls_token'], n, axis=0)  # its position is zero
    x, encoder = net.blocks('blocks', np.concatenate([cls, tokens], axis=1), heads)
    latent, norm = net.norm('norm', x)

    # Decoder: mask tokens everywhere, the encoded patches over them where they belong.
    small, decoder_embed = net.linear('decoder_embed', latent)
    full = np.tile(net.params['mask_token'], (n, rows * cols, 1))
    for i, places in enumerate(seen):
        full[i, places] = small[i, 1:]
    full = full + position_table(full.shape[-1], rows, cols)
    x, decoder = net.blocks('decoder_blocks', np.concatenate([small[:, :1], full], axis=1), decoder_heads)
    x, decoder_norm = net.norm('decoder_norm', x)
    pred, decoder_pred = net.linear('decoder_pred', x[:, 1:])

    target = patches
    if norm_pix:
        variance = patches.var(-1, ddof=1, keepdims=True)
        target = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    error = (pred - target)[mask]  # (masked patches, P)
    loss = float((error**2).mean())

    dpred = np.zeros_like(pred)
    dpred[mask] = 2 * error / error.size
    dx = np.zeros_like(x)
    dx[:, 1:] = decoder_pred(dpred)
    dx = decoder(decoder_norm(dx))
    dfull = dx[:, 1:]
    net.grads['mask_token'] = dfull[mask].sum(0).reshape(1, 1, -1)
    dsmall = np.concatenate([dx[:, :1], np.stack([dfull[i, places] for i, places in enumerate(seen)])], axis=1)
    dx = encoder(norm(decoder_embed(dsmall)))
    net.grads['cls_token'] = dx[:, :1].sum(0, keepdims=True)
    embed(dx[:, 1:])
    dkernel = net.grads.pop('patches.weight').reshape(len(kernel), patch_size, patch_size, channels)
    net.grads['patch_embed.proj.weight'] = dkernel.transpose(0, 3, 1, 2)
    net.grads['patch_embed.proj.bias'] = net.grads.pop('patches.bias')
    return Answer(loss, pred, mask, net.grads)
