"""Engines that run the dense network of a model outside torch, and what is deployed to them."""
