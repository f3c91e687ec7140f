from .frostnet_classifier import FrostNetClassifier

__all__ = ['FrostNetClassifier']
