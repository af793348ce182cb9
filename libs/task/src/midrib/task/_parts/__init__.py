"""What a task is made of: heads, losses, metrics, outputs, optimizers, schedulers and finetuning."""
