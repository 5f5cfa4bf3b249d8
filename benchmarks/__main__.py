"""Run every benchmark, or those named as arguments."""

import sys

from benchmarks import metrics

BENCHMARKS = {"metrics": metrics.main}


def main() -> None:
    """Run the benchmarks named on the command line; all of them without a name."""
    for name in sys.argv[1:] or BENCHMARKS:
        BENCHMARKS[name]()


main()
