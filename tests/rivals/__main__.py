"""``python -m tests.rivals``: set up every rival that is not there yet. Takes minutes and 1.4 GB."""

from __future__ import annotations

import subprocess
import sys

from tests.rivals import infinity

if __name__ == "__main__":
    try:
        infinity.set_up()
    except subprocess.CalledProcessError as error:
        sys.exit(f"setting up infinity failed with exit code {error.returncode}; see above")
    except KeyboardInterrupt:
        sys.exit(130)
