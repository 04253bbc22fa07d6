"""Batch jobs, against an emulator that has batches of its own."""
