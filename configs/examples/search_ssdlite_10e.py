# The search for detectors on a CPU's engine whose results are in docs/search.md, around the network "fused 660":
#
#   python tools/search.py configs/examples/search_ssdlite_10e.py --out DIR --cfg-options data_root=path/to/data
_base_ = './ssdlite_frostnet_custom_10e.py'

fused_660 = dict(
    _delete_=True,
    stem=32,
    stages=[
        [(3, 16, 1, None, 1), (3, 24, 3, None, 2, 'fused')],
        [(3, 40, 3, None, 2, 'fused'), (3, 40, 3, None, 1, 'fused'), (3, 40, 4, None, 1, 'fused')],
        [(3, 96, 4, 2, 2), (3, 96, 3, None, 1), (3, 96, 6, None, 1)],
        [(5, 192, 6, 4, 2), (5, 192, 3, 2, 1)],
        [(5, 320, 6, 4, 1)],
    ],
)
model = dict(backbone=dict(arch=fused_660))

search = dict(
    engine='openvino',
    batch_size=2,
    space=dict(
        kernels=(3, 5),
        expansions=(2, 3, 4, 6),
        reductions=(None, 4, 2),
        kinds=dict(frost={}, fused=dict(kernels=(3,), expansions=(2, 3, 4), reductions=(None,), stages=(0, 1, 2))),
        depths=[(1, 2), (1, 4), (2, 4), (1, 3), (1, 2)],
    ),
)
