"""Published reward models besides Robometer, each behind `RewardModel` and in a file of its own."""
