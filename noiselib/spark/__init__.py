"""The part of noiselib that runs on Spark: the only place that imports pyspark and Great Expectations."""
