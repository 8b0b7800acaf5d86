"""Rules hold whoever chooses inside them: modules that ask for it run once by merit order and once by plan."""

from __future__ import annotations

from tests.controller.engine.build import method

__all__ = ["method"]
