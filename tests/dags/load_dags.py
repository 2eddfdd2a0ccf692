"""load_dags.py FOLDER [MODULE...], for the Airflow environment: fills a DagBag from the folder; the last line printed is what came.

With MODULEs, files of the folder, the processor time that they take by themselves, Airflow being imported already: in units of
a million turns of an empty loop, since others may be using the machine.
"""

import json
import runpy
import sys
import time
from collections.abc import Callable
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


def loops_of(files: list[Path]) -> float:
    """The least of some, as the first imports Airflow's parts, and others may be in the way of any."""

    def read() -> None:
        for file in files:
            runpy.run_path(str(file))

    def loop() -> None:
        for _ in range(1_000_000):
            pass

    return least(read, 6) / least(loop, 60)


def least(work: Callable[[], None], times: int) -> float:
    """The processor time of the shortest of so many."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


if __name__ == "__main__":
    folder, modules = Path(sys.argv[1]), sys.argv[2:]
    loaded = load(folder)
    if modules:
        sys.path.insert(0, str(folder))
        loaded["module_loops"] = loops_of([folder / module for module in modules])
    print(json.dumps(loaded))
