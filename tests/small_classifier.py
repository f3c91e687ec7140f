"""A config of a classifier that trains in a second, for tests of what surrounds it."""

from conftest import ROOT

FLOAT, QAT = (ROOT / f'configs/frostnet_{name}custom_cls.py' for name in ('', 'qat_'))


def write_small_classifier(path, data, base=FLOAT, in_channels=48, epochs=2, more=''):
    """A FrostNet of two stages on images of 32x32, in this process."""
    path.write_text(
        f"""
_base_ = {str(base)!r}
data_root, input_size, max_epochs, batch_size = {str(data)!r}, 32, {epochs}, 8
arch = dict(_delete_=True, stem=16, stages=[[(3, 16, 2, None, 2)], [(3, 48, 2, None, 1, 'fused')]])
model = dict(
    backbone=dict(arch=arch, out_indices=(1,)),
    head=dict(in_channels={in_channels}, hidden_channels=None, dropout=0.0),
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
{more}
test_dataloader = val_dataloader
"""
    )
    return path
