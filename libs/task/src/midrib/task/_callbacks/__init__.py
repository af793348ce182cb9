"""Callbacks that a task brings into its Trainer: stage logs, finetuning and the feature cache."""
