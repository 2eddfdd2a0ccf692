"""airflow_pools.py, in Airflow's environment: makes the pools that the pipelines' tasks wait for, each of one slot.

Airflow never starts a task whose pool is missing. To be run after `airflow db migrate`, and again for each new spec; a pool
that is there stays as it is.
"""

import sys
from pathlib import Path

from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "airflow_dags"))
from pipeline_specs import PIPELINES, read_pipelines


def main() -> None:
    pipelines, broken = read_pipelines(PIPELINES)
    with create_session() as session:
        known = set(session.scalars(select(Pool.pool)))
        for name in sorted({pipeline.pool for pipeline in pipelines.values()}):
            if name not in known:
                session.add(Pool(pool=name, slots=1, description="a target of noiselib's", include_deferred=True))
            print(f"{name}: {'there already' if name in known else 'made'}")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
