"""The families of the installed mmdet and mmseg, and the config of each that zoo.py takes."""

import re
from importlib.util import find_spec
from pathlib import Path

from frostnet_mm.errors import UserError

PACKAGES = ('mmdet', 'mmseg')

_DATA, _RECIPE, _TRACKER = 'data sets', 'a training recipe', 'a tracker'
#: Folders that hold models of other folders: with other data, training, or tracking on top.
NO_FAMILY = {
    f'{package}/{name}': why
    for package, why, names in (
        ('mmdet', _DATA, 'cityscapes deepfashion dsdl lvis objects365 openimages pascal_voc v3det wider_face'),
        ('mmdet', _RECIPE, 'albu_example common instaboost legacy_1.x misc resnet_strikes_back scratch seesaw_loss'),
        ('mmdet', _RECIPE, 'selfsup_pretrain simple_copy_paste soft_teacher strong_baselines timm_example'),
        ('mmdet', _TRACKER, 'bytetrack deepsort mask2former_vis masktrack_rcnn ocsort qdtrack reid sort strongsort'),
        ('mmseg', _DATA, 'dsdl'),
    )
    for name in names.split()
}
#: Families that are no images-to-maps network: queries or texts take part in what each image's network computes.
NOT_DENSE = {
    f'{package}/{name}'
    for package, names in (
        ('mmdet', 'conditional_detr dab_detr ddq deformable_detr detr dino glip grounding_dino mask2former maskformer'),
        ('mmdet', 'mm_grounding_dino queryinst sparse_rcnn'),
        ('mmseg', 'knet mask2former maskformer san vpd'),
    )
    for name in names.split()
}
#: What a family needs beyond the rule: 'config', 'options' of the config, 'size', 'stride' of its semantic labels.
HOURGLASS = {  # narrower: of the packaged widths a step takes more memory than the study lends
    'model.backbone.stage_channels': [64, 64, 96, 96, 96, 128],
    'model.backbone.feat_channel': 64,
    'model.bbox_head.in_channels': 64,
}
SPECIAL: dict[str, dict] = {
    'mmdet/ssd': dict(config='ssd300_coco', size=(300, 300)),
    'mmdet/yolact': dict(size=(550, 550)),
    'mmdet/ddod': dict(size=(512, 512)),  # mmcv's deformable convolutions take no map smaller than their kernel
    'mmdet/cornernet': dict(size=(511, 511), options=HOURGLASS),
    'mmdet/centripetalnet': dict(size=(511, 511), options=HOURGLASS),
    'mmdet/fcos': dict(config='fcos_r50-caffe_fpn_gn-head_1x_coco'),  # the smaller ones have other variants of the head
    'mmdet/ld': dict(options={'model.teacher_ckpt': None}),
    'mmdet/lad': dict(options={'model.teacher_ckpt': None}),
    'mmdet/htc': dict(stride=8),
    'mmdet/scnet': dict(stride=8),
    'mmdet/detectors': dict(config='detectors_cascade-rcnn_r50_1x_coco'),
    'mmdet/hrnet': dict(config='faster-rcnn_hrnetv2p-w18-1x_coco'),
    'mmdet/rpn': dict(config='rpn_r50_fpn_1x_coco'),
    'mmdet/cascade_rpn': dict(config='cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco'),
    'mmdet/dcn': dict(config='faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco'),
    'mmdet/dcnv2': dict(config='faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco'),
    'mmdet/guided_anchoring': dict(config='ga-retinanet_r50_fpn_1x_coco'),
    'mmdet/nas_fpn': dict(config='retinanet_r50_nasfpn_crop640-50e_coco', size=(256, 256)),  # else P7 is one element
    'mmdet/pisa': dict(config='retinanet-r50_fpn_pisa_1x_coco'),
    'mmdet/res2net': dict(config='faster-rcnn_res2net-101_fpn_2x_coco'),
    'mmdet/yolo': dict(config='yolov3_mobilenetv2_8xb24-320-300e_coco'),
    'mmdet/gcnet': dict(config='mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco'),
    'mmseg/mobilenet_v3': dict(size=(512, 512)),  # its head pools windows of 49x49
    'mmseg/unet': dict(config='unet-s5-d16_fcn_4xb4-40k_drive-64x64'),
    'mmseg/swin': dict(config='swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512'),
    'mmseg/ann': dict(config='ann_r50-d8_4xb2-40k_cityscapes-512x1024'),
}
#: At most so many of what the dense network is not concerned with: proposals, and samples of them, in training.
PROPOSALS = dict(nms_pre=200, max_per_img=50, num=64)
#: What makes a config's model larger, by the words of its name; of equals the shorter name is taken.
COSTS = (
    (r'tta', 1000),
    (r'nano|b0|n', -3),
    (r't|tiny|r18b?|slim|s12|hr18s', -2),
    (r's|small|hr18|pcpvt', -1),
    (r'r34|mobilenetv2', 1),
    (r'r50b?|x50|m|b|base|effb3|[st]50', 4),
    (r'r101b?|x101|l|large|x|xlarge|[st]101|101|r2|h|huge|swinl|swinb', 9),
    (r'.*dcn.*|.*dconv|mask|cascade|syncbn|fast|hr48|w32|w40', 3),
    (r'amp|ms|lsj|769x769|ade20k|164k|.*crop.*|ohem|pre', 1),
)


def cost_of(name: str) -> tuple[int, int, str]:
    """How large the model of a config is, by its name, to be compared."""
    words = re.split(r'[_\-.]', name)
    cost = sum(cost for pattern, cost in COSTS for word in words if re.fullmatch(pattern, word))
    return cost, len(name), name


def find_families(names: list[str] | None) -> dict[str, str]:
    """The config of every family of the installed packages, by ``package/folder``."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        root = Path(spec.origin).parent / '.mim/configs' if spec else None
        for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root and root.is_dir() else ():
            name = f'{package}/{folder.name}'
            configs = sorted((path.stem for path in folder.glob('*.py')), key=cost_of)
            if configs and folder.name != '_base_' and name not in NO_FAMILY:
                found[name] = SPECIAL.get(name, {}).get('config', configs[0])
    lacking = sorted(set(names or ()) - set(found))
    if lacking:
        raise UserError(f'--names {" ".join(lacking)}: expected names of {", ".join(found) or "mmdet or mmseg"}.')
    return {name: found[name] for name in names or found}


def cut_repetitions() -> None:
    """Have residual networks repeat no block: one a stage is of every kind that there is."""
    from mmdet.registry import MODELS as DETECTORS
    from mmseg.registry import MODELS as SEGMENTERS

    for kind in {*DETECTORS.module_dict.values(), *SEGMENTERS.module_dict.values()}:
        table = vars(kind).get('arch_settings') if isinstance(kind, type) else None
        for depth, entry in table.items() if isinstance(table, dict) else ():
            if isinstance(entry, tuple) and isinstance(entry[0], type) and isinstance(entry[1], tuple):
                table[depth] = (entry[0], (1,) * len(entry[1]))


def shorten(node: object) -> None:
    """Have transformers repeat no more than two blocks a stage, and second stages take few proposals; in place."""
    if isinstance(node, dict):
        if isinstance(node.get('num_layers'), int) and 'out_indices' in node:  # without stages, as ViT
            outputs = node['out_indices'] if isinstance(node['out_indices'], (list, tuple)) else [-1]
            node['num_layers'] = min(node['num_layers'], max(2, len(outputs)))
            node['out_indices'] = list(range(node['num_layers']))[-len(outputs) :]
        for key, value in node.items():
            if key in ('depths', 'num_layers') and isinstance(value, (list, tuple)):
                node[key] = [min(int(count), 2) for count in value]
            elif key in PROPOSALS and isinstance(value, int):
                node[key] = min(value, PROPOSALS[key])
            else:
                shorten(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shorten(value)
