"""What the doctor says of a source that is no list of JSON records: what convert would reject."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...errors import ConfigError
from ..options import ConvertOptions
from ..readers.open import open_any
from ..stores.open import open_images, place_of_images
from ..watch import Watch
from .dry_run import dry_run
from .report import DoctorReport


def judge_container(
    report: DoctorReport,
    images: str | os.PathLike[str] | None,
    options: ConvertOptions,
    watch: Watch,
) -> None:
    """Check a table, a folder of tars or the like as convert does; repairs are for JSON alone.

    Args:
        report: filled in.
        images: as the user gave them; None for where the source has them.
        options: of the conversion, with `dry_run`.
        watch: told of the progress.

    Raises:
        RecordError: the source as a whole is broken or holds no record.
        ConfigError: no such image folder or column, or a package is missing.
    """
    with tempfile.TemporaryDirectory(prefix="neva-prep-") as folder:
        opened, lying = open_any(Path(report.source), Path(folder), options)
        place = place_of_images(lying, images)
        report.images = place
        with dry_run(opened, open_images(place, Path(folder)), options, watch) as run:
            report.take_over(run.report)
            for rejected in run.rejected():
                report.count(rejected)
    report.faults.sort(key=lambda fault: (-fault.records, fault.reason))


def refuse_fix(report: DoctorReport, fix: Path | None) -> None:
    """Refuse to repair what is not made of JSON records.

    Raises:
        ConfigError: it was asked for.
    """
    if fix is not None:
        raise ConfigError(
            f"--fix {fix}: repairs JSON alone, and {report.source} is {report.form.title}; correct "
            "it where it comes from"
        )
