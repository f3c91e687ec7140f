"""Trained models: loaded, run on images, evaluated, drawn; backbones swapped."""
