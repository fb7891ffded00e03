"""The files of a calibration: profile, report in three forms, two plots."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sidecar.calibrate.report import markdown, page, plots
from sidecar.calibrate.report.readout import ReadOut, write_json


@dataclass(frozen=True, slots=True)
class Files:
    """What a calibration leaves in its folder."""

    folder: Path

    @property
    def profile(self) -> Path:
        """For the sidecar's setting ``profiles``."""
        return self.folder / "profile.json"

    @property
    def html(self) -> Path:
        """For people; needs no other file."""
        return self.folder / "report.html"

    @property
    def markdown(self) -> Path:
        """For a repository or a ticket."""
        return self.folder / "report.md"

    @property
    def json(self) -> Path:
        """For programs, and for a later ``--compare``."""
        return self.folder / "report.json"

    def write(self, readout: ReadOut, profile: bytes) -> None:
        """All of them; the profile last and in one piece, so that a sidecar that watches it never reads half of one.

        Raises OSError where the folder can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        curve, pareto = plots.draw(readout, self.folder)
        self.html.write_text(page.render(readout, curve, pareto), encoding="utf-8")
        self.markdown.write_text(markdown.render(readout), encoding="utf-8")
        write_json(self.json, readout)
        _replace(self.profile, profile)


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        unfinished.write_bytes(content)
        unfinished.chmod(0o644)  # a sidecar may run as another user
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
