"""Training and fine-tuning of Robometer checkpoints."""
