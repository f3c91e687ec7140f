"""The search for architectures: a space of FrostNets, their common weights, and their times on an engine."""

from ..lazy import offer

__all__ = offer(
    __name__,
    {
        '.architectures': ['canonical', 'count_weights', 'key'],
        '.candidates': ['Candidate', 'Evaluator'],
        '.elastic': ['ElasticFrostNet'],
        '.errors': ['SearchError'],
        '.features': ['FEATURES', 'features_of', 'mmacs'],
        '.front': ['front_of', 'hypervolume'],
        '.latency': ['Check', 'LatencyModel', 'spearman'],
        '.networks': ['elastic_backbone', 'elastic_of', 'extract_model', 'plain_backbone', 'space_of'],
        '.recalibrate': ['recalibrate'],
        '.rounding': ['BatchRounding'],
        '.search': ['Search', 'SearchOptions'],
        '.settings': ['SearchSettings'],
        '.space': ['SearchSpace'],
        '.split': ['split_training_data'],
        '.study': ['Found', 'NetworkStudy'],
        '.supernet': ['train_supernet', 'write_supernet'],
        '.supernet_hook': ['SupernetHook', 'network_at'],
        '.timing': [
            'Setting',
            'TimedNetwork',
            'choose_networks',
            'fit_latency',
            'latency_store',
            'read_latency',
            'time_networks',
        ],
    },
)
