"""Runs the five services of one data directory as processes of this machine."""
