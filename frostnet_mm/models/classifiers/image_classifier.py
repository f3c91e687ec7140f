"""A classifier of images: backbone, neck, head, on mmengine alone."""

from collections.abc import Sequence

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...registry import MODELS

__all__ = ['ImageClassifier']


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Images to classes, with the parts and the calls of mmpretrain's ``ImageClassifier``, which need not be installed.

    Args:
        backbone (dict): Config of the backbone.
        head (dict): Config of the head, such as :class:`ClsHead`.
        neck (dict, optional): Config of a neck between them.
        data_preprocessor (dict, optional): Config of the data preprocessor. Default: mmengine's ``ImgDataPreprocessor``
            with ImageNet's mean and standard deviation, of BGR images that become RGB.
        init_cfg (dict | list[dict], optional): Initialization config.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        neck: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        default = dict(
            type='ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
        )
        super().__init__(data_preprocessor or default, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        self.head = MODELS.build(head)

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self.neck is not None

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor] | Tensor:
        """Backbone and neck.

        Args:
            inputs (Tensor): Preprocessed images, (N, C, H, W).
        """
        features = self.backbone(inputs)
        return self.neck(features) if self.with_neck else features

    def forward(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """Run the model.

        Args:
            inputs (Tensor): Preprocessed images, (N, C, H, W).
            data_samples (list[BaseDataElement], optional): One an image, with ``gt_label`` (1, ) for the losses.
            mode (str): 'tensor' for logits (N, classes), 'loss' for losses by name, 'predict' for data samples with
                ``pred_score`` (classes, ) and ``pred_label`` (1, ). Default: 'tensor'.

        Raises:
            ValueError: Another mode.
        """
        if mode == 'tensor':
            return self.head(self.extract_feat(inputs))
        if mode == 'loss':
            return self.head.loss(self.extract_feat(inputs), data_samples)
        if mode == 'predict':
            return self.head.predict(self.extract_feat(inputs), data_samples)
        raise ValueError(f"mode={mode!r}, expected 'tensor', 'loss' or 'predict'.")
