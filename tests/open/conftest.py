"""The fixtures of the end-to-end tests, for suites that will move there."""

from tests.e2e.conftest import client, engine_python, served

__all__ = ["client", "engine_python", "served"]
