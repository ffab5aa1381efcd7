"""Blur integrated gradients."""

import math
from dataclasses import dataclass

import numpy as np

from vitalfew._arrays import as_array, is_array_api_obj, namespace
from vitalfew._validation import check_nonnegative
from vitalfew.attribution._explained import Explained, like_given
from vitalfew.attribution._method import Attribution
from vitalfew.attribution._paths import along, integrals, quadrature
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class BlurIG(Attribution):
    r"""Blur integrated gradients: from a blurred picture to the sharp one.

    The score of pixel i of an image x is

    .. math:: \int_0^1 \partial_i g(x_{\sigma(t)}) \, \frac{d}{dt} x_{\sigma(t), i}
       \, dt, \quad \sigma(t) = (1 - t) \, \sigma_{max},

    where :math:`x_\sigma` is the image after a Gaussian blur of standard deviation
    :math:`\sigma`. Scores add up to the difference of the outputs at the sharp and at
    the most blurred image; no baseline has to be chosen.

    Parameters
    ----------
    model, target, baseline, forward, amp, memory : object
        As in `Attribution`; `baseline` is not used.
    steps : int, default=50
        Nodes of the integral.
    nodes : {"midpoint", "gauss-legendre"}, default="midpoint"
        Where they lie.
    max_sigma : float, optional
        Blur at the start, in pixels; by default a quarter of the longer side.

    Notes
    -----
    `steps` gradients of each image, and two products with (height, height) and
    (width, width) matrices for each. Images are (n, ..., height, width). The blur is
    the heat equation with reflecting edges, exact by cosine transforms, and so is its
    derivative; the paper samples the kernel and takes differences.

    References
    ----------
    .. [1] S. Xu, S. Venugopalan, M. Sundararajan, "Attribution in scale and space",
       CVPR, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> def top_left(x):
    ...     gradient = np.zeros_like(x)
    ...     gradient[:, 0, 0] = 1
    ...     return x[:, 0, 0], gradient
    >>> image = np.zeros((1, 4, 4))
    >>> image[0, 0, 0] = 1
    >>> scores = BlurIG(top_left, max_sigma=30, nodes="gauss-legendre").attribute(image)
    >>> float(scores[0, 0, 0].round(6)), float(np.abs(scores).sum().round(6))
    (0.9375, 0.9375)
    """

    steps: int = 50
    nodes: str = "midpoint"
    max_sigma: float | None = None

    def __post_init__(self) -> None:
        quadrature(self.steps, self.nodes)
        if self.max_sigma is not None:
            check_nonnegative("max_sigma", self.max_sigma)

    def _start(self, function: Explained) -> Array:
        x = function.inputs
        return _Blur(x).at(slice(None), as_array([self._sigma(x)], x))[0][:, 0]

    def _scores(self, function: Explained, together: int) -> tuple[Array, int]:
        x = function.inputs
        sigma, blur = self._sigma(x), _Blur(x)

        def path(rows: slice, times: Array) -> tuple[Array, Array]:
            points, by_sigma = blur.at(rows, (1 - times) * sigma)
            return points, -sigma * by_sigma

        rule = quadrature(self.steps, self.nodes)
        parts = [part for _, part in integrals(function, path, rule, together)]
        return namespace(x).concat(parts, axis=0), self.steps

    def _sigma(self, x: Array) -> float:
        _check_images(x)
        return max(x.shape[-2:]) / 4 if self.max_sigma is None else self.max_sigma


def blur(images: Array, sigma: float) -> Array:
    """Return images after a Gaussian blur, as `BlurIG` blurs: for baselines.

    Parameters
    ----------
    images : float array of shape (n, ..., height, width)
        NumPy or torch.
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    array of shape (n, ..., height, width)
        Blurred, with reflecting edges.

    Examples
    --------
    >>> import numpy as np
    >>> blur(np.eye(2)[None], 100.0)
    array([[[0.5, 0.5],
            [0.5, 0.5]]])
    """
    x = images if is_array_api_obj(images) else np.asarray(images)
    _check_images(x)
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, xp.float64)
    sigmas = as_array([check_nonnegative("sigma", sigma)], x)
    return like_given(_Blur(x).at(slice(None), sigmas)[0][:, 0], images)


class _Blur:
    """The heat equation on images, from their cosine transforms."""

    def __init__(self, x: Array) -> None:
        self.x = x
        self.C, self.D = (as_array(_cosines(size), x) for size in x.shape[-2:])
        tall, wide = (as_array(_frequencies(size), x) for size in x.shape[-2:])
        self.squares = tall[:, None] ** 2 + wide**2

    def at(self, rows: slice, sigmas: Array) -> tuple[Array, Array]:
        """Return blurred images (h, s, *shape), and their derivatives by sigma."""
        xp = namespace(self.x)
        x = self.x[rows][:, None]
        waves = self.C @ x @ xp.matrix_transpose(self.D)
        sigma = along(sigmas, self.x)
        left = waves * xp.exp(-(sigma**2) * self.squares / 2)
        return self._image(left), self._image(-sigma * self.squares * left)

    def _image(self, waves: Array) -> Array:
        return namespace(waves).matrix_transpose(self.C) @ waves @ self.D


def _frequencies(size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return math.pi * np.arange(size) / size


def _cosines(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Orthonormal cosine transform (DCT-II) as a matrix."""
    waves = np.cos(np.outer(_frequencies(size), np.arange(size) + 0.5))
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)


def _check_images(x: Array) -> None:
    if x.ndim < 3:
        raise ValueError(
            "inputs must be images of shape (n, ..., height, width) to be blurred, got "
            f"shape {tuple(x.shape)}"
        )
