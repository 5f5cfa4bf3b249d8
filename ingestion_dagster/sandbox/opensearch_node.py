"""How an OpenSearch node is run: the command, and the folder that it runs in."""

import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.sandbox import opensearch_jars

_SETTINGS = """\
network.host: 127.0.0.1
http.port: 0
transport.port: 0
discovery.type: single-node
node.portsfile: true
action.auto_create_index: false
# The disk of a laptop is no concern of a sandbox. Whoever wants the flood-stage block turns this on through the cluster settings.
cluster.routing.allocation.disk.threshold_enabled: false
cluster.info.update.interval: 10s
# It counts garbage, which the serial collector leaves lying until a small heap is full.
indices.breaker.total.use_real_memory: false
"""

_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

# Agents and heap sizes that are meant for other programs.
_NOT_FOR_US = frozenset({"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"})

_SMALL_MB = 512


def java() -> str:
    """The java command of JAVA_HOME, or else on PATH. Raises `ConfigurationError` without one."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        place = f" in JAVA_HOME ({home})" if home else ""
        raise ConfigurationError(f"OpenSearch needs Java 11 or newer, and there is no java command{place}: {opensearch_jars.INSTALL}")
    return found


def class_archive(jars: Path) -> Path:
    """Where is kept what this very Java has made of the jars' classes; whether it is there or not."""
    binary = Path(java()).resolve()
    return jars / f"classes-{zlib.crc32(f'{binary} {binary.stat().st_mtime_ns}'.encode()):08x}.jsa"


def command(folder: Path, jars: Path, token: str, heap_mb: int, *options: str) -> list[str]:
    """What runs a node in `folder`, whose cluster is called `token`, on at most `heap_mb` MiB of heap; with further options of Java's.

    A small one, which lives for minutes, is compiled by the quick one of Java's compilers alone: half of its CPU time was the other's.
    """
    if heap_mb <= _SMALL_MB:
        options = ("-XX:TieredStopAtLevel=1", *options)
    return [
        *(java(), "-Xms64m", f"-Xmx{heap_mb}m", f"-XX:MaxDirectMemorySize={max(heap_mb // 2, 64)}m", "-XX:+UseSerialGC"),
        *("-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData", f"-XX:ErrorFile={folder / 'crash'}", f"-Djava.io.tmpdir={folder / 'tmp'}"),
        *("-Dfile.encoding=UTF-8", "-Djava.awt.headless=true", "-Dlog4j2.disable.jmx=true", "-Dlog4j.shutdownHookEnabled=false"),
        *("-Dio.netty.allocator.numDirectArenas=0", "-Dio.netty.recycler.maxCapacityPerThread=0", *options),
        *("-cp", f"{jars}/*", "org.codelibs.opensearch.runner.OpenSearchRunner", "-clusterName", token, "-numOfNode", "1"),
        *("-basePath", str(folder), "-confPath", str(folder / "config")),
        *("-dataPath", str(folder / "data"), "-logsPath", str(folder / "ports")),
        # The first node gets the port above this one: 0, which is any free port.
        *("-baseHttpPort", "-1"),
    ]


def environment() -> dict[str, str]:
    """The environment of a node: this one, without what is ours or meant for other programs on Java."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INGESTION_") and name not in _NOT_FOR_US}


def lay_out(folder: Path) -> None:
    """Make everything in the folder anew but for the data."""
    for name in ("config", "ports", "tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    (folder / "config" / "opensearch.yml").write_text(_SETTINGS, encoding="utf-8")
    (folder / "config" / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")


def published_url(folder: Path) -> str:
    """The base URL that the node in `folder` has published; empty until then."""
    with suppress(OSError):
        for address in (folder / "ports" / "http.ports").read_text(encoding="ascii").split():
            return f"http://{address}"
    return ""
