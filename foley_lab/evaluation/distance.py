"""How far apart are two sets of sounds, as sets: distances of embeddings and of class scores.

Pure functions of numbers that somebody has computed, be it by `descriptor.describe` or by the
networks of the field. `kernel_distance` is unbiased at any number of clips, `frechet_distance`
needs many more clips than dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

SUBSETS = 100
SUBSET_SIZE = 100
MOST = 5.0
"""Deviations of the reference beyond which an embedding counts no more."""
EPSILON = 1e-12


def kernel_distance(
    generated: ArrayLike, reference: ArrayLike, subsets: int = SUBSETS, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy under k(x, y) = (x·y / D + 1)³, unbiased
    (Bińkowski et al. 2018, arXiv:1801.01401).

    Args:
        generated, reference: Embeddings [N, D] and [M, D]; both are scaled to mean 0 and deviation
            1 of the reference, and cut at ±5.
        subsets: Random halves (100 clips at most) over which the mean is taken; equal indices are
            taken for pairs and kept apart.
        seed: Of the subsets.

    Returns:
        Mean and standard deviation over the subsets; the mean is 0 in expectation for equal
        distributions, and may be slightly negative.

    Raises:
        ValueError: If a set holds fewer than 4 embeddings, or sizes or values are wrong.
    """
    x, y = _two_sets(generated, reference, least=4)
    scale = y.std(0)
    # What hardly varies in the reference would decide alone when it is off.
    scale = np.maximum(scale, 0.1 * np.median(scale) + 1e-9)
    # Nor may a single odd clip decide: the kernel is cubic.
    x, y = (np.clip((each - y.mean(0)) / scale, -MOST, MOST) for each in (x, y))
    size = min(SUBSET_SIZE, len(x) // 2, len(y) // 2)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        # Sets are often paired, clip by clip; the two halves never hold a clip and its own twin.
        order = rng.permutation(max(len(x), len(y)))
        a = x[order[order < len(x)][:size]]
        b = y[order[order < len(y)][-size:]]
        within = sum(k.sum() - np.trace(k) for k in (_cubic(a, a), _cubic(b, b)))
        values.append(within / (size * (size - 1)) - 2 * _cubic(a, b).mean())
    return float(np.mean(values)), float(np.std(values))


def frechet_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Fréchet distance of the Gaussians that fit two sets of embeddings (FD, FAD),

        ‖m₁ − m₂‖² + Tr(S₁ + S₂ − 2 (S₁ S₂)^½)

    with unbiased covariances (Heusel et al. 2017, arXiv:1706.08500).

    Args:
        generated, reference: [N, D] and [M, D].

    Raises:
        ValueError: If a set holds fewer than 2 embeddings, or sizes or values are wrong.
    """
    x, y = _two_sets(generated, reference, least=2)
    first, second = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    # Tr (S₁S₂)^½ = Tr (S₁^½ S₂ S₁^½)^½, whose argument is symmetric: eigenvalues stay real.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    gap = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    return gap + float(np.trace(first) + np.trace(second) - 2 * cross)


def kl_divergence(generated: ArrayLike, reference: ArrayLike) -> float:
    """Mean over clips of KL(reference ‖ generated) in nats, of paired class probabilities [N, K].

    Raises:
        ValueError: If the arrays are no equally shaped probabilities.
    """
    q, p = _probabilities(generated), _probabilities(reference)
    if p.shape != q.shape:
        raise ValueError(f"probabilities {q.shape} and {p.shape}, wanted pairs of equal shape")
    return float((p * (np.log(p + EPSILON) - np.log(q + EPSILON))).sum(1).mean())


def inception_score(probabilities: ArrayLike, splits: int = 10, seed: int = 2020) -> float:
    """exp E KL(p(y|x) ‖ p(y)), mean over shuffled splits (Salimans et al. 2016, arXiv:1606.03498).

    Args:
        probabilities: [N, K], rows sum to 1.
        splits: Parts of equal size; at most N.
        seed: Of the shuffle.

    Raises:
        ValueError: If the array holds no probabilities, or fewer rows than splits.
    """
    p = _probabilities(probabilities)
    if not 1 <= splits <= len(p):
        raise ValueError(f"{len(p)} clips in {splits} splits, wanted at least one clip a split")
    p = p[np.random.default_rng(seed).permutation(len(p))]
    scores = []
    for part in np.array_split(p, splits):
        ratio = np.log(part + EPSILON) - np.log(part.mean(0) + EPSILON)
        scores.append(np.exp((part * ratio).sum(1).mean()))
    return float(np.mean(scores))


def mean_cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Mean cosine of paired embeddings [N, D], as CLAP scores are; −1 to 1.

    Raises:
        ValueError: If the arrays are not equally shaped [N, D].
    """
    a, b = _two_sets(first, second, least=1)
    if a.shape != b.shape:
        raise ValueError(f"embeddings {a.shape} and {b.shape}, wanted pairs of equal shape")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(norms, EPSILON)).mean())


def _cubic(a: Matrix, b: Matrix) -> Matrix:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _two_sets(first: ArrayLike, second: ArrayLike, least: int) -> tuple[Matrix, Matrix]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"embeddings {a.shape} and {b.shape}, wanted [N, D] and [M, D] with N, M >= {least}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("embeddings with NaN or infinite values, wanted finite ones")
    return a, b


def _probabilities(values: ArrayLike) -> Matrix:
    p = np.asarray(values, np.float64)
    if p.ndim != 2 or not len(p) or (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise ValueError(f"array {p.shape}, wanted probabilities [N, K] whose rows sum to 1")
    return p
