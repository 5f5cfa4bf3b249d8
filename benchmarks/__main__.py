"""Run every benchmark, or those named as arguments, and keep the figures; `--quick` leaves the long ones out."""

import os
import sys

from benchmarks import (
    catalog,
    catalog_bulk,
    catalog_documents,
    catalog_swap,
    cubic,
    discovery,
    life_events,
    life_events_publish,
    machines,
    metrics,
    residents,
    results,
)

BENCHMARKS = {
    "metrics": metrics.main,
    "cubic": cubic.main,
    "discovery": discovery.main,
    "residents": residents.main,
    "life_events": life_events.main,
    "life_events_publish": life_events_publish.main,
    "machines": machines.main,
    "catalog": catalog.main,
    "catalog_bulk": catalog_bulk.main,
    "catalog_documents": catalog_documents.main,
    "catalog_swap": catalog_swap.main,
}


def main() -> None:
    """Run the benchmarks named on the command line; all of them without a name."""
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for name in names or BENCHMARKS:
        load, quick = os.getloadavg()[0], "--quick" in sys.argv
        result = BENCHMARKS[name](quick=quick)
        print(f"  written: {results.record(name, result, quick=quick, load=load)}", flush=True)


if __name__ == "__main__":
    main()
