"""What can be checked of the image without a container engine."""

from __future__ import annotations

import re

from tests.deploy.kubernetes import DEPLOY, REPOSITORY


def test_the_image_copies_only_what_is_there() -> None:
    """Every path that the Dockerfile takes from the repository exists."""
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert paths
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
