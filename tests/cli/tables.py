"""Tables as people have them, small enough to study in a second."""

import csv

import numpy as np


def write_csv(path, columns, delimiter=","):
    """Write columns of numbers and text; NaN and None are left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if v is None or v != v else v for v in row)
    return path


def patients(n=80, seed=0):
    """Numbers, categories, gaps, a constant, an id; `y` needs age, sex and dose."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20, 80, n).astype(float)
    sex = rng.choice(["f", "m"], n)
    dose = rng.normal(size=n)
    y = 0.1 * age + 2.0 * (sex == "m") - 1.5 * dose + 0.3 * rng.normal(size=n)
    holes = rng.random(n) < 0.15
    return {
        "patient": [f"P{i:04d}" for i in range(n)],
        "age": np.where(holes, np.nan, age).round(1).tolist(),
        "sex": sex.tolist(),
        "dose": dose.round(4).tolist(),
        "ward": rng.choice(["north", "south", "east"], n).tolist(),
        "flat": [1] * n,
        "noise": rng.normal(size=n).round(4).tolist(),
        "hospital": rng.integers(0, 8, n).tolist(),
        "y": y.round(4).tolist(),
    }
