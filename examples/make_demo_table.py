"""Write a table to try ``vitalfew select`` on: diabetes with its products.

scikit-learn's diabetes data, 442 patients: ten columns, their 45 products and the
squares of all but the binary one, 64 columns in all, and the target ``progression``.
"""

import csv
import sys
import tempfile
from itertools import combinations
from pathlib import Path

from sklearn.datasets import load_diabetes


def write_table(path):
    data = load_diabetes(scaled=False)
    names = list(data.feature_names)
    columns = dict(zip(names, data.data.T, strict=True))
    for a, b in combinations(names, 2):
        columns[f"{a}*{b}"] = columns[a] * columns[b]
    for a in names:
        if a != "sex":
            columns[f"{a}*{a}"] = columns[a] ** 2
    columns["progression"] = data.target
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(f"{value:.6g}" for value in row)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_table(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_table(Path(folder) / "demo.csv")
