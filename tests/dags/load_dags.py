"""load_dags.py FOLDER [MODULE], for the Airflow environment: fills a DagBag from the folder; the last line printed is what came.

With MODULE, one of the folder's files, the processor time that it takes by itself, Airflow being imported already.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def load(folder: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import BundleDagBag  # here, for pytest looks into this module for doctests

    bag = BundleDagBag(folder, bundle_path=folder, bundle_name="tests")
    return {
        "dags": {dag.dag_id: describe(dag) for dag in bag.dags.values()},
        "errors": bag.import_errors,
        "packages": sorted({name.partition(".")[0] for name in sys.modules}),
    }


def describe(dag: Any) -> dict[str, Any]:
    return {
        "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in dag.topological_sort()},
        "pools": sorted({task.pool for task in dag.tasks}),
        "retries": sorted({task.retries for task in dag.tasks}),
        "outlets": [outlet.uri for task in dag.tasks for outlet in task.outlets],
        "assets": [asset.uri for asset in dag.schedule] if isinstance(dag.schedule, list) else [],
        "schedule": getattr(dag.timetable, "expression", None),
        "start": dag.start_date and dag.start_date.isoformat(),
        "catchup": dag.catchup,
    }


def seconds_of(file: Path) -> float:
    """Processor time, for others may be using the machine; of a second reading, since the first imports Airflow's parts."""
    began = time.process_time()
    runpy.run_path(str(file))
    return time.process_time() - began


if __name__ == "__main__":
    folder, module = Path(sys.argv[1]), sys.argv[2:]
    loaded = load(folder)
    if module:
        sys.path.insert(0, str(folder))
        loaded["module_seconds"] = seconds_of(folder / module[0])
    print(json.dumps(loaded))
