"""The train scans under small random maps: 1,300 scans alone are too few to learn unseen hands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightkv.demo.digits import SCAN_SIZE, ink


def augmented(rng: np.random.Generator, copies: int) -> NDArray[np.float32]:
    """Train scans under small random affine maps: ``[copies, N, 8, 8]`` in 0 to 1.

    Rotation, shear, scale and sub-pixel shift by bilinear sampling, then a random ink curve.
    """
    source = np.pad(ink("train"), ((0, 0), (2, 2), (2, 2)))
    count, side = len(source), source.shape[1]
    grid = np.arange(SCAN_SIZE) - (SCAN_SIZE - 1) / 2
    y, x = np.meshgrid(grid, grid, indexing="ij")
    out = np.empty((copies, count, SCAN_SIZE, SCAN_SIZE), dtype=np.float32)
    rows = np.arange(count)[:, None, None]
    for copy in range(copies):
        angle, shear = rng.normal(0, 0.13, count), rng.normal(0, 0.1, count)
        scale_y, scale_x = rng.uniform(0.88, 1.14, count), rng.uniform(0.88, 1.14, count)
        cos, sin = np.cos(angle), np.sin(angle)
        shift_y, shift_x = rng.uniform(-0.6, 0.6, (2, count))
        centre = (side - 1) / 2

        def column(value: NDArray[np.float64]) -> NDArray[np.float64]:
            return value[:, None, None]

        at_y = column(cos / scale_y) * y - column(sin / scale_x) * x + column(shift_y) + centre
        at_x = column(sin / scale_y + shear) * y + column(cos / scale_x) * x
        at_x = at_x + column(shift_x) + centre
        at_y, at_x = at_y.clip(0, side - 1.001), at_x.clip(0, side - 1.001)
        y0, x0 = at_y.astype(int), at_x.astype(int)
        fy, fx = at_y - y0, at_x - x0
        top = source[rows, y0, x0] * (1 - fx) + source[rows, y0, x0 + 1] * fx
        bottom = source[rows, y0 + 1, x0] * (1 - fx) + source[rows, y0 + 1, x0 + 1] * fx
        value = top * (1 - fy) + bottom * fy
        out[copy] = value.clip(0, 1) ** column(rng.uniform(0.75, 1.35, count))
    return out
