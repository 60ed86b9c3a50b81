"""The REST gateway: authenticates, validates, runs the recommendation pipeline; keeps no state of its own."""
