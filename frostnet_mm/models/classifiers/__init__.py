from .cls_head import ClsHead, LogitsHead
from .frostnet_classifier import FrostNetClassifier
from .image_classifier import ImageClassifier

__all__ = ['ClsHead', 'FrostNetClassifier', 'ImageClassifier', 'LogitsHead']
