"""Ray Data against as many single processes: `dist/ray-venv/bin/python benchmarks/ray/bulk.py`, four minutes.

build-support/ray makes that environment. Each of two processes, with one thread, reads its half of a Parquet table and
embeds it with `midrib.ray.Embedder`: without Ray, and as the two actors of a job of Ray Data. Loading is not measured.
With `--actors 1`, one of each on two cores leaves a core to Ray's other processes and to the job's own.
The rate is that of the wall clock, so it needs a quiet machine. The processor time per row of the processes that embed
holds at any load. Ray's other processes are listed in cores: they use processor time also while they wait, so that
their milliseconds per row would depend on the rate. Rounds of both are interleaved, because the speed of a shared
machine drifts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pyarrow.parquet as pq  # type: ignore[import-untyped] # it has no types
from PIL import Image
from run import used

from midrib.ray import Embedder
from midrib.ray._dataset import Pool

FOLDERS = [Path(__file__).parent, Path(__file__).parents[1] / "serving"]
BATCH = 32
FILES_EACH = 2  # of a process
WARM_SHARE = 0.25  # of the rows, which are embedded before the measurement
IMAGES, TEXTS = "benchmark/embedding/vit-tiny-images", "text/embedding/all-minilm-l6-v2"
ROWS = {IMAGES: 1024, TEXTS: 8192}


class Measured(NamedTuple):
    """The rows per second, the processor time of those processes that embed, and the cores that all others use."""

    rows_per_s: float
    cpu_ms: float
    other_cores: float = 0.0


class TimedEmbedder(Embedder):
    """Embeds tables, with two columns about each batch.

    done: when it was embedded, in seconds of the machine's clock.  cpu_ms: the processor time of this process per row.
    """

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the embeddings with both columns."""
        before_s = time.process_time()
        rows = super().__call__(table)
        cpu_ms = 1000 * (time.process_time() - before_s) / len(rows)
        columns = {"done": time.monotonic(), "cpu_ms": cpu_ms}
        for name, value in columns.items():
            rows = rows.append_column(name, pa.array(np.full(len(rows), value)))
        return rows


def options(backbone: str) -> dict[str, Any]:
    """Return the arguments of the embedder."""
    return {"backbone": backbone, "column": "value", "imports": ["bulk_models"]}


def single(backbone: str, files: list[str]) -> Measured:
    """Embed files in this process."""
    embedder = TimedEmbedder(**options(backbone))
    tables = [table for file in files for table in batches(file)]
    warm = int(len(tables) * WARM_SHARE)
    for table in tables[:warm]:
        embedder(table)
    start, before_s = time.monotonic(), time.process_time()
    rows = sum(len(embedder(table)) for table in tables[warm:])
    return Measured(rows / (time.monotonic() - start), 1000 * (time.process_time() - before_s) / rows)


def batches(file: str) -> Iterator[pa.Table]:
    """Yield the batches of a file."""
    for batch in pq.ParquetFile(file).iter_batches(BATCH):
        yield pa.Table.from_batches([batch])


def on_ray(backbone: str, files: list[str]) -> Measured:
    """Embed files by the actors of a job: one for two files."""
    import ray

    actors = len(files) // FILES_EACH
    # Each actor reserves one of Ray's CPUs, and the tasks that read the files need one too.
    ray.init("local", num_cpus=actors + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    table = Pool(BATCH, actors).map(
        ray.data.read_parquet(files), TimedEmbedder, udf_modifying_row_count=False, **options(backbone)
    )
    with CpuSamples() as samples:
        batches = list(table.iter_batches(batch_size=None, batch_format="pyarrow"))
    ray.shutdown()
    done, cpu_ms = (np.concatenate([batch.column(name).to_numpy() for batch in batches]) for name in ("done", "cpu_ms"))
    return measured_after_warm_up(done, cpu_ms, samples)


def measured_after_warm_up(done: np.ndarray, cpu_ms: np.ndarray, samples: CpuSamples) -> Measured:
    """Return the measurement of the rows after the first ones.  done, cpu_ms: see TimedEmbedder, [rows]."""
    order = np.argsort(done)
    warm = int(len(done) * WARM_SHARE)
    start, end = done[order[warm - 1]], done[order[-1]]
    used_s = cpu_ms[order[warm:]].sum() / 1000
    cores = (samples.at(end) - samples.at(start)) / (end - start)
    rows = len(done) - warm
    return Measured(rows / (end - start), 1000 * used_s / rows, float(cores - used_s / (end - start)))


class CpuSamples:
    """The processor time of all processes of this session, read repeatedly."""

    def __enter__(self) -> Self:
        """Start to read."""
        self._samples = [self._sample()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._samples.append(self._sample())

    def at(self, moment: float) -> float:
        """Return the processor time at a moment of the machine's clock, in seconds."""
        times, used_s = zip(*self._samples, strict=True)
        return float(np.interp(moment, times, used_s))

    def _read(self) -> None:
        while not self._stop.wait(1.0):
            self._samples.append(self._sample())

    @staticmethod
    def _sample() -> tuple[float, float]:
        return time.monotonic(), sum(used({os.getsid(0)}))


def write_table(folder: Path, backbone: str, rows: int, processes: int) -> list[str]:
    """Write the table in `FILES_EACH` files for each process, and return their paths."""
    random = np.random.default_rng(0)
    values = [image(random) if backbone == IMAGES else text(random) for _ in range(256)]
    count = FILES_EACH * processes
    paths = [str(folder / f"{backbone.rpartition('/')[2]}-{number}.parquet") for number in range(count)]
    for path in paths:
        column = [values[number % len(values)] for number in range(rows // count)]
        pq.write_table(pa.table({"value": column}), path, row_group_size=BATCH)
    return paths


def image(random: np.random.Generator) -> bytes:
    """Return a JPEG of 256 x 256 pixels."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((256, 256)).save(file, "JPEG")
    return file.getvalue()


def text(random: np.random.Generator) -> str:
    """Return a text of 16 words."""
    return " ".join(random.choice(["river", "stone", "quiet", "seven", "garden", "window"], 16))


def measure(rounds: int, share: float, processes: int) -> Iterator[str]:
    """Yield the lines of the table: of as many processes as actors."""
    yield "| backbone | processes, rows/s | Ray Data | ratio | CPU ms per row | Ray Data | ratio | others, cores |"
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for backbone in ROWS:
            files = write_table(Path(folder), backbone, int(share * ROWS[backbone]), processes)
            pairs = [(singles(backbone, files), run("ray", backbone, files)) for _ in range(rounds)]
            yield row(backbone, pairs)


def row(name: str, pairs: list[tuple[Measured, Measured]]) -> str:
    """Return a line of the table: the medians of both sides, and of the pairs' ratios."""
    single, ray = (
        Measured(*(statistics.median(values) for values in zip(*side, strict=True)))
        for side in zip(*pairs, strict=True)
    )
    rate = statistics.median(second.rows_per_s / first.rows_per_s for first, second in pairs)
    cpu = statistics.median(first.cpu_ms / second.cpu_ms for first, second in pairs)
    rates = f"{single.rows_per_s:,.0f} | {ray.rows_per_s:,.0f} | {rate:.3f}"
    return f"| {name} | {rates} | {single.cpu_ms:.2f} | {ray.cpu_ms:.2f} | {cpu:.3f} | {ray.other_cores:.2f} |"


def singles(backbone: str, files: list[str]) -> Measured:
    """Return the sum of the rates of the single processes, and their mean processor time."""
    parts = [files[start : start + FILES_EACH] for start in range(0, len(files), FILES_EACH)]
    running = [begin("single", backbone, part) for part in parts]
    measured = [result(process) for process in running]
    return Measured(sum(each.rows_per_s for each in measured), statistics.mean(each.cpu_ms for each in measured))


def run(mode: str, backbone: str, files: list[str]) -> Measured:
    """Return the measurement of a process."""
    return result(begin(mode, backbone, files))


def begin(mode: str, backbone: str, files: list[str]) -> subprocess.Popen[str]:
    """Start this program for one measurement, as a session."""
    path = os.pathsep.join([*map(str, FOLDERS), *(folder for folder in sys.path if folder)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--mode", mode, backbone, *files]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env=environment, **pipes)  # noqa: S603 - this file


def result(process: subprocess.Popen[str]) -> Measured:
    """Return the measurement that a process prints. Raises RuntimeError if it fails."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}: see its errors above")
    return Measured(**json.loads(output.splitlines()[-1]))


def main() -> None:
    """Print the table, or one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows, for a machine that other work shares")
    parser.add_argument("--actors", type=int, default=2, help="their number, and that of the single processes")
    parser.add_argument("--mode", choices=["single", "ray"], help=argparse.SUPPRESS)
    parser.add_argument("job", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode:
        backbone, *files = arguments.job
        measured = (single if arguments.mode == "single" else on_ray)(backbone, files)
        sys.stdout.write(json.dumps(measured._asdict()) + "\n")
        return
    for line in measure(arguments.rounds, arguments.share, arguments.actors):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
