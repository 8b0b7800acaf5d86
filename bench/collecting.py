"""The controller daemon as it is, but that its garbage is collected every few seconds and each time told in its log."""

from __future__ import annotations

import logging
import sys
from typing import Final

from controller import daemon, garbage

EVERY_S: Final = 10.0

if __name__ == "__main__":
    setattr(garbage, "EVERY_S", EVERY_S)  # noqa: B010  it is final for everybody else
    setattr(garbage, "RARELY_S", EVERY_S)  # noqa: B010
    logging.getLogger(garbage.__name__).setLevel(logging.DEBUG)
    sys.exit(daemon.main())
