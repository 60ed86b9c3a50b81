"""The four services and the event log, each behind its port."""
