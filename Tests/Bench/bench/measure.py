"""How it is measured: subjects in turns, medians of their rounds, checks of what they did, and goals."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .services import ANSWER

MILLISECONDS = (1000, "ms")
SECONDS = (1, "s")


def per_item(count, what):
    return (1e6 / count, f"µs per {what}")


@dataclass(frozen=True)
class Goal:
    """What a subject is to reach beside the row's reference: at most `limit` times its time, or its CPU time where `of` is "cpu";
    or at least `speed` times as fast."""

    limit: float | None = None
    speed: float | None = None
    of: str = "time"

    def is_met(self, ratio):
        """By the ratio as it is shown."""
        return round(ratio, 2) <= self.limit if self.speed is None else round(1 / ratio, 2) >= self.speed

    @property
    def ratio(self):
        return self.limit if self.speed is None else 1 / self.speed


@dataclass
class Subject:
    """What is measured.

    command: words, or a shell line. work: how much of the row's work it does, where the whole would take too long. rounds: where
    they are not the row's. without: variables that it does not get. is_piped: its output goes to a cat, which is not measured.
    """

    name: str
    command: list[str] | str
    stdin: Path | None = None
    before: Callable[[], object] | None = None
    check: Callable[[Path], bool] | None = None
    work: float = 1.0
    rounds: int | None = None
    goals: tuple[Goal, ...] = ()
    without: tuple[str, ...] = ()
    is_piped: bool = False
    times: list[float] = field(default_factory=list)
    cpu_times: list[float] = field(default_factory=list)
    memory: int = 0  # KiB

    def run(self, folder, counts=True):
        if self.before:
            self.before()
        out, err = folder / "out", folder / "err"
        seconds, cpu, status, kilobytes = self.measured(out, err)
        if int(status) != 0 or (self.check and not self.check(out)):
            end = err.read_text(errors="replace")[-2000:]
            sys.exit(f"bench: '{self.name}' ended with {int(status)} and not what it should:\n{end}")
        if counts:
            self.times.append(float(seconds) / self.work)
            self.cpu_times.append(float(cpu) / self.work)
            self.memory = max(self.memory, int(kilobytes))

    def measured(self, out, err):
        """What Tests/Bench/measure.c tells of one run."""
        words = ["sh", "-c", self.command] if isinstance(self.command, str) else self.command
        result, report = os.pipe()
        with open(out, "wb") as output, open(err, "wb") as errors, open(self.stdin or os.devnull, "rb") as stdin:
            reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output) if self.is_piped else None
            subprocess.run(
                # Not sh: dash reads descriptors of one digit only.
                ["bash", "-c", f'exec measure "$@" 3>&{report}', "bash", *words],
                stdin=stdin,
                stdout=reader.stdin if reader else output,
                stderr=errors,
                pass_fds=[report],
                env={name: value for name, value in os.environ.items() if name not in self.without},
                check=True,
            )
            if reader:
                reader.stdin.close()
                reader.wait()
        os.close(report)
        told = os.read(result, 100)
        os.close(result)
        return told.split()

    @property
    def seconds(self):
        return statistics.median(self.times)

    @property
    def cpu(self):
        """None where it was not measured."""
        return statistics.median(self.cpu_times) if self.cpu_times else None

    def beside(self, other, of="time"):
        if of == "time":
            return self.seconds / other.seconds
        return self.cpu / other.cpu if self.cpu and other.cpu else None


@dataclass
class Row:
    """A work, and its subjects beside the one called `reference`."""

    title: str
    unit: tuple[float, str]
    reference: str
    rounds: int
    subjects: list[Subject]
    warmup: int = 1

    def run(self, folder):
        print(f"{self.title} ...", file=sys.stderr, flush=True)
        for turn in range(-self.warmup, self.rounds):
            for subject in self.subjects:
                limit = self.rounds if subject.rounds is None else subject.rounds
                if (turn < 0 and limit == self.rounds) or 0 <= turn < limit:
                    subject.run(folder, counts=turn >= 0)

    @property
    def compared(self):
        return next(subject for subject in self.subjects if subject.name == self.reference)


@dataclass
class Growth:
    """The same work at growing sizes, in turns: a cost per unit that does not grow is linear. `scale` is what a size is in units,
    `label` how it is told."""

    title: str
    unit: str
    sizes: list[int]
    work: Callable[[int], Subject]
    scale: float
    label: Callable[[int], str] = "{:,}".format
    subjects: list[Subject] = field(default_factory=list)

    def run(self, folder, rounds):
        print(f"{self.title} ...", file=sys.stderr, flush=True)
        self.subjects = [self.work(size) for size in self.sizes]
        for _ in range(rounds):
            for subject in self.subjects:
                subject.run(folder)

    @property
    def costs(self):
        return [subject.seconds / (size * self.scale) for subject, size in zip(self.subjects, self.sizes, strict=True)]


# Checks: each is asked about the file with a subject's output.


def equals(text):
    return lambda out: out.read_text(encoding="utf-8", errors="replace") == text


def has_lines(count):
    def check(out):
        with open(out, "rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b"")) == count

    return check


def has_size(*sizes):
    return lambda out: out.stat().st_size in sizes


def same_file(expected):
    return lambda out: subprocess.run(["cmp", "-s", out, expected], check=False).returncode == 0


def same_json(out):
    return json.loads(out.read_text()) == json.loads(ANSWER)
