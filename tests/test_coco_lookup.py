"""Images whose file_name is not their path: found where one file alone can be meant, else the cause is named."""

import unicodedata

import pytest

from frostnet_mm.data.coco_lookup import Found, describe_renamed, find_images

NFC, NFD = (unicodedata.normalize(form, 'Blüte ä.jpg') for form in ('NFC', 'NFD'))


def folder(tmp_path, *names):
    root = tmp_path / 'images'
    root.mkdir()
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


@pytest.mark.parametrize(
    'name, path',
    [
        ('images\\x.jpg', 'x.jpg'),
        ('sub\\x.jpg', 'sub/x.jpg'),
        ('..\\..\\label-studio\\media\\upload\\4\\x.jpg', 'x.jpg'),
        ('../other/x.jpg', 'x.jpg'),
        ('/home/user1/project/images/x.jpg', 'x.jpg'),
        ('D:\\data\\cells\\x.jpg', 'x.jpg'),
        ('C:/x.jpg', 'x.jpg'),
        ('\\\\server\\share\\x.jpg', 'x.jpg'),
        ('/x.jpg', 'x.jpg'),
        ('train2017/x.jpg', 'x.jpg'),
        ('x.jpg', 'deep/er/x.jpg'),
        ('a/b/x.jpg', 'b/x.jpg'),
        ('x', 'x.jpg'),
        ('img.v2', 'img.v2.png'),
        ('x.png', 'x.jpg'),
        ('x.JPG', 'x.jpg'),
        ('X.jpg', 'x.JPG'),
        ('Sub/x.jpg', 'sub/x.jpg'),
        ('a%20b%20%281%29.jpg', 'a b (1).jpg'),
        ('https://host.org/data/x.jpg?token=1', 'x.jpg'),
        ('/data/local-files/?d=sub/x.jpg', 'sub/x.jpg'),
        (NFC, NFD),
        (NFD, NFC),
        ('old/' + NFC, 'sub/' + NFD),
    ],
)
def test_the_file_that_is_meant(tmp_path, name, path):
    root = folder(tmp_path, path, 'other.jpg', 'sub/other.txt')
    assert find_images(root, ['other.jpg', name]) == Found({1: path}, [], {})


@pytest.mark.parametrize('name', ['x.jpg', './x.jpg', 'sub/../x.jpg', 'sub//y.jpg', '{root}/x.jpg'])
def test_paths_that_lead_there_stay_as_they_are(tmp_path, name):
    root = folder(tmp_path, 'x.jpg', 'sub/y.jpg')
    assert find_images(root, [name.format(root=root)]) == Found({}, [], {})


def test_two_files_may_be_meant(tmp_path):
    root = folder(tmp_path, 'a/x.jpg', 'b/x.jpg', 'y.jpg', 'y.png')
    found = find_images(root, ['c/x.jpg', 'y'])
    assert found.renamed == {} and found.missing == [0, 1]
    assert {key: sorted(paths) for key, paths in found.candidates.items()} == {
        0: ['a/x.jpg', 'b/x.jpg'],
        1: ['y.jpg', 'y.png'],
    }
    assert find_images(root, ['/home/me/a/x.jpg', 'D:\\b\\x.jpg']).renamed == {0: 'a/x.jpg', 1: 'b/x.jpg'}


def test_one_file_is_not_two_images(tmp_path):
    root = folder(tmp_path, 'x.jpg')
    assert find_images(root, ['a/x.jpg', 'b/x.jpg']) == Found({}, [0, 1], {0: ['x.jpg'], 1: ['x.jpg']})
    assert find_images(root, ['x.jpg', 'b/x.jpg']) == Found({}, [1], {})  # x.jpg is the first's


def test_nothing_outside_the_folder_is_taken(tmp_path):
    root = folder(tmp_path, 'sub/y.jpg')
    (tmp_path / 'x.jpg').touch()
    assert find_images(root, ['../x.jpg', 'sub/../../x.jpg', '..\\x.jpg']).missing == [0, 1, 2]


def test_how_images_were_found_is_said_with_counts():
    pairs = [
        ('a\\x.jpg', 'a/x.jpg'),
        ('/home/y.jpg', 'y.jpg'),
        ('z/w.jpg', 'w.jpg'),
        (NFC, NFD),
        ('a%20b.jpg', 'a b.jpg'),
    ]
    assert describe_renamed([*pairs, ('q', 'q.png'), ('Q.jpg', 'q.jpg')]) == (
        "1 with / for \\ ('a/x.jpg' for 'a\\\\x.jpg'); 2 by their base name ('y.jpg' for '/home/y.jpg'); "
        f"1 in another Unicode normalization ('{NFD}' for '{NFC}'); 1 URL-decoded ('a b.jpg' for 'a%20b.jpg'); "
        "1 with another extension, or none ('q.png' for 'q'); 1 with other capitals ('q.jpg' for 'Q.jpg')"
    )


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
    root = folder(tmp_path, *(f'{i}.jpg' for i in range(200)))
    import os

    calls, real = [], os.scandir
    monkeypatch.setattr(os, 'scandir', lambda path: calls.append(path) or real(path))
    found = find_images(root, [f'C:\\data\\{i}.jpg' for i in range(200)])
    assert len(found.renamed) == 200 and found.renamed[7] == '7.jpg' and len(calls) == 1
