"""That Spark reads what cubic writes: a springboard table with its partitions, and a current table as Delta.

Run by hand, with the peers' environment: `.venv/bench/bin/python benchmarks/cubic_spark.py SPRINGBOARD_FOLDER [DELTA_FOLDER]`.
Delta's jars come from Maven once, then from its local repository.
"""

import sys

from pyspark.sql import SparkSession

DELTA = "io.delta:delta-spark_2.13:4.0.0"


def main() -> int:
    folders = sys.argv[1:]
    if not folders:
        print(__doc__)
        return 2
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
    if len(folders) > 1:
        builder = (
            builder.config("spark.jars.packages", DELTA)
            .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
            .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        )
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    springboard = spark.read.option("mergeSchema", "true").parquet(folders[0])
    springboard.printSchema()
    by = [name for name in ("snapshot", "identifier") if name in springboard.columns]
    springboard.groupBy(*by).count().orderBy(*by).show(truncate=False)
    print("springboard rows:", springboard.count())
    for folder in folders[1:]:
        current = spark.read.format("delta").load(folder)
        current.printSchema()
        current.show(5, truncate=40)
        print("current rows:", current.count())
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
