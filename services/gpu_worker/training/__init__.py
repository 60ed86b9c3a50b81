"""Trains a model version: item-item tables, factors, and the weights that blend them."""

from gpu_worker.training.train import train

__all__ = ["train"]
