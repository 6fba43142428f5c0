"""The same program as for the tests of the process."""

from tests.process.conftest import launch, model_folder, start

__all__ = ["launch", "model_folder", "start"]
