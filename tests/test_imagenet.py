"""ImageNet's own layout in small: a development kit, validation images in one folder."""

import numpy as np
import pytest
from conftest import run_tool
from scipy.io import savemat

from frostnet_mm.data.errors import DatasetError, DatasetNotFoundError
from frostnet_mm.data.image_folder import ImageFolder
from frostnet_mm.data.imagenet import prepare_imagenet, read_ground_truth

SYNSETS = ('n00000003', 'n00000001', 'n00000002')  # of ILSVRC2012_ID 1, 2, 3
TRUTH = (2, 1, 3, 3, 2)


@pytest.fixture
def release(tmp_path):
    """Three classes, five validation images, and a kit with a class of classes, as the real one has."""
    for name in SYNSETS:
        (tmp_path / 'data/train' / name).mkdir(parents=True)
        for index in range(2):
            (tmp_path / 'data/train' / name / f'{name}_{index}.JPEG').write_bytes(b'image')
    (tmp_path / 'data/val').mkdir()
    for number in range(1, 6):
        (tmp_path / f'data/val/ILSVRC2012_val_{number:08d}.JPEG').write_bytes(b'image')
    kind = [('ILSVRC2012_ID', object), ('WNID', object), ('words', object), ('num_children', object)]
    rows = [(i + 1, name, f'word {i}', 0) for i, name in enumerate(SYNSETS)] + [(4, 'n00000009', 'all', 3)]
    (tmp_path / 'kit/data').mkdir(parents=True)
    savemat(tmp_path / 'kit/data/meta.mat', dict(synsets=np.array(rows, dtype=kind)))
    truth = '\n'.join(map(str, TRUTH)) + '\n'
    (tmp_path / 'kit/data/ILSVRC2012_validation_ground_truth.txt').write_text(truth)
    return tmp_path


def test_validation_images_get_their_classes(release, capsys):
    (release / 'data/train' / SYNSETS[0] / '._hidden.JPEG').write_bytes(b'as macOS leaves them')
    assert read_ground_truth(str(release / 'kit')) == [SYNSETS[number - 1] for number in TRUTH]
    assert run_tool('prepare_imagenet', release / 'data', '--devkit', release / 'kit') == 0
    said = capsys.readouterr().out
    assert 'train: 6 images of 3 classes' in said and '5 links made' in said and 'the release has 1281167' in said
    assert said.splitlines()[-1].endswith('val_images=val_by_class')
    val = ImageFolder(data_root=str(release / 'data'), data_prefix=dict(img_path='val_by_class'), test_mode=True)
    found = {}
    for index in range(len(val)):
        info = val.get_data_info(index)
        number = int(info['img_path'].rpartition('_')[2].partition('.')[0])
        found[number] = val.metainfo['classes'][info['gt_label']]
    assert found == {number: SYNSETS[own - 1] for number, own in enumerate(TRUTH, 1)}
    again = prepare_imagenet(str(release / 'data'), str(release / 'kit'))
    assert again.linked == 0 and again.counts == dict(train=6, val=5)


def test_two_images_of_a_number_are_refused(release):
    """A copy under another name: which of the two would be validated on was a matter of order."""
    (release / 'data/val/copy_of_ILSVRC2012_val_00000002.JPEG').write_bytes(b'another')
    with pytest.raises(DatasetError, match="00000002.JPEG' and '.*copy_of_.*00000002.JPEG' have the same number"):
        prepare_imagenet(str(release / 'data'), str(release / 'kit'))
    assert not (release / 'data/val_by_class').exists()


def test_what_is_missing_is_said(release, tmp_path):
    data, kit = str(release / 'data'), release / 'kit'
    with pytest.raises(DatasetError, match='holds 5 images in one folder, .* give --devkit'):
        prepare_imagenet(data)
    with pytest.raises(DatasetNotFoundError, match='has no meta.mat and no ILSVRC2012_validation_ground_truth.txt'):
        prepare_imagenet(data, str(tmp_path / 'nothing'))
    (kit / 'data/ILSVRC2012_validation_ground_truth.txt').write_text('1\n2\n')
    with pytest.raises(DatasetError, match=r"val_00000003.JPEG' has no number from 1 to 2 in its name"):
        prepare_imagenet(data, str(kit))
    (kit / 'data/ILSVRC2012_validation_ground_truth.txt').write_text('1\n2\n9\n1\n1\n')
    with pytest.raises(DatasetError, match='cannot be read: KeyError: 9'):
        prepare_imagenet(data, str(kit))
    (release / 'data/train/cats').mkdir()
    with pytest.raises(DatasetError, match="holds 'cats': expected a folder a class, such as n01440764"):
        prepare_imagenet(data, str(kit))


def test_a_damaged_kit_is_one_error(release):
    path = release / 'kit/data/meta.mat'
    content = path.read_bytes()
    for length in (0, 60, 127, 129, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match='The ground truth in .* cannot be read: .*unpack ILSVRC2012_devkit'):
            prepare_imagenet(str(release / 'data'), str(release / 'kit'))
        assert not (release / 'data/val_by_class').exists()
    savemat(path, dict(synsets=np.arange(900.0)), do_compression=True)
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(255 - value for value in content[200:240])
    path.write_bytes(content)
    with pytest.raises(DatasetError, match='cannot be read: error: Error -3 while decompressing'):  # of zlib
        read_ground_truth(str(release / 'kit'))


def test_other_classes_in_validation(release):
    data = release / 'data'
    for path in (data / 'val').iterdir():
        path.unlink()
    for name in (*SYNSETS[:2], 'n00000007'):
        (data / 'val' / name).mkdir()
        (data / 'val' / name / 'a.JPEG').write_bytes(b'image')
    message = r"has other classes than .*: 1 more \('n00000007'\), 1 missing \('n00000002'\)"
    with pytest.raises(DatasetError, match=message):
        prepare_imagenet(str(data))
    (data / 'val/n00000007').rename(data / 'val/n00000002')
    assert prepare_imagenet(str(data)).val == data / 'val'
