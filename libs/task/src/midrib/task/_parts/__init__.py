"""The parts of a task: heads, losses, metrics, outputs, optimizers, schedulers and finetuning."""
