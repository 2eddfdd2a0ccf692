"""What tests/platform/test_catalog.py runs in a process of its own: a session with the embedded Derby metastore.

Prints, as JSON, what each command came to: name -> [exit code, stdout, stderr].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from small_pipeline import SMALL_SCHEMA, Small, make_small, small_rows

from noiselib.spark.session import open_session

COLUMNS = "id BIGINT, name STRING, color STRING, amount DOUBLE, count INT"


def main(home: Path) -> None:
    small = make_small(home, days=[1, 2], size=50)
    conf = home / "spark.conf"
    conf.write_text(
        f"spark.sql.catalogImplementation hive\nspark.sql.warehouse.dir {home}/warehouse\nspark.sql.shuffle.partitions 2\n"
        f"spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:;databaseName={home}/metastore;create=true\n"
    )
    spark = open_session("tests", "local[2]", conf)
    at = f"USING parquet PARTITIONED BY (day) LOCATION '{home}/source'"
    spark.sql("CREATE DATABASE features")
    for table, kind in (("small", "INT"), ("texts", "STRING")):
        spark.sql(f"CREATE TABLE features.{table} ({COLUMNS}, day {kind}) {at}")
        spark.sql(f"MSCK REPAIR TABLE features.{table}")
    for number, day in enumerate(("2024-02-29", "__HIVE_DEFAULT_PARTITION__")):
        place = home / "calendar" / f"day={day}"
        place.mkdir(parents=True)
        pq.write_table(pa.table(small_rows(number, 50), schema=SMALL_SCHEMA), place / "part-0.parquet")
    at = f"USING parquet PARTITIONED BY (day) LOCATION '{home}/calendar'"
    spark.sql(f"CREATE TABLE features.calendar ({COLUMNS}, day DATE) {at}")
    spark.sql("MSCK REPAIR TABLE features.calendar")
    spark.sql("CREATE TABLE features.lines (id BIGINT) USING csv")
    spark.sql("CREATE VIEW features.seen AS SELECT * FROM features.small")
    answers: dict[str, list[object]] = {}

    def tell(name: str, command: str, *arguments: str, **source: object) -> None:
        small.spec["source"] = {"format": "table", "partition_by": ["day"]} | source
        small.write_spec()
        answer = small.noiselib(command, "--json", "--spark-conf", str(conf), *arguments)
        answers[name] = [answer.code, answer.out, answer.err]

    tell("run", "run", path="spark_catalog.features.small")
    tell("verify", "verify", path="features.small")
    tell("run by path", "run", path=f"{home}/source", format="parquet")
    tell("ls", "ls", path="features.small")
    small.spec["key"], lent = "airflow:noise", f"file:{home / 'noise.key'}"
    for command in ("plan", "ls", "run"):  # without the key, and then with it, as a task of Airflow's has it
        tell(f"{command} without its key", command, path="features.small")
        tell(f"{command} with a lent key", command, "--key", lent, path="features.small")
    showing = home / "showing.conf"
    showing.write_text(conf.read_text() + f"spark.noise {(home / 'noise.key').read_text()}")
    tell("plan that shows a lent key", "plan", "--spark-conf", str(showing), "--key", lent, path="features.small")
    small.spec["key"] = lent
    tell("run calendar", "run", path="features.calendar")
    for table in ("small", "texts", "lines", "seen", "nowhere", "a.b.c"):
        tell(f"plan {table}", "plan", path=f"features.{table}")
    tell("plan without partition_by", "plan", path="features.small", partition_by=[])
    write_day(small, 3)
    tell("plan with a directory more", "plan", path="features.small")
    spark.sql("MSCK REPAIR TABLE features.small")
    tell("plan repaired", "plan", path="features.small")
    tell_published(small, conf, spark, answers)
    spark.sql("ALTER TABLE features.small ADD COLUMNS (extra INT)")
    tell("plan with a column more", "plan", path="features.small")
    print(json.dumps(answers))
    spark.stop()


def tell_published(small: Small, conf: Path, spark: SparkSession, answers: dict[str, list[object]]) -> None:
    """Publish to a table of the catalog, and then two more partitions: what the catalog's readers see after each."""
    small.spec["target"] = {"path": str(small.home / "its own"), "table": "features.published"}
    small.spec["source"] = {"path": str(small.home / "source"), "partition_by": ["day"]}

    def run(name: str, *arguments: str, command: str = "run") -> None:
        small.write_spec()
        answer = small.noiselib(command, "--json", "--spark-conf", str(conf), *arguments)
        answers[name] = [answer.code, answer.out, answer.err]

    def seen(name: str) -> None:
        rows = spark.sql("SELECT day, count(*) FROM features.published GROUP BY day ORDER BY day").collect()
        answers[name] = [0, json.dumps([list(row) for row in rows]), ""]

    run("publish a table", "--partition", "day=1")
    seen("a table")
    run("publish more", "--partition", "day=2..3")
    seen("more")
    run("publish again")
    small.spec["columns"]["id"] = {"pseudonymize": True}  # a text under the name of a number
    run("publish other types")
    seen("what was there")
    spark.sql("DROP TABLE features.published")
    run("publish anew")
    seen("anew")
    small.spec["columns"]["amount"]["epsilon"] = 0.5
    small.spec["target"]["table"] = "features.small"
    run("publish to another's")
    run("reserve for another's", command="reserve")
    small.spec["target"]["table"] = "nowhere.published"
    run("publish to no database")


def write_day(small: Small, day: int) -> None:
    small.write_partition(day, pa.table(small_rows(day, 50), schema=SMALL_SCHEMA))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
