"""Trained models: loaded, run on images, evaluated, drawn; backbones swapped."""

from ..compat import check_operators

check_operators()  # before a model of mm is built, which would fail deep inside
