"""The command: its arguments, what has to stand before the rows, and the order of the report."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from . import report, rows, services
from .services import ROOT

BUILD = ROOT / ".build/bench"


def arguments(usage):
    parser = argparse.ArgumentParser(usage=usage.replace("%", "%%"), add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=rows.FAMILIES)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    if not {"AMQP_URL", "CONSUL_HTTP_ADDR", "MSCTL_TEST_RABBITMQ", "MSCTL_TEST_TLS"} <= os.environ.keys():
        parser.error("it needs the services: Scripts/services run -- Scripts/bench ...")
    return given


def plots_of(file):
    """The folder of the plots, as the report names it, and where it is."""
    beside = file.resolve().parent
    name = "Tests/Bench/plots" if beside == ROOT else "plots"
    return name, beside / name


@contextlib.contextmanager
def prepared(is_quick):
    """What the rows stand on, for as long as the block runs."""
    os.environ["PATH"] = f"{BUILD}:{ROOT}/.build/release:" + os.environ["PATH"]
    os.environ["NO_COLOR"] = "1"
    if shutil.which("msctl") != str(BUILD / "msctl"):
        sys.exit("bench: an installed copy of msctl is measured, by 'make bench'")
    tls = Path(os.environ["MSCTL_TEST_TLS"])
    broker = services.Broker(os.environ["AMQP_URL"], os.environ["MSCTL_TEST_RABBITMQ"])
    agent = services.Agent(os.environ["CONSUL_HTTP_ADDR"])
    with tempfile.TemporaryDirectory(prefix="msctl-bench.") as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the workers of an nginx that root started
        with services.nginx(folder, tls) as (port, secure):
            agent.register("user-service", port)
            agent.register_many("large-service", rows.INSTANCES)
            yield rows.Setting(folder, is_quick, tls, broker, agent, port, secure)


def family_part(setting, title, family, image):
    """A part of the report, and what plots.py draws of it."""
    done = []
    for row in family(setting):
        if isinstance(row, rows.Row):
            row.run(setting.folder)
        done.append(row)
    # Told at the end, since a row may get its limit after it has run.
    tables = [report.row_table(row) if isinstance(row, rows.Row) else row for row in done]
    bars = [report.row_plot(row) for row in done if isinstance(row, rows.Row)]
    return f"## {title}\n\n{image}\n" + "\n".join(tables), bars


def measured(setting, only, image):
    """The parts of the report, and what plots.py draws."""
    parts, figures = [], {"families": {}, "growth": []}
    for name, (title, family) in rows.FAMILIES.items():
        if only in (None, name):
            part, figures["families"][name] = family_part(setting, title, family, image(name, title))
            parts.append(part)
    if only is None:
        parts.append("## Memory over a long stream\n\n" + report.memory_table(rows.long_streams(setting)))
        works = list(rows.growing(setting))
        for work in works:
            work.run(setting.folder, setting.pick(5, 2))
        title = "Costs that grow"
        parts.append(f"## {title}\n\n{report.GROWING}\n\n{image('growth', title)}\n" + report.growth_table(works))
        figures["growth"] = [report.growth_plot(work) for work in works]
    return parts, figures


def main(usage):
    given, start = arguments(usage), time.monotonic()
    name, plots = plots_of(given.file)
    with prepared(given.quick) as setting:
        parts, figures = measured(setting, given.only, partial(report.image, name))
        command = f"Scripts/bench --only {given.only}" if given.only else "make bench-quick" if given.quick else "make bench"
        minutes = (time.monotonic() - start) / 60
        text = (
            f"# Benchmarks\n\nMade by `{command}` in {minutes:.0f} minutes. {report.ABOUT}\n\n{report.machine()}\n"
            + "\n".join(parts)
        )
    # What a person has to say of the figures.
    if not given.only and not given.quick:
        text += "\n" + (ROOT / "Tests/Bench/NOTES.md").read_text()
    given.file.write_text(text)
    plotter = [BUILD / "python/bin/python", ROOT / "Tests/Bench/plots.py", plots]
    subprocess.run(plotter, input=json.dumps(figures), text=True, check=True)
    print(text)
