"""deploy/dagster.yaml with deploy/dagster-ecs.yaml behind it: a run becomes a task of its pipeline, beside the daemon that starts it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from dagster_aws.ecs import EcsRunLauncher

from ingestion_dagster_tests.cloud.stack import ROOT, Stack

PIPELINES = ["metrics", "cubic", "residents", "life_events", "catalog", "operations"]


def instance_file() -> dict[str, Any]:
    """What the image has as /opt/dagster/ecs/dagster.yaml."""
    return yaml.safe_load("".join((ROOT / "deploy" / name).read_text() for name in ("dagster.yaml", "dagster-ecs.yaml")))
