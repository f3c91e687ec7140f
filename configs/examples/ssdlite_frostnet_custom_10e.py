# Small batches at a high learning rate: 10 minutes on one CPU core for 300 images, to compare ways of training.
_base_ = '../ssdlite_frostnet_custom.py'

max_epochs, batch_size = 10, 4
assert _base_.max_epochs == max_epochs, 'read with frostnet_mm.engine.load_config, or take the copy in the work dir'

train_dataloader = dict(num_workers=1)
train_cfg = dict(val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=0.002, fused=True))
auto_scale_lr = dict(base_batch_size=4)
