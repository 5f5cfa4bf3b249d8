"""The metric tables, the views under the dashboard's own names, live rows, and who may see what."""

from importlib.resources import files

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ORIGINAL_TABLES = """
SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname IN (
    'data_theme', 'data_subtheme', 'data_topic', 'data_metricgroup', 'data_metric', 'data_geographytype', 'data_geography',
    'data_stratum', 'data_age', 'data_coreheadline', 'data_coretimeseries', 'data_apitimeseries')
"""


class TablesInTheWay(Exception):
    """Tables of another system hold the names of the views this migration sets."""


def upgrade() -> None:
    """Create schema `metrics` and the public views; refuse a database whose own tables hold their names."""
    connection = op.get_bind()
    in_the_way = connection.exec_driver_sql(ORIGINAL_TABLES).scalar()
    if in_the_way:
        raise TablesInTheWay(
            f"this database already has {in_the_way} in schema public, left as they are. If they are the dashboard's own twelve tables, "
            "'ingestion adopt metrics' takes them over with all their rows. Otherwise use another database (INGESTION_DATABASE_URL), or "
            "move them out of the way (ALTER TABLE or VIEW public.… SET SCHEMA …) and run 'ingestion db upgrade' again."
        )
    connection.exec_driver_sql(files("ingestion_dagster.migrations").joinpath("metrics_0002.sql").read_text())
