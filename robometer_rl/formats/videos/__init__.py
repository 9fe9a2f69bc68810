"""Folders of videos with a JSONL file of tasks."""
