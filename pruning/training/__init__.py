"""Fine-tuning: the loop, recipes, objectives, distillation, checkpoints."""
