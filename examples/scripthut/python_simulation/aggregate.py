"""All batches as one table with their mean."""

import argparse
import pathlib

parser = argparse.ArgumentParser()
parser.add_argument("--in", dest="folder", required=True)
parser.add_argument("--out", required=True)
given = parser.parse_args()
rows = sorted(path.read_text().strip() for path in pathlib.Path(given.folder).glob("batch-*.csv"))
mean = sum(float(row.split(",")[1]) for row in rows) / len(rows)
pathlib.Path(given.out).write_text("\n".join([*rows, f"mean,{mean}"]) + "\n")
print(f"{len(rows)} batches, mean {mean:.3f}")
