"""load_dags.py FOLDER, for the Airflow environment: fills a DagBag from the folder; the last line printed is what came."""

import json
import sys
import time
from pathlib import Path
from typing import Any


def load(folder: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import BundleDagBag  # here, for pytest looks into this module for doctests

    began = time.monotonic()
    bag = BundleDagBag(folder, bundle_path=folder, bundle_name="tests")
    seconds = time.monotonic() - began
    return {
        "dags": {
            dag.dag_id: {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
            for dag in bag.dags.values()
        },
        "errors": bag.import_errors,
        "packages": sorted({name.partition(".")[0] for name in sys.modules}),
        "seconds": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]))))
