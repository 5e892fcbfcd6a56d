"""What travels with a checkpoint: configurations, models, processors and what they share."""
