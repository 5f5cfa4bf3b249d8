"""Run every benchmark, or those named as arguments; `--quick` leaves the long ones out."""

import sys

from benchmarks import catalog, catalog_bulk, catalog_documents, catalog_swap, cubic, life_events, life_events_publish, metrics, residents

BENCHMARKS = {
    "metrics": metrics.main,
    "cubic": cubic.main,
    "residents": residents.main,
    "life_events": life_events.main,
    "life_events_publish": life_events_publish.main,
    "catalog": catalog.main,
    "catalog_bulk": catalog_bulk.main,
    "catalog_documents": catalog_documents.main,
    "catalog_swap": catalog_swap.main,
}


def main() -> None:
    """Run the benchmarks named on the command line; all of them without a name."""
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for name in names or BENCHMARKS:
        BENCHMARKS[name](quick="--quick" in sys.argv)


if __name__ == "__main__":
    main()
