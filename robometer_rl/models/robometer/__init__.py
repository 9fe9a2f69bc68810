"""Robometer: a Qwen3-VL decoder with progress, success and preference heads."""
