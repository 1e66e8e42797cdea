"""One batch: estimate pi from 20,000 points."""

import argparse
import pathlib
import random

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", required=True)
given = parser.parse_args()
rng = random.Random(given.seed)
inside = sum(rng.random() ** 2 + rng.random() ** 2 <= 1 for _ in range(20_000))
path = pathlib.Path(given.out)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(f"{given.seed},{4 * inside / 20_000}\n")
