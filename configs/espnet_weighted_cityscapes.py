# ESPNet with a loss at the encoder as well (the authors' first stage), and class weights.
_base_ = './espnet_cityscapes.py'

# 1 / log(1.1 + share of the class among the labelled pixels), the formula of ENet (arXiv 1606.02147) that ESPNet takes;
# the shares of the training images.
class_weight = [
    2.5960, 6.7416, 3.5354, 9.8663, 9.6909, 9.3694, 10.2891, 9.9532, 4.3098, 9.4904,
    7.6744, 9.3969, 10.3478, 6.3928, 10.2267, 10.2411, 10.2806, 10.3970, 10.0556,
]  # fmt: skip
loss_decode = dict(type='CrossEntropyLoss', class_weight=class_weight, avg_non_ignore=False)
model = dict(
    decode_head=dict(loss_decode=loss_decode),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=256,
        in_index=2,
        channels=256,
        num_convs=0,
        concat_input=False,
        num_classes=19,
        dropout_ratio=0,
        norm_cfg={{_base_.norm_cfg}},
        align_corners=False,
        loss_decode=dict(loss_decode, loss_weight=0.4),
    ),
)
