"""Write the tasks of the simulation: five batches, and one that waits for all of them. Standard library only."""

import argparse
import json
import pathlib

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("--out", required=True)
out = pathlib.Path(parser.parse_args().out)
shared = {"partition": "standard", "cpus": 1, "memory": "1G", "time_limit": "00:05:00", "environment": "python-booth"}
tasks = [
    {
        "id": f"sim.batch-{seed}",
        "name": f"Simulation batch {seed}",
        "command": f"python3 simulate.py --seed {seed} --out temp/batch-{seed}.csv",
        "working_dir": str(here),
        **shared,
    }
    for seed in range(1, 6)
]
tasks.append(
    {
        "id": "aggregate",
        "name": "Aggregate",
        "command": "python3 aggregate.py --in temp --out results.csv",
        "deps": ["sim.*"],
        "working_dir": str(here),
        **shared,
    }
)
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps({"tasks": tasks}))
