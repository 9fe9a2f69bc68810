"""Learned rewards for recorded datasets: formats, the engine that labels their episodes, and what it writes."""
