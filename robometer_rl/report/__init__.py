"""Pictures, videos and pages that show what a reward model predicted. Drawn with Pillow: no plotting library needed."""
