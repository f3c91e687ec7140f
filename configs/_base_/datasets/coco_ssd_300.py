# COCO 2017 with SSD's augmentations, images stretched to 300x300.
_base_ = './coco_ssd_320.py'

# frostnet_mm gives input_size to the base; these lines are for mm's own tools, which do not
input_size = (300, 300)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[4]['scale'] = test_pipeline[1]['scale'] = input_size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
