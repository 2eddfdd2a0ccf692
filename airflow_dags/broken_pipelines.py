"""No DAG, but an import error for as long as there are specs that no DAG can be made of: it names them.

In a file of its own, because Airflow deactivates every DAG of a file that has an import error.
"""

from pipeline_specs import PIPELINES, read_pipelines

_, broken = read_pipelines(PIPELINES)
if broken:
    raise ImportError("\n".join(broken))
